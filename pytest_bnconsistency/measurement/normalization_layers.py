"""Which variables track statistics of their layer's input.

A normalization layer is found by what it does: a variable of its own that does not train moves, in
training mode, towards a statistic of the layer's input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, map_nest, rows_of, take_rows
from pytest_bnconsistency.errors import DataError, RefusedError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.observations import same_in_layers, same_outputs
from pytest_bnconsistency.execution.state import restored
from pytest_bnconsistency.measurement.batch_statistics import run_from
from pytest_bnconsistency.measurement.input_moments import moment_at, recorded_moments
from pytest_bnconsistency.measurement.isolated_layer import IsolatedLayer
from pytest_bnconsistency.measurement.monte_carlo_rounding import epsilon_of
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.measurement.tracked_variables import (
    ROLES,
    Role,
    Tracked,
    calls_by_layer,
    tracked_candidates,
)
from pytest_bnconsistency.models import Call, Part

FEW, TELLING = 2, 16
"""Rows that tell which variables track what, and elements that tell what a statistic is: of two,
the median is the mean, and the mean square of a number and a zero is their unbiased variance.
"""
UNEVEN = 0.01
"""What a variable forgets is one share: by this much of it elements and batches may differ."""
MANY = 2**20
"""Runs that a counter goes on by: an average of all runs alike keeps more after them."""
FAR = 2.0**20
"""So far from zero, other random numbers in each run move a statistic by nothing."""
ALIKE, ALIKE_IN_HALF = 0.01, 0.05
"""A statistic that is as near to a moment of the input, in units of its scale, is that moment."""
CLOSER = 0.5
"""What comes behind is what is tracked where it is so many times as near: what is centred has the
same variance as before.
"""


Owners = Mapping[int, tuple[Any, list[Call]]]
"""Variables by identity, with the calls of the layer that each belongs to."""


def find_tracked(training: Pass, x: Any) -> list[Tracked]:
    """The tracked variables of a pass, by behaviour: they forget a share of what they held.

    It is the same share in every element, so neither what only some rows update is one, nor what
    hangs on another variable; and for any number of rows, unless it is a moment of the input.

    Args:
        training: a pass in training mode.
        x: rows, of which the first few run, more of them where so few do not tell; all where the
            model takes no so few in training, as one that normalises parts of a batch.
    """
    try:
        found, elements = _found(training, take_rows(x, slice(FEW)))
    except RefusedError:
        if rows_of(x) <= FEW:
            raise
        return _found(training, x)[0]
    if rows_of(x) <= FEW or elements >= TELLING:
        return found
    return _found(training, take_rows(x, slice(TELLING)))[0]


def _found(training: Pass, x: Any) -> tuple[list[Tracked], float]:
    """The tracked variables, and the fewest elements that one was recognised by."""
    owners = _written_candidates(training)
    if not owners:
        return [], math.inf
    forgetting = _forgetting(training, x, [variable for variable, _ in owners.values()])
    undeclared = _undeclared(forgetting, owners)
    counters = _counters(training, x, forgetting) if undeclared else []
    cumulative = _cumulative(training, x, forgetting.variables(owners), undeclared, counters)
    every = _named_all(training, owners, forgetting, cumulative)
    if counters and not all(t.known for t in every):
        with _gone_on(counters):
            later = _forgetting(training, x, forgetting.variables(owners))
        every = _debiased(every, _named_all(training, owners, later, set()))
    recognised = [t for t in every if t.places or not t.cumulative]
    found = _recognisable(recognised, training.subject.model)
    moments = [m for t in found for m in recorded_moments(t, forgetting.records)]
    return found, min((m.count for m in moments), default=math.inf)


def _named_all(
    training: Pass, owners: Owners, forgetting: _Forgetting, cumulative: Collection[int]
) -> list[Tracked]:
    """The variables that forget, with what is known of each."""
    found = []
    for key, share in forgetting.kept.items():
        variable, calls = owners[key]
        layer = calls[0].layer
        retention, times = _declared(layer, len(calls), share) or (share, len(calls))
        t = Tracked(variable, layer, calls[0].path, "other", retention, times)
        records = [
            (i, forgetting.records[i]) for i, c in enumerate(training.calls) if c.layer is layer
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = forgetting.low[key] / (1 - retention)
        begun = t.stored if forgetting.tells else 0.0
        named = _named(t, statistic, records, _shape_given(calls[0]))
        found.append(dataclasses.replace(named, cumulative=key in cumulative, begun=begun))
    return found


def _debiased(every: Sequence[Tracked], later: Sequence[Tracked]) -> list[Tracked]:
    """With what is recognised only after many runs: an average that is divided by the share of
    its initial value that is gone, and then the average itself tells no more.
    """
    known = {id(t.variable) for t in every if t.known}
    divided = {id(t.variable): t for t in later if t.known and id(t.variable) not in known}
    sums = [(t.layer, t.role, t.places) for t in divided.values()]
    return [
        divided.get(id(t.variable), t)
        for t in every
        if id(t.variable) in divided or (t.layer, t.role, t.places) not in sums
    ]


def as_declared(training: Pass, x: Any) -> bool:
    """Whether `find_tracked` would say no more of a pass than its layers and calls do.

    Each such layer tells its momentum, and each of its calls writes once to each statistic.
    """
    writes = training.uses(x).writes
    return all(
        isinstance(getattr(calls[0].layer, "momentum", None), (int, float))
        and writes.get(key) == len(calls)
        for key, (_, calls) in _written_candidates(training).items()
    )


def _recognisable(found: list[Tracked], model: Any) -> list[Tracked]:
    # What a black box, or a model, normalises inside is no input of its own.
    known = {
        id(t.layer) for t in found if t.known or isinstance(t.layer, Part) or t.layer is model
    }
    return [_with_partner(t, found) for t in found if id(t.layer) in known]


def _written_candidates(training: Pass) -> Owners:
    """What may be tracked, by identity, with the calls of its layer."""
    written = {id(variable) for variable in training.written}
    return {
        id(variable): (variable, calls)
        for calls in calls_by_layer(training).values()
        for variable in tracked_candidates(training.subject, calls[0].layer)
        if id(variable) in written
    }


def _shape_given(call: Call) -> list[int | None] | None:
    """The shape of what a call is given first, where a trace tells it."""
    given = call.args[0] if call.args else None
    if not isinstance(given, tf.Tensor) or given.shape.rank is None:
        return None
    return list(given.shape.as_list())


def _named(
    t: Tracked,
    statistic: Array,
    records: Sequence[tuple[int, list[Array] | None]],
    shape: Sequence[int | None] | None,
) -> Tracked:
    """With its role and where its moment is recorded; a guess where it is not recognised."""
    role, places = _recognised(t, statistic, records, shape)
    guess: Role = "mean" if (statistic < 0).any() else "other"
    return dataclasses.replace(t, role=role or guess, places=places, known=role is not None)


def _counters(training: Pass, x: Any, forgetting: _Forgetting) -> list[tuple[Any, Any]]:
    """What counts the runs, with its value after one."""
    run = training.run(x)
    moved = [v for v in run.moved if not v.shape.rank and id(v) not in forgetting.kept]
    return [(v, run.after[id(v)]) for v in moved]


@contextlib.contextmanager
def _gone_on(counters: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Within it, what counts the runs has gone on by `MANY`."""
    with restored([v for v, _ in counters]):
        for v, after in counters:
            v.assign(v + MANY * (after - v))
        yield


