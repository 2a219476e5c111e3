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
) -> tuple[Pass | None, dict[str, list[Moment]]]:
    """A pass in inference mode in which every call of a shared layer has the population
    statistics of its own inputs, and the moments of these by path; no pass where nothing is
    shared.
    """
    own: dict[tuple[int, int], list[tuple[Any, Array]]] = {}
    inputs: dict[str, list[Moment]] = {}
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
                inputs.setdefault(t.path, []).append(whole)
    if not own:
        return None, {}
    return Pass(training.subject, x, training=False, instrument=PerCall(own)), inputs


def most_unlike(inputs: Sequence[Moment]) -> tuple[str, list[float]]:
    """What the inputs differ in most, "mean" or "deviation", with its values in the channel where
    they do: in units of the channel's deviation, the mean over the inputs.
    """
    means = np.stack([moment.mean.ravel() for moment in inputs])
    deviations = np.sqrt(np.stack([moment.variance.ravel() for moment in inputs]))
    scale = np.maximum(deviations.mean(axis=0), 1e-30)
    values = {"mean": means, "deviation": deviations}
    spread = {role: np.ptp(of, axis=0) / scale for role, of in values.items()}
    role = max(spread, key=lambda role: float(spread[role].max()))
    return role, [float(value) for value in values[role][:, int(spread[role].argmax())]]
