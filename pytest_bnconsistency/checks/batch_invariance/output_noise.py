"""The noise of an entry point whose outputs are others than those of the model's call."""

from __future__ import annotations

from collections.abc import Collection

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    WHOLE,
    Entry,
    changeable_variables,
    measured_noise,
    traced_entry,
)
from pytest_bnconsistency.data.arrays import Array, take_rows
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.rounding_noise import Noise, NoiseLike


def noise_of(context: CheckContext, entry: Entry, row_by_row: Collection[int] = ()) -> Noise:
    """What float noise does to the outputs of an entry point.

    That of inference is measured on the model. Where the model's own `predict_step` gives other
    outputs, it is measured on that step; where other code does, it is likened.
    """
    x, usual = context.sample(), measured_noise(context, row_by_row)
    if entry.observed is not None:
        return usual
    outputs = entry.run(WHOLE, x).outputs
    if _kinds(outputs) == _kinds(traced_entry(context, False, row_by_row).run(WHOLE, x).outputs):
        return usual

    def of_its_own() -> Noise:
        return _measured(context, outputs) or NoiseLike(usual, outputs)

    return context.once(("noise", entry.name, frozenset(row_by_row)), of_its_own)


def _kinds(outputs: list[Array]) -> list[tuple[tuple[int, ...], str]]:
    return [(output.shape[1:], output.dtype.kind) for output in outputs]


def _measured(context: CheckContext, outputs: list[Array]) -> Noise | None:
    x, stepping = context.sample(), context.subject.by_step()
    if stepping is None:
        return None
    may_change = changeable_variables(context)
    seen = Pass(stepping, x, training=False, traced=False, written=may_change)
    try:
        pair = seen.run(take_rows(x, slice(2))).outputs
    except BNConsistencyError:
        return None
    return Noise(seen, x) if _kinds(pair) == _kinds(outputs) else None
