"""The noise of an entry point whose outputs are others than those of the model's call."""

from __future__ import annotations

from collections.abc import Collection

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    WHOLE,
    Entry,
    changeable_variables,
    first_rows,
    measured_noise,
    traced_entry,
)
from pytest_bnconsistency.data.arrays import Array, Nest
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.rounding_noise import Noise, NoiseLike


def noise_of(
    context: CheckContext, x: Nest, entry: Entry, row_by_row: Collection[int] = ()
) -> Noise:
    """What float noise does to the outputs of an entry point.

    That of inference is measured on the model. Where the model's own `predict_step` gives other
    outputs, it is measured on that step; where other code does, it is likened.
    """
    usual = measured_noise(context, x, row_by_row)
    if entry.observed is not None:
        return usual
    outputs = entry.run(WHOLE, x).outputs
    if _kinds(outputs) == _kinds(
        traced_entry(context, x, False, row_by_row).run(WHOLE, x).outputs
    ):
        return usual
    key = ("noise", entry.name)
    if key not in context.shared:
        context.shared[key] = _measured(context, x, outputs) or NoiseLike(usual, outputs)
    noise: Noise = context.shared[key]
    return noise


def _kinds(outputs: list[Array]) -> list[tuple[tuple[int, ...], str]]:
    return [(output.shape[1:], output.dtype.kind) for output in outputs]


def _measured(context: CheckContext, x: Nest, outputs: list[Array]) -> Noise | None:
    stepping = context.subject.by_step()
    if stepping is None:
        return None
    may_change = changeable_variables(context, x)
    seen = Pass(stepping, x, training=False, traced=False, written=may_change)
    try:
        pair = seen.run(first_rows(x, 2)).outputs
    except BNConsistencyError:
        return None
    return Noise(seen, x) if _kinds(pair) == _kinds(outputs) else None
