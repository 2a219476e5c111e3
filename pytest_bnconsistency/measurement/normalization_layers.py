"""Which variables track statistics of their layer's input, and what a batch moves them towards.

A normalization layer is found by what it does: a variable of its own that does not train moves, in
training mode, towards a statistic of the layer's input. The batch statistic itself is read off the
update: from a variable at zero, v <- a v + (1 - a) s leaves (1 - a) s. So whatever a layer
computes (masked, reduced over other axes, home-made) is taken as the layer computes it. Where that
is a moment of the input, the moment is taken from the input itself, in float64, free of the
round-off of the layer's own arithmetic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, map_nest
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.forward_pass import Pass, neutralised
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.execution.observations import same_in_layers, same_outputs
from pytest_bnconsistency.execution.state import Variables
from pytest_bnconsistency.measurement.isolated_layer import IsolatedLayer
from pytest_bnconsistency.measurement.monte_carlo_rounding import epsilon_of
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.models import Call, Part, Subject

Role = Literal["mean", "variance", "square", "root", "deviation", "other"]
ROLES: tuple[Role, ...] = ("mean", "variance", "square", "root", "deviation")
"""The moments of its input that a variable may track."""

FEW = 2
"""Rows that tell which variables track what: which they are does not depend on how many."""
SMALL = 2**14
"""Inputs of at most so many elements a row have their moments taken in float64. In larger ones
round-off averages out, and another pass over them would cost as much as the layer itself."""
UNEVEN = 0.01
"""What a variable forgets is one share: by this much of it elements and batches may differ."""
ALIKE, ALIKE_IN_HALF = 0.01, 0.05
"""A statistic that is as near to a moment of the input, in units of its scale, is that moment."""


@dataclass(frozen=True, eq=False)
class Tracked:
    """A variable that moves towards a statistic of its layer's input.

    `retention` is the share of the old value that a run keeps (the momentum, to the power of the
    layer's calls). `partner` is the mean that belongs to a variance. `places` says where a run's
    records hold the moments of the input, for each call: the index of the call and of the moment
    in its record; there are none where the moments are not known. `known` says that the role was
    recognised, and not guessed by its sign or by what stands beside it, `cumulative` that the
    share depends on the number of rows: then the moments are known. `begun` is the value that runs
    begin with, where what training says hangs on the stored values (renormalisation); else it is
    0, which has no round-off.
    """

    variable: Any
    layer: Any
    path: str
    role: Role
    retention: float
    calls: int
    partner: Tracked | None = None
    places: tuple[tuple[int, int], ...] = ()
    known: bool = False
    cumulative: bool = False
    begun: Array | float = 0.0

    @property
    def momentum(self) -> float:
        if self.calls == 1:
            return self.retention
        return float(max(self.retention, 0.0) ** (1 / self.calls))

    @property
    def stored(self) -> Array:
        """What it holds now (float64)."""
        return np.asarray(self.variable.numpy(), np.float64)

    def value(self, moment: Moment) -> Array:
        """The statistic of its role that has these moments."""
        return statistic(self.role, moment)


def statistic(role: Role, moment: Moment) -> Array:
    """The statistic of a role that has these moments; of no known role, the mean."""
    if role == "variance":
        return moment.variance
    if role == "square":
        return np.asarray(moment.variance + moment.mean**2)
    if role == "root":
        return np.asarray(np.sqrt(moment.variance + moment.mean**2))
    if role == "deviation":
        return np.asarray(np.sqrt(moment.variance))
    return moment.mean


@dataclass(frozen=True)
class BatchStatistics:
    """What one batch of `rows` rows gave.

    `moments` holds for each tracked variable the moments of its layer's calls, `values` what the
    calls together move it towards (float64), `outputs` the model's outputs in training mode.
    """

    rows: int
    moments: tuple[tuple[Moment, ...], ...]
    values: tuple[Array, ...]
    outputs: list[Array]


class Moments(Instrument):
    """Records the input's moments, for layers with variables of their own that don't train.

    For each float input and each axis as long as such a variable: the number of elements, then
    mean and variance over the other axes (float64); with a mask, once more for what it keeps.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        tracked = tracked_candidates(self._subject, call.layer) if call.is_layer else []
        given = call.args[0] if call.args else None
        if not tracked or not isinstance(given, tf.Tensor) or not given.dtype.is_floating:
            return outputs, None
        elements = given.shape[1:].num_elements()
        if elements is None or elements > SMALL:
            return outputs, None
        mask = call.kwargs.get("mask")
        mask = getattr(given, "_keras_mask", None) if mask is None else mask
        return outputs, _moments(given, tracked, mask) or None


def _moments(given: Any, tracked: Sequence[Any], mask: Any) -> list[Any]:
    """The moments of an input along each axis as long as one of the variables."""
    rank, lengths = given.shape.rank, {v.shape.num_elements() for v in tracked}
    axes = [axis for axis in reversed(range(rank)) if given.shape[axis] in lengths]
    given = tf.cast(given, tf.float64)
    record = []
    for axis in [*axes, *([rank] if 1 in lengths else [])]:
        others = [a for a in range(rank) if a != axis]
        count = tf.reduce_prod(tf.gather(tf.shape(given), others))
        record += [tf.cast(count, tf.float64), *tf.nn.moments(given, others)]
        if isinstance(mask, tf.Tensor) and (mask.shape.rank or rank + 1) <= axis:
            ones = [1] * (rank - mask.shape.rank)
            kept = tf.cast(tf.reshape(mask, [*tf.unstack(tf.shape(mask)), *ones]), tf.float64)
            kept = tf.broadcast_to(kept, tf.shape(given))
            count = tf.reduce_max(tf.reduce_sum(kept, others))
            record += [count, *tf.nn.weighted_moments(given, others, kept)]
    return record


def place_of(record: list[Array] | None, length: int) -> int | None:
    """Which of the moments in a record are along an axis of that length; the first, if several."""
    means = (record or [])[1::3]
    return next((place for place, mean in enumerate(means) if mean.size == length), None)


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


def training_pass(subject: Subject, x: Any, after: Pass | None = None) -> Pass:
    """A pass in training mode with every stochastic layer neutralised: no dropout, no noise."""
    return neutralised(subject, x, training=True, instrument=lambda: Moments(subject), after=after)


def find(training: Pass, x: Any) -> list[Tracked]:
    """The tracked variables of a pass, by behaviour: they forget a share of what they held.

    It is the same share in every element, so neither what only some rows update is one, nor what
    hangs on another variable; and for any number of rows, unless it is a moment of the input.
    """
    x = map_nest(lambda leaf: leaf[:FEW], x)
    owners = _written_candidates(training)
    if not owners:
        return []
    forgetting = _forgetting(training, x, [variable for variable, _ in owners.values()])
    low, records, kept = forgetting.low, forgetting.records, forgetting.kept
    declared = {
        key: _declared(owners[key][1][0].layer, len(owners[key][1]), share)
        for key, share in kept.items()
    }
    variables = [owners[key][0] for key in kept]
    open_shares = {key: share for key, share in kept.items() if declared[key] is None}
    cumulative = _cumulative(training, x, variables, open_shares)

    def tracked(key: int, share: float) -> Tracked:
        variable, calls = owners[key]
        retention, times = declared[key] or (share, len(calls))
        t = Tracked(variable, calls[0].layer, calls[0].path, "other", retention, times)
        given = [(i, records[i]) for i, c in enumerate(training.calls) if c.layer is t.layer]
        named = _named(t, low[key] / (1 - retention), given)
        begun = t.stored if forgetting.tells else 0.0
        return dataclasses.replace(named, cumulative=key in cumulative, begun=begun)

    every = [tracked(key, share) for key, share in kept.items()]
    return _recognisable([t for t in every if t.places or not t.cumulative])


def as_declared(training: Pass, x: Any) -> bool:
    """Whether `find` would tell no more of what moves in a pass than its layers and calls do.

    Each such layer tells its momentum, and each of its calls writes once to each statistic.
    """
    writes = training.uses(x).writes
    return all(
        isinstance(getattr(calls[0].layer, "momentum", None), (int, float))
        and writes.get(key) == len(calls)
        for key, (_, calls) in _written_candidates(training).items()
    )


def _recognisable(found: list[Tracked]) -> list[Tracked]:
    # What a black box normalises inside is no input of its own.
    known = {id(t.layer) for t in found if t.known or isinstance(t.layer, Part)}
    return [_with_partner(t, found) for t in found if id(t.layer) in known]


def _written_candidates(training: Pass) -> dict[int, tuple[Any, list[Call]]]:
    """What may be tracked, by identity, with the calls of its layer."""
    written = {id(variable) for variable in training.written}
    return {
        id(variable): (variable, calls)
        for calls in calls_by_layer(training).values()
        for variable in tracked_candidates(training.subject, calls[0].layer)
        if id(variable) in written
    }


def _named(
    t: Tracked, statistic: Array, given: Sequence[tuple[int, list[Array] | None]]
) -> Tracked:
    """With its role and where its moment is recorded; a guess where it is not recognised."""
    role, places = _recognised(t, statistic, given)
    guess: Role = "mean" if (statistic < 0).any() else "other"
    return dataclasses.replace(t, role=role or guess, places=places, known=role is not None)


def _cumulative(
    training: Pass, x: Any, variables: Sequence[Any], shares: Mapping[int, float]
) -> set[int]:
    """The variables, by identity, that keep another of these shares with twice as many rows."""
    if not shares:
        return set()
    twice = map_nest(lambda leaf: np.concatenate([leaf, leaf]), x)
    try:
        again = _forgetting(training, twice, variables).kept
    except DataError:  # it takes no other number of rows
        return set()
    return {
        key
        for key, share in shares.items()
        if not abs(again.get(key, 1.0) - share) <= UNEVEN * abs(1 - share)
    }


@dataclass(frozen=True)
class _Forgetting:
    """The variables, by identity, that forget: their values after a run from 0 (`low`), and the
    share that they keep; the records of that run, and whether what training `tells` hangs on what
    they hold.
    """

    low: dict[int, Array]
    kept: dict[int, float]
    records: list[list[Array] | None]
    tells: bool


def _forgetting(training: Pass, x: Any, variables: Sequence[Any]) -> _Forgetting:
    """Run from 0 and from 1.

    All other variables stay as they are: at first frozen weights and counters, on which the rest
    may hang, then what keeps not the same share everywhere.
    """
    while True:
        zero, records, outputs = run_from(training, x, variables, 0.0)
        one, other_records, others = run_from(training, x, variables, 1.0)
        runs = list(zip(variables, zero, one, strict=True))
        kept = {id(v): float(np.median(high - low)) for v, low, high in runs}
        left = [v for v in variables if abs(1 - kept[id(v)]) > 1e-6]
        if len(left) == len(variables):
            left = [v for v, low, high in runs if _is_even(v, low, high)]
        if len(left) == len(variables):
            same = same_outputs(outputs, others) and same_in_layers(records, other_records)
            return _Forgetting({id(v): low for v, low, _ in runs}, kept, records, tells=not same)
        variables = left


def _is_even(variable: Any, low: Array, high: Array) -> bool:
    """Whether all elements keep the same share, by their values after runs from 0 and from 1."""
    kept = high - low
    round_off = 8 * epsilon_of(variable.dtype, low, high) * np.abs([low, high]).max(initial=1.0)
    return bool(np.ptp(kept) <= UNEVEN * abs(1 - float(np.median(kept))) + round_off)


def calls_by_layer(training: Pass) -> dict[int, list[Call]]:
    """The calls of each layer, by its identity; one that another runs without a call has its."""
    by_layer: dict[int, list[Call]] = {}
    for call in [*training.calls, *training.inner_calls]:
        by_layer.setdefault(id(call.layer), []).append(call)
    for call in training.calls:
        # A wrapper may run the layer inside without calling it.
        for inside in training.subject.sublayers(call.layer) if call.is_layer else ():
            path = f"{call.path}/{inside.name}"
            by_layer.setdefault(
                id(inside), [dataclasses.replace(call, layer=inside, path=path, number=0)]
            )
    return by_layer


def batch_statistics(
    training: Pass, tracked: Sequence[Tracked], batches: Iterable[Data]
) -> Iterator[BatchStatistics]:
    """Run each batch in training mode and read the statistics that it would have moved towards."""
    variables, begun = [t.variable for t in tracked], [t.begun for t in tracked]
    for batch in batches:
        after, records, outputs = run_from(training, batch.x, variables, begun)
        read_off = {
            id(t.variable): (v - t.retention * t.begun) / (1 - t.retention)
            for t, v in zip(tracked, after, strict=True)
        }
        moments = []
        values = []
        for t in tracked:
            recorded = _recorded(t, records)
            own = recorded or (_from_update(t, read_off, batch.rows),)
            moments.append(own)
            values.append(_moved_towards(t, own) if recorded else read_off[id(t.variable)])
        yield BatchStatistics(batch.rows, tuple(moments), tuple(values), outputs)


def write(tracked: Sequence[Tracked], values: Sequence[Array]) -> None:
    """Put statistics into the model; variances stay above zero."""
    for t, value in zip(tracked, values, strict=True):
        bounded = np.maximum(value, 0.0) if t.role == "variance" else value
        t.variable.assign(bounded.astype(t.variable.dtype.as_numpy_dtype))


def run_from(
    training: Pass, x: Any, variables: Sequence[Any], start: float | Sequence[Array | float]
) -> tuple[list[Array], list[list[Array] | None], list[Array]]:
    """A run that began with `variables` at `start`, for all or each: their values after it
    (float64), the records and the outputs.
    """
    starts = [start] * len(variables) if isinstance(start, float) else start
    before = Variables(list(variables))
    try:
        for variable, value in zip(variables, starts, strict=True):
            variable.assign(tf.broadcast_to(tf.cast(value, variable.dtype), variable.shape))
        run = training.run(x)
        after = [
            np.asarray(run.after.get(id(v), np.full(v.shape, value)), np.float64)
            for v, value in zip(variables, starts, strict=True)
        ]
        return after, run.records, run.outputs
    finally:
        before.restore()


def _recorded(t: Tracked, records: list[list[Array] | None]) -> tuple[Moment, ...]:
    """The moments of the layer's calls in a run's records; none where they are not of all rows."""
    found = []
    for index, place in t.places:
        record = records[index]
        if record is None:
            return ()
        found.append(_moment_at(place, record, tuple(t.variable.shape)))
    return tuple(found)


def _moment_at(place: int, record: list[Array], shape: tuple[int, ...]) -> Moment:
    count, mean, variance = record[3 * place : 3 * place + 3]
    return Moment(float(count), mean.reshape(shape), variance.reshape(shape))


def _from_update(t: Tracked, read_off: Mapping[int, Array], rows: int) -> Moment:
    """The moments of a batch as far as the updates tell them."""
    value = read_off[id(t.variable)]
    if t.role in ("mean", "other"):
        return Moment(rows, value, np.zeros_like(value))
    if t.role == "root":
        return Moment(rows, np.zeros_like(value), value**2)
    mean = read_off[id(t.partner.variable)] if t.partner is not None else np.zeros_like(value)
    return Moment(rows, mean, value**2 if t.role == "deviation" else value)


def _moved_towards(t: Tracked, moments: Sequence[Moment]) -> Array:
    """What the calls together move a variable towards: each forgets a share of those before."""
    momentum, left = t.momentum, 1.0
    whole = np.zeros_like(moments[0].mean)
    for moment in reversed(moments):
        whole = whole + left * (1 - momentum) * t.value(moment)
        left *= momentum
    return np.asarray(whole / (1 - t.retention))


def _declared(layer: Any, calls: int, measured: float) -> tuple[float, int] | None:
    """The share that is kept by the layer's own momentum, and the updates that it takes.

    It has no round-off; None where it does not agree with the measured share. A layer in a loop is
    called once as far as can be seen, and may update for every timestep.
    """
    momentum = getattr(layer, "momentum", None)
    if not isinstance(momentum, (int, float)):
        return None
    if abs(momentum**calls - measured) < 1e-3:
        return float(momentum) ** calls, calls
    if 0 < momentum < 1 and 0 < measured < 1:
        times = round(math.log(measured) / math.log(momentum))
        if times > calls and abs(momentum**times - measured) < 1e-3:
            return float(momentum) ** times, times
    return None


def _recognised(
    t: Tracked, statistic: Array, records: Sequence[tuple[int, list[Array] | None]]
) -> tuple[Role | None, tuple[tuple[int, int], ...]]:
    """Which moment of the layer's input the statistic is, if any, and where it is recorded.

    A variance may carry N/(N-1).
    """
    half = t.variable.dtype.size < 4
    best: tuple[float, Role, tuple[tuple[int, int], ...]]
    best = (ALIKE_IN_HALF if half else ALIKE, "other", ())
    known = [record for _, record in records if record is not None]
    complete = len(known) == len(records) == t.calls
    for place in range(len(known[0]) // 3 if complete else 0):
        moments = _moments_at(place, known, statistic)
        for role, error in _errors(t, statistic, moments) if moments else ():
            if error < best[0]:
                best = error, role, tuple((index, place) for index, _ in records)
    if best[2]:
        return best[1], best[2]
    return _role_by_isolated_layer(t), ()


def _moments_at(
    place: int, records: Sequence[list[Array]], statistic: Array
) -> list[Moment] | None:
    """The moments of each call, in the statistic's shape; None where they have another size."""
    if any(record[3 * place + 1].size != statistic.size for record in records):
        return None
    return [_moment_at(place, record, statistic.shape) for record in records]


def _errors(
    t: Tracked, statistic: Array, moments: Sequence[Moment]
) -> Iterator[tuple[Role, float]]:
    """How far the statistic is from each moment of the input, in its own size."""
    unbiased = [
        Moment(m.count, m.mean, m.variance * (m.count / max(m.count - 1, 1))) for m in moments
    ]
    for role in ROLES:
        as_role = dataclasses.replace(t, role=role)
        for given in (moments, unbiased) if role == "variance" else (moments,):
            scale = np.mean([m.variance + m.mean**2 for m in given], axis=0)
            scale = scale if role in ("variance", "square") else np.sqrt(scale)
            deviation = np.abs(statistic - _moved_towards(as_role, given))
            off = float(np.mean(deviation / np.maximum(scale, 1e-30)))
            error = off if scale.any() else 1.0
            yield role, error


def _role_by_isolated_layer(t: Tracked) -> Role | None:
    """Which moment of known numbers the layer tracks, run by itself: in a wrapper or a loop its
    own input can't be recorded.
    """
    isolated = IsolatedLayer(t.layer, [t.variable])
    try:
        given = isolated.batch(mean=10)
        (after,) = isolated.trained(given, 0.0)
    except Exception:  # it can't run by itself
        return None
    reached = float(after.mean()) / (1 - t.momentum)
    if abs(reached - given.mean()) < 1:
        return "mean"
    return "variance" if abs(reached - given.var()) < 1 else None


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
    if tracked.role in ("mean", "square", "root") or partner is None:
        return tracked
    role: Role = "variance" if tracked.role == "other" else tracked.role
    return dataclasses.replace(tracked, role=role, partner=partner)
