"""Population statistics of every normaliser, in one pass over the data.

A normaliser is found by what it does: a variable of its own that does not train moves, in
training mode, towards a statistic of the layer's input. The batch statistic itself is read off the
update: from a variable at zero, v <- a v + (1 - a) s leaves (1 - a) s. So whatever a layer
computes (masked, reduced over other axes, home-made) is taken as the layer computes it.

Sources: Ioffe and Szegedy 2015 (algorithm 2); Wu and Johnson 2021, "Rethinking 'Batch' in
BatchNorm" (PreciseBN); Chan, Golub and LeVeque 1983 for joining means and variances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, Data
from pytest_bnconsistency.probes.state import Variables
from pytest_bnconsistency.probes.taps import Instrument, Pass, Replay, neutralised
from pytest_bnconsistency.subjects import Call, Subject

Role = Literal["mean", "variance", "other"]


@dataclass(frozen=True, eq=False)
class Tracked:
    """A variable that moves towards a statistic of its layer's input.

    `retention` is the share of the old value that an update keeps (the momentum, to the power
    of the layer's calls). `partner` is the mean that belongs to a variance.
    """

    variable: Any
    layer: Any
    path: str
    role: Role
    retention: float
    calls: int
    partner: Tracked | None = None

    @property
    def momentum(self) -> float:
        return float(max(self.retention, 0.0) ** (1 / self.calls))


@dataclass(frozen=True)
class BatchStatistics:
    """What one batch of `rows` rows gave: a value for each tracked variable (float64), and the
    model's outputs in training mode.
    """

    rows: int
    values: tuple[Array, ...]
    outputs: list[Array]


class Moments(Instrument):
    """Records, for layers with variables of their own that don't train, the input's moments.

    For each float input and each axis: its length, then mean and variance over the other axes.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if not call.is_layer or not call.args or not tracked_candidates(self._subject, call.layer):
            return outputs, None
        given = call.args[0]
        if not isinstance(given, tf.Tensor) or not given.dtype.is_floating:
            return outputs, None
        lengths = {v.shape.num_elements() for v in tracked_candidates(self._subject, call.layer)}
        axes = range(given.shape.rank)
        record = []
        for axis in reversed(axes):
            if given.shape[axis] in lengths:
                others = [a for a in axes if a != axis]
                record.extend(tf.nn.moments(tf.cast(given, tf.float32), others))
        if 1 in lengths:
            record.extend(tf.nn.moments(tf.cast(given, tf.float32), list(axes)))
        return outputs, record


def tracked_candidates(subject: Subject, layer: Any) -> list[Any]:
    """Float variables of the layer's own that no optimizer trains."""
    return [
        variable
        for variable in subject.own_variables(layer)
        if variable.dtype.is_floating and not _trains(layer, variable)
    ]


def _trains(layer: Any, variable: Any) -> bool:
    """Whether the layer counts `variable` among the weights that train when it is not frozen."""
    if not getattr(variable, "trainable", True):
        return False
    kept = [*getattr(layer, "_non_trainable_variables", [])]
    kept += [*getattr(layer, "_non_trainable_weights", [])]
    return not any(getattr(v, "_value", v) is variable for v in kept)


def training_pass(subject: Subject, x: Any) -> Pass:
    """A pass in training mode with every stochastic layer neutralised: no dropout, no noise."""
    return neutralised(subject, x, training=True, instrument=lambda: Moments(subject))


def find(training: Pass, x: Any) -> list[Tracked]:
    """The tracked variables of a pass, by behaviour: they forget a share of what they held."""
    subject = training.subject
    run = training.run(x)
    recorded = {
        (id(call.layer), call.number): record
        for call, record in zip(training.calls, run.records, strict=True)
    }
    by_layer: dict[int, list[Call]] = {}
    for call in [*training.calls, *training.inner_calls]:
        by_layer.setdefault(id(call.layer), []).append(call)
    for call in training.calls:
        # A wrapper may run the layer inside without calling it.
        for inside in subject.sublayers(call.layer) if call.is_layer else ():
            path = f"{call.path}/{inside.name}"
            by_layer.setdefault(
                id(inside), [dataclasses.replace(call, layer=inside, path=path, number=0)]
            )
    candidates = [
        (variable, calls)
        for calls in by_layer.values()
        for variable in tracked_candidates(subject, calls[0].layer)
    ]
    variables = [variable for variable, _ in candidates]
    zero, one = (_run_from(training, x, variables, value)[0] for value in (0.0, 1.0))
    found: list[Tracked] = []
    for (variable, calls), low, high in zip(candidates, zero, one, strict=True):
        kept = float(np.median(high - low))
        if not abs(1 - kept) > 1e-6:
            continue  # a counter, or a sum: nothing is forgotten, so it tracks no statistic
        retention = _declared(calls[0].layer, len(calls), kept)
        last = calls[-1]
        role = _role(low / (1 - retention), recorded.get((id(last.layer), last.number)), calls)
        found.append(Tracked(variable, calls[0].layer, calls[0].path, role, retention, len(calls)))
    return [_with_partner(tracked, found) for tracked in found]


def batch_statistics(
    training: Pass, tracked: Sequence[Tracked], batches: Iterable[Data]
) -> list[BatchStatistics]:
    """Run each batch in training mode and read the statistics that it would have moved towards."""
    variables = [t.variable for t in tracked]
    seen = []
    for batch in batches:
        after, outputs = _run_from(training, batch.x, variables, 0.0)
        values = (v / (1 - t.retention) for t, v in zip(tracked, after, strict=True))
        seen.append(BatchStatistics(batch.rows, tuple(values), outputs))
    return seen


def population(tracked: Sequence[Tracked], batches: Sequence[BatchStatistics]) -> list[Array]:
    """The statistics of all batches together.

    A mean is the mean of the batch means, weighted by rows; a variance is the mean variance
    within the batches plus the variance between their means.
    """
    rows = np.array([batch.rows for batch in batches], float)
    share = rows / rows.sum()
    joined = [
        sum(w * batch.values[i] for w, batch in zip(share, batches, strict=True))
        for i in range(len(tracked))
    ]
    places = {id(t): i for i, t in enumerate(tracked)}
    means = [np.array(values) for values in joined]
    result = []
    for index, t in enumerate(tracked):
        value = means[index]
        if t.role == "variance" and t.partner is not None:
            mean = places[id(t.partner)]
            value = value + sum(
                w * (batch.values[mean] - means[mean]) ** 2
                for w, batch in zip(share, batches, strict=True)
            )
        result.append(value)
    return result


def spread(batches: Sequence[BatchStatistics]) -> list[Array]:
    """The standard deviation of each statistic from batch to batch; zero for a single one."""
    if not batches:
        return []
    if len(batches) == 1:
        return [np.zeros_like(value) for value in batches[0].values]
    return [
        np.std([batch.values[i] for batch in batches], axis=0, ddof=1)
        for i in range(len(batches[0].values))
    ]


def write(tracked: Sequence[Tracked], values: Sequence[Array]) -> None:
    """Put statistics into the model; variances stay above zero."""
    for t, value in zip(tracked, values, strict=True):
        bounded = np.maximum(value, 0.0) if t.role == "variance" else value
        t.variable.assign(bounded.astype(t.variable.dtype.as_numpy_dtype))


def _run_from(
    training: Pass, x: Any, variables: list[Any], start: float
) -> tuple[list[Array], list[Array]]:
    """The values of `variables` after a run that began with all at `start`, and its outputs."""
    before = Variables(variables)
    try:
        for variable in variables:
            variable.assign(tf.fill(variable.shape, tf.cast(start, variable.dtype)))
        run = training.run(x)
        after = [
            np.asarray(run.after.get(id(v), np.full(v.shape, start)), np.float64)
            for v in variables
        ]
        return after, run.outputs
    finally:
        before.restore()


def _declared(layer: Any, calls: int, measured: float) -> float:
    """The layer's own momentum where it agrees with the measured share: it has no round-off."""
    momentum = getattr(layer, "momentum", None)
    if isinstance(momentum, (int, float)) and abs(momentum**calls - measured) < 1e-3:
        return float(momentum) ** calls
    return measured


def _role(statistic: Array, record: list[Array] | None, calls: list[Call]) -> Role:
    """Which moment of the layer's input the statistic is, to within N/(N-1) and half precision.

    Where the input was not recorded, or is not alone (masks, several calls), the sign tells.
    """
    pairs = list(zip(record[::2], record[1::2], strict=True)) if record else []
    for mean, variance in pairs:
        if mean.size != statistic.size:
            continue
        mean, variance = mean.reshape(statistic.shape), variance.reshape(statistic.shape)
        scale = np.sqrt(variance + mean**2) + 1e-12
        if np.median(np.abs(statistic - mean) / scale) < (0.01 if len(calls) == 1 else 0.5):
            return "mean"
        if np.median(np.abs(statistic - variance) / (variance + 1e-12)) < 0.5:
            return "variance"
    return "mean" if (statistic < 0).any() else "other"


def _with_partner(tracked: Tracked, found: list[Tracked]) -> Tracked:
    """`tracked` with the mean that belongs to it; beside a mean, what is never negative is one."""
    partner = next(
        (
            t
            for t in found
            if t.layer is tracked.layer
            and t.role == "mean"
            and t.variable is not tracked.variable
            and t.variable.shape == tracked.variable.shape
        ),
        None,
    )
    if tracked.role == "mean" or partner is None:
        return tracked
    return dataclasses.replace(tracked, role="variance", partner=partner)
