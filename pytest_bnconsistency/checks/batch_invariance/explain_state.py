"""Rows that meet in state alone, which inference should not write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_bnconsistency.checks.batch_invariance import localise
from pytest_bnconsistency.checks.batch_invariance.localise import Origin
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.variable_writers import writers_of
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.words import listed


def by_state(
    seen: Pass,
    x: Nest,
    variant: BatchVariant,
    moved: Sequence[Any],
    origin: Origin,
    tries: Tries,
) -> Explanation | None:
    """The cause, if rows meet in state alone: one row moves it, and the others read it.

    `moved` are the variables that inference on `x` writes to.
    """
    if not moved or not tries.may("the writes to state left out"):
        return None
    with writers_of(moved, let=False) as writers:
        forced = localise.intervened(seen, x)
    if not localise.independent(forced, x, variant):
        return None
    found = dict.fromkeys(writer.label for each in writers.values() for writer in each)
    return Explanation(
        cause=f"inference writes state, which the rows read {origin.where}: {listed(found)}",
        tested="with these writes left out, every kept row has the same bits in every layer and "
        "output",
        remedy="write state only `if training`; keep nothing from one call to the next",
        established=True,
    )
