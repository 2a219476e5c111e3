"""What is seen of rows that depend on their batch, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_bnconsistency.checks.batch_invariance.judged import Judged, names_of
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.words import listed


def symptom(
    failing: Sequence[Judged], sound: list[str], variant: BatchVariant, what: str
) -> tuple[str, float]:
    """The verdict in a sentence, and the largest change of an output."""
    moves = [found.moved for entry in failing for found in entry.differences]
    moved = max([m for m in moves if m and np.isfinite(m)], default=max(moves))
    how = (
        f"a row moves by {moved:.3g}"
        if moved and np.isfinite(moved)
        else "a row becomes NaN"
        if moved
        else "a row's hidden values move, though saturation hides it in the outputs,"
    )
    where = through(failing, sound)
    return f"{how} when {what} (batches of {variant.rows} rows), {where}", moved


def through(failing: Sequence[Judged], sound: list[str]) -> str:
    """Which entry points fail, and which hold."""
    but = f", not through {listed(sound, 'or')}" if sound else ""
    return f"through {listed(names_of(failing))}{but}"
