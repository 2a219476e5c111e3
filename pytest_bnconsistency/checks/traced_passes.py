"""Traces that the checks of one model share."""

from __future__ import annotations

from collections.abc import Collection

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.execution.forward_pass import Pass, neutralised
from pytest_bnconsistency.measurement.injected_faults import InjectedFault

TRAINING, IN_BOTH_MODES = "training", "training, both modes"
"""Under which names checks share passes in training mode: one that sees the moments of batches,
and one that compares the modes of layers.
"""


def observed(
    context: CheckContext, training: bool | None, row_by_row: Collection[int] = ()
) -> Pass:
    """A pass on the sample with every row's fingerprints, and an `InjectedFault` at rest inside.

    Layers that draw random numbers are neutralised; those `row_by_row`, by identity, get one row
    at a time.
    """
    middle = len(context.subject.layers()) // 2

    def traced() -> Pass:
        return neutralised(
            context.subject,
            context.sample(),
            training=training,
            instrument=lambda: InjectedFault(middle),
            row_by_row=row_by_row,
        )

    return context.once(("observed", training, frozenset(row_by_row)), traced)
