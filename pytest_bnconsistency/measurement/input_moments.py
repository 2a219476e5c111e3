"""The moments of what layers get in training mode, in float64, free of their own round-off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.forward_pass import Pass, neutralised
from pytest_bnconsistency.execution.graphs import (
    behind_writes,
    current_graph,
    operation_count,
    tensors_in,
)
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.measurement.tracked_variables import Tracked, tracked_candidates
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import is_of_library

SMALL = 2**14
"""Inputs of at most so many elements a row have their moments taken in float64. In larger ones
round-off averages out, and another pass over them would cost as much as the layer itself."""


MOST_INSIDE = 4
"""Batches inside a layer whose moments are taken, those that its statistics are computed from."""


class Moments(Instrument):
    """Records the input's moments, for layers with variables of their own that don't train.

    For each float input and each axis as long as such a variable: the number of elements, then
    mean and variance over the other axes (float64); with a mask, once more for what it keeps.
    Behind these the same of what a layer of the user's computes its statistics from, as where it
    multiplies by a kernel first.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._seen: dict[int, int] = {}

    def begin(self) -> None:
        self._seen.clear()

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        tracked = tracked_candidates(self._subject, call.layer) if call.is_layer else []
        if not tracked:
            return outputs, None
        given = call.args[0] if call.args else None
        mask = call.kwargs.get("mask")
        mask = getattr(given, "_keras_mask", None) if mask is None else mask
        record = _moments(given, tracked, mask) if _is_small_batch(given) else []
        for inside in self._inside(call, tracked):
            record += _moments(inside, tracked, None)
        return outputs, record or None

    def _inside(self, call: Call, tracked: Sequence[Any]) -> list[Any]:
        """The batches that this call of a layer computes its statistics from."""
        if is_of_library(call.layer) or tf.executing_eagerly():
            return []
        graph, given = current_graph(), tensors_in([list(call.args), dict(call.kwargs)])
        before = self._seen.get(id(call.layer), 0)
        self._seen[id(call.layer)] = operation_count(graph)
        return list(
            filter(_is_small_batch, behind_writes(graph, tracked, given, MOST_INSIDE, before))
        )


def _is_small_batch(given: Any) -> bool:
    """Whether it is a batch, of rows that are small enough."""
    if not isinstance(given, tf.Tensor) or not given.dtype.is_floating or not given.shape.rank:
        return False
    if given.shape.is_fully_defined() and not tf.executing_eagerly():
        return False  # as what is left of all rows
    elements = given.shape[1:].num_elements()
    return elements is not None and elements <= SMALL


def _moments(given: Any, tracked: Sequence[Any], mask: Any) -> list[Any]:
    """The moments of an input along each axis as long as one of the variables."""
    rank, lengths = given.shape.rank, {v.shape.num_elements() for v in tracked}
    axes = [axis for axis in reversed(range(rank)) if given.shape[axis] in lengths]
    given = tf.cast(given, tf.float64)
    record = []
    for axis in [*axes, *([rank] if 1 in lengths else [])]:
        others = [a for a in range(rank) if a != axis]
        count = tf.reduce_prod(tf.gather(tf.shape(given), tf.constant(others, tf.int32)))
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


def variances_in(record: list[Array] | None) -> list[Array]:
    """All variances that a record holds."""
    return (record or [])[2::3]


def pass_with_moments(subject: Subject, x: Any, after: Pass | None = None) -> Pass:
    """A pass in training mode with every stochastic layer neutralised: no dropout, no noise."""
    return neutralised(subject, x, training=True, instrument=lambda: Moments(subject), after=after)


def recorded_moments(t: Tracked, records: list[list[Array] | None]) -> tuple[Moment, ...]:
    """The moments of the layer's calls in a run's records; none where they are not of all rows."""
    found = []
    for index, place in t.places:
        record = records[index]
        if record is None:
            return ()
        found.append(moment_at(place, record, tuple(t.variable.shape)))
    return tuple(found)


def moment_at(place: int, record: list[Array], shape: tuple[int, ...]) -> Moment:
    count, mean, variance = record[3 * place : 3 * place + 3]
    return Moment(float(count), mean.reshape(shape), variance.reshape(shape))
