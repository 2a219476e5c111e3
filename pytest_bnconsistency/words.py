"""Numbers and lists as in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable


def listed(items: Iterable[object], last: str = "and") -> str:
    """Words as in a sentence: `a, b and c`."""
    words = [str(item) for item in items]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(error: Exception) -> str:
    """The first line that says something: Keras puts its own before it, in bold."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    said = [line for line in map(str.strip, lines) if line]
    own = [line for line in said if not line.startswith("Exception encountered when")]
    return next(iter(own or said), type(error).__name__)
