"""Where the baseline of a model lies."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from pytest_bnconsistency.context import door
from pytest_bnconsistency.errors import BaselineError
from pytest_bnconsistency.settings import Settings

LONGEST = 200
"""Characters of a name that are put into that of its file: file systems take 255."""


@dataclass(frozen=True)
class Place:
    """The file of the baseline of `model`; `shown` is its path as texts name it."""

    model: str
    path: Path
    shown: str


def place_of(settings: Settings) -> Place:
    """The place by the name that is given, or else by that of the test or the model.

    Raises:
        BaselineError: there is neither.
    """
    around = door.get().baselines
    model = settings.baseline_name or around.title
    if not model:
        raise BaselineError(
            "the baseline has no name; expected one where no test gives it: "
            "assert_baseline(model, 'resnet50')"
        )
    path = Path(settings.baseline_dir, f"{file_name(model)}.json")
    return Place(model, Path(around.folder, path), path.as_posix())


def file_name(model: str) -> str:
    """`model`, a name, a test or a function, as the name of a file on any system."""
    plain = re.sub(r"\.py(?=:|$)", "", model)
    plain = re.sub(r"::|[:/\\]", ".", plain)
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", plain).strip("-.") or "model"
    if len(plain) <= LONGEST:
        return plain
    return f"{plain[:LONGEST]}-{zlib.crc32(model.encode()):08x}"
