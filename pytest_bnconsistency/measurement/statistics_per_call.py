"""Inference with statistics for each call of a layer, where the layer has one set for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.models import Call


class PerCall(Instrument):
    """Runs the calls of layers again in inference mode, each under statistics of its own.

    Args:
        own: for a layer (by identity) and the number of its call, the variables and what they
            are to hold.
    """

    def __init__(self, own: dict[tuple[int, int], list[tuple[Any, Array]]]) -> None:
        self._own = own

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        own = self._own.get((id(call.layer), call.number))
        if own is None:
            return outputs, None
        before = [variable.read_value() for variable, _ in own]
        for variable, value in own:
            variable.assign(value.astype(variable.dtype.as_numpy_dtype))
        outputs = replay(False)
        for (variable, _), value in zip(own, before, strict=True):
            variable.assign(value)
        return outputs, None


def per_call(
    training: Pass, tracked: Sequence[Tracked], seen: Sequence[BatchStatistics], x: Any
) -> tuple[Pass | None, dict[str, list[Array]]]:
    """A pass in inference mode in which every call of a shared layer has the population
    statistics of its own inputs, and the means of these by path; no pass where nothing is shared.
    """
    own: dict[tuple[int, int], list[tuple[Any, Array]]] = {}
    means: dict[str, list[Array]] = {}
    for i, t in enumerate(tracked):
        if len(t.places) < 2:
            continue
        for position, (index, _) in enumerate(t.places):
            whole = seen[0].moments[i][position]
            for batch in seen[1:]:
                whole = whole.joined(batch.moments[i][position])
            call = training.calls[index]
            value = np.asarray(t.value(whole))
            own.setdefault((id(t.layer), call.number), []).append((t.variable, value))
            if t.role == "mean":
                means.setdefault(t.path, []).append(_typical(whole))
    if not own:
        return None, {}
    return Pass(training.subject, x, training=False, instrument=PerCall(own)), means


def _typical(moment: Moment) -> Array:
    """The mean of the channel whose mean is largest."""
    return np.asarray(moment.mean.ravel()[np.abs(moment.mean).argmax()])
