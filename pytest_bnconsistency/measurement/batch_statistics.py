"""What each batch moves the tracked variables towards.

The batch statistic is read off the update: from a variable at zero, v <- a v + (1 - a) s leaves
(1 - a) s. So whatever a layer computes (masked, reduced over other axes, home-made) is taken as
the layer computes it. Where that is a moment of the input, the moment is taken from the input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.logits import joined
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import Variables
from pytest_bnconsistency.measurement.input_moments import recorded_moments
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.measurement.tracked_variables import Tracked


@dataclass(frozen=True)
class BatchStatistics:
    """What one batch of `rows` rows gave.

    `moments` holds for each tracked variable the moments of its layer's calls, `values` what the
    calls together move it towards (float64), `outputs` what the model says of each row in
    training mode.
    """

    rows: int
    moments: tuple[tuple[Moment, ...], ...]
    values: tuple[Array, ...]
    outputs: list[Array]


def batch_statistics(
    training: Pass, tracked: Sequence[Tracked], batches: Iterable[Data]
) -> Iterator[BatchStatistics]:
    """Run each batch in training mode and read the statistics that it would have moved towards."""
    by_update = _read_off(training, tracked)
    for batch in batches:
        after, records, outputs = run_from(
            training, batch.x, [t.variable for t in by_update], [t.begun for t in by_update]
        )
        read_off = {
            id(t.variable): (v - t.retention * t.begun) / (1 - t.retention)
            for t, v in zip(by_update, after, strict=True)
        }
        moments = []
        values = []
        for t in tracked:
            recorded = recorded_moments(t, records)
            own = recorded or (_from_update(t, read_off, batch.rows),)
            moments.append(own)
            values.append(t.moved_towards(own) if recorded else read_off[id(t.variable)])
        said = training.of_rows(batch.x, outputs)
        yield BatchStatistics(batch.rows, tuple(moments), tuple(values), said)


def mean_values(seen: Sequence[BatchStatistics]) -> list[Array]:
    """What averages over these batches come to, for each tracked variable."""
    every = zip(*(batch.values for batch in seen), strict=True)
    return [np.asarray(np.mean(values, axis=0)) for values in every]


def said_in(seen: Sequence[BatchStatistics]) -> list[Array]:
    """What the model said of the rows of these batches, one after the other."""
    leaves = zip(*(batch.outputs for batch in seen), strict=True)
    return [joined(list(leaf)) for leaf in leaves]


def _read_off(training: Pass, tracked: Sequence[Tracked]) -> list[Tracked]:
    """Those of layers that record no moments, and those on whose values hangs what training says.

    The others are left as they are: to set them before each batch costs more than a small model.
    """
    if not training.is_traced:  # the next run may record nothing
        return list(tracked)
    layers = {id(t.layer) for t in tracked if not t.places or not isinstance(t.begun, float)}
    return [t for t in tracked if id(t.layer) in layers]


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


def _from_update(t: Tracked, read_off: Mapping[int, Array], rows: int) -> Moment:
    """The moments of a batch as far as the updates tell them."""
    value = read_off[id(t.variable)]
    if t.role in ("mean", "other"):
        return Moment(rows, value, np.zeros_like(value))
    if t.role == "root":
        return Moment(rows, np.zeros_like(value), value**2)
    mean = read_off[id(t.partner.variable)] if t.partner is not None else np.zeros_like(value)
    return Moment(rows, mean, value**2 if t.role == "deviation" else value)