def _undeclared(forgetting: _Forgetting, owners: Owners) -> dict[int, float]:
    """The shares that variables keep, by identity, of those whose layers do not tell them."""
    return {
        key: share
        for key, share in forgetting.kept.items()
        if _declared(owners[key][1][0].layer, len(owners[key][1]), share) is None
    }


def _cumulative(
    training: Pass,
    x: Any,
    variables: Sequence[Any],
    shares: Mapping[int, float],
    counters: Sequence[tuple[Any, Any]],
) -> set[int]:
    """The variables, by identity, that keep another of these shares with twice as many rows, or
    once what counts the runs has gone on.
    """
    if not shares:
        return set()
    twice = map_nest(lambda leaf: np.concatenate([leaf, leaf]), x)
    others = []
    with contextlib.suppress(DataError):  # it takes no other number of rows
        others.append(_forgetting(training, twice, variables).kept)
    if counters:
        with _gone_on(counters):
            others.append(_forgetting(training, x, variables).kept)
    return {
        key
        for key, share in shares.items()
        if not all(abs(kept.get(key, 1.0) - share) <= UNEVEN * abs(1 - share) for kept in others)
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

    def variables(self, owners: Owners) -> list[Any]:
        return [owners[key][0] for key in self.kept]


def _forgetting(training: Pass, x: Any, variables: Sequence[Any]) -> _Forgetting:
    """Run from 0 and from 1; or from `FAR`, where runs draw random numbers that hide the shares.

    All other variables stay as they are: at first frozen weights and counters, on which the rest
    may hang, then what keeps not the same share everywhere.
    """
    end = 1.0
    while True:
        zero, records, outputs = run_from(training, x, variables, 0.0)
        one, other_records, others = run_from(training, x, variables, end)
        runs = [
            (v, low / end, high / end) for v, low, high in zip(variables, zero, one, strict=True)
        ]
        with np.errstate(invalid="ignore"):  # Inf stays Inf
            kept = {id(v): float(np.median(high - low)) for v, low, high in runs}
        left = [v for v in variables if abs(1 - kept[id(v)]) > 1e-6]
        if len(left) == len(variables):
            left = [v for v, low, high in runs if is_even(v, low, high)]
            if len(left) < len(variables) and training.draws and end < FAR:
                end = FAR
                continue
        if len(left) == len(variables):
            same = same_outputs(outputs, others) and same_in_layers(records, other_records)
            low = dict(zip(map(id, variables), zero, strict=True))
            return _Forgetting(low, kept, records, tells=not same)
        variables = left


def is_even(variable: Any, low: Array, high: Array) -> bool:
    """Whether all elements keep the same share, by their values after runs from 0 and from the
    other end, as shares of that end.
    """
    kept = high - low
    round_off = 8 * epsilon_of(variable.dtype, low, high) * np.abs([low, high]).max(initial=1.0)
    return bool(np.ptp(kept) <= UNEVEN * abs(1 - float(np.median(kept))) + round_off)


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
    t: Tracked,
    statistic: Array,
    records: Sequence[tuple[int, list[Array] | None]],
    shape: Sequence[int | None] | None,
) -> tuple[Role | None, tuple[tuple[int, int], ...]]:
    """Which moment of the layer's input the statistic is, if any, and where it is recorded.

    A variance may carry N/(N-1).
    """
    half = t.variable.dtype.size < 4
    best: tuple[float, Role, tuple[tuple[int, int], ...]]
    best = (ALIKE_IN_HALF if half else ALIKE, "other", ())
    known = [record for _, record in records if record is not None]
    complete = len(known) == len(records) == t.calls
    for place in range(min(map(len, known)) // 3 if complete else 0):
        moments = _moments_at(place, known, statistic)
        if moments is None:
            continue
        error, role = min(_errors(t, statistic, moments), key=itemgetter(0))
        if error < best[0] * (CLOSER if best[2] else 1):
            best = error, role, tuple((index, place) for index, _ in records)
    if best[2]:
        return best[1], best[2]
    return _role_by_isolated_layer(t, shape), ()


def _moments_at(
    place: int, records: Sequence[list[Array]], statistic: Array
) -> list[Moment] | None:
    """The moments of each call, in the statistic's shape; None where they have another size."""
    if any(record[3 * place + 1].size != statistic.size for record in records):
        return None
    return [moment_at(place, record, statistic.shape) for record in records]


def _errors(
    t: Tracked, statistic: Array, moments: Sequence[Moment]
) -> Iterator[tuple[float, Role]]:
    """How far the statistic is from each moment of the input, in its own size, and its role."""
    unbiased = [
        Moment(m.count, m.mean, m.variance * (m.count / max(m.count - 1, 1))) for m in moments
    ]
    for role in ROLES:
        as_role = dataclasses.replace(t, role=role)
        for given in (moments, unbiased) if role == "variance" else (moments,):
            scale = np.mean([m.variance + m.mean**2 for m in given], axis=0)
            scale = scale if role in ("variance", "square") else np.sqrt(scale)
            deviation = np.abs(statistic - as_role.moved_towards(given))
            off = float(np.mean(deviation / np.maximum(scale, 1e-30)))
            error = off if scale.any() else 1.0
            yield error, role


def _role_by_isolated_layer(t: Tracked, shape: Sequence[int | None] | None) -> Role | None:
    """Which moment of known numbers the layer tracks, run by itself: in a wrapper or a loop its
    own input can't be recorded.
    """
    isolated = IsolatedLayer(t.layer, [t.variable], shape)
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
