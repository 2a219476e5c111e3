"""Traces that the checks of one model share."""

from __future__ import annotations

from collections.abc import Collection

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.forward_pass import Pass, neutralised
from pytest_bnconsistency.measurement.injected_faults import InjectedFault

IN_BOTH_MODES = "training, both modes"
"""Under which name checks share a pass in training mode that compares the modes of layers."""


def observed(
    context: CheckContext, x: Nest, training: bool | None, row_by_row: Collection[int] = ()
) -> Pass:
    """A pass with every row's fingerprints, and a `InjectedFault` in its middle that does not leak
    yet.

    Layers that draw random numbers are neutralised; those `row_by_row`, by identity, get one row
    at a time.
    """
    key = ("observed", training, frozenset(row_by_row))
    if key not in context.shared:
        middle = len(context.subject.layers()) // 2
        context.shared[key] = neutralised(
            context.subject,
            x,
            training=training,
            instrument=lambda: InjectedFault(middle),
            row_by_row=row_by_row,
        )
    traced: Pass = context.shared[key]
    return traced
