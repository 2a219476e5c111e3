"""Stored statistics to which something was done after they were taken: it is undone again."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.cause import HALF, Cause
from pytest_bnconsistency.diagnosis.measured import Measured
from pytest_bnconsistency.diagnosis.misplaced import REMEDY, misplaced
from pytest_bnconsistency.diagnosis.sides import gap


def exchanged(m: Measured) -> Iterator[Cause]:
    """Exchange vectors that stand in each other's place: does the gap close?"""
    found = misplaced(m.tracked, m.moving, m.reference)
    if found is None:
        return
    before = gap(m.stored, m.population, m.data).outputs
    after = gap(m.under(found.exchanged), m.population, m.data).outputs
    yield Cause(
        rules.MISPLACED,
        found.cause,
        f"{REMEDY}; or recalibrate(model, x)",
        f"{found.tested}; evaluation is then {after:.2g} from that under population statistics, "
        f"as stored {before:.2g}",
        1 - found.after / found.before if after < HALF * before else 0.0,
    )
