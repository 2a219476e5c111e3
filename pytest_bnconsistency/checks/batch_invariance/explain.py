"""What it means that rows depend on their batch: one finding for each way in which they do."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bnconsistency.checks.batch_invariance.explain_other_rows import by_other_rows
from pytest_bnconsistency.checks.batch_invariance.explain_place_or_number import (
    by_number,
    by_place,
    without_batch_axis,
)
from pytest_bnconsistency.checks.batch_invariance.judged import Judged, names_of
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.results import Finding


def findings(subject: Subject, x: Nest, judged: Sequence[Judged]) -> list[Finding]:
    """Where, why, and what mends it."""
    sound = names_of([entry for entry in judged if entry.holds])
    found = []
    if cross_row := [entry for entry in judged if entry.crossing]:
        found.append(by_other_rows(subject, x, cross_row, sound))
    elif placed := [entry for entry in judged if entry.differences]:
        found.append(by_place(x, placed, sound))
    if losing := [entry for entry in judged if entry.shapes]:
        found.append(without_batch_axis(x, losing, sound))
    if sized := [entry for entry in judged if entry.sizes]:
        found.append(by_number(x, sized, sound))
    return found
