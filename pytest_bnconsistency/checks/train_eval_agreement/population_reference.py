"""Evaluation against the model under the population statistics of the given data."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement import sampling_error
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.sampling_error import Alternatives
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import (
    Excess,
    by_targets,
    excesses,
    proven,
    settled,
)

FEW_ROWS = 16
"""Fewer decide nothing by themselves: initial values that are surely in the statistics may, and
statistics that are their own."""


def compared(context: CheckContext, m: Measured, known: Estimated) -> list[Excess]:
    """By how much evaluation is worse; what chance does is measured where that is open."""

    def against(others: Alternatives) -> list[Excess]:
        return excesses(context, m.data, m.stored, m.population, others)

    found = against(sampling_error.NONE)
    return found if settled(found) else against(sampling_error.alternatives(context, m, known))


def surely_worse(m: Measured, found: Sequence[Excess]) -> Excess | None:
    """The largest excess, if it is harm and not chance."""
    sure = proven(found, by_targets=by_targets(m.data, m.population))
    if m.data.rows < FEW_ROWS and m.biased:
        sure = [excess for excess in found if excess.exceeds_tolerance]
    return max(sure, key=lambda excess: excess.amount, default=None)
