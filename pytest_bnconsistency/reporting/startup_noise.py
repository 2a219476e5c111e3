"""What TensorFlow writes to stderr as it starts, which says nothing of a test."""

from __future__ import annotations

import re

_INFO = r"(?:I\d{4} [\d:.]+ +\d+|\d{4}-\d\d-\d\d [\d:.]+: I) \S+\.cc:\d+\]"
_DEVICES = r".*(?:failed call to cuInit|Unable to register cu\w+ |already been registered)"
_LOGGING = "WARNING: All log messages before absl::InitializeLog"
_REBUILD = "To enable the following instructions: "
_NOISE = re.compile(f"{_INFO}|{_DEVICES}|{_LOGGING}|{_REBUILD}")


def without_noise(text: str) -> str:
    """`text` without the lines of a start-up; warnings and errors of a run stay."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not _NOISE.match(line))
