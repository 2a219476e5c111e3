"""Vectors of normalization layers that stand where others belong, weights among them.

So they do after a port that mixes up the order of a file: gamma, beta, mean, variance. With a
weight misplaced, what comes after the layer is not what its statistics were taken of, so the
vectors are exchanged in the model and the statistics of the data are taken again. Weights alone
may be misplaced, too, which the statistics of the layers behind tell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import MOST, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.rewritten import RECALIBRATE
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.state import restored
from pytest_bnconsistency.measurement.swapped_statistics import (
    FEWEST_CHANNELS,
    NEARER,
    REMEDY,
    SHOWN,
    distances,
    mean_distance,
)
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates, write_statistics
from pytest_bnconsistency.models.owned_objects import variable_name
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits, listed

MOST_VECTORS = 5
"""Of more vectors, there are too many orders to try."""

Order = tuple[int, ...]
"""For each vector of a layer, the place in which its right value stands."""


@dataclass(frozen=True)
class Layer:
    """The vectors of a normalization layer that have one shape, by the names that it gives them.

    `statistics` says which of them are statistics: their place here, and among what is tracked.
    """

    path: str
    vectors: Mapping[str, Any]
    statistics: Mapping[int, int]


@dataclass(frozen=True)
class Exchanged:
    """An order that some layers were put in, and how far that leaves the statistics."""

    left: float
    order: Order
    layers: Sequence[Layer]

    @property
    def said(self) -> str:
        """Where the statistics stand, or the weights if it is only them."""
        names, statistics = list(self.layers[0].vectors), self.layers[0].statistics
        moved = [i for i, source in enumerate(self.order) if i != source]
        shown = [i for i in moved if i in statistics] or moved
        places = listed([f"{names[i]} in that of {names[self.order[i]]}" for i in shown])
        if set(shown) & set(statistics):
            return places
        return f"{places} (none tell of the last such layer, with no statistics behind it)"


def weights_among_statistics(m: Measured) -> Iterator[Cause]:
    """Weights and statistics of layers exchanged; and vectors that are copies of another."""
    write_statistics(m.tracked, m.moving)
    yield from _exchanged(m)
    yield from _copied(m)


def _layers(m: Measured) -> Iterator[Layer]:
    """The layers with statistics and weights of one shape, in the order of their calls."""
    for layer in dict.fromkeys(t.layer for t in m.tracked):
        places = {id(t.variable): i for i, t in enumerate(m.tracked) if t.layer is layer}
        first = m.tracked[min(places.values())]
        shape, own = first.variable.shape, m.subject.own_variables(layer)
        alike = [v for v in own if v.shape == shape and shape.rank == 1]
        if len(places) < len(alike) <= MOST_VECTORS and shape[0] >= FEWEST_CHANNELS:
            statistics = {i: places[id(v)] for i, v in enumerate(alike) if id(v) in places}
            yield Layer(first.path, {variable_name(layer, v): v for v in alike}, statistics)


def _exchanged(m: Measured) -> Iterator[Cause]:
    """The order that leaves the statistics nearest to the data's."""
    tries = [Exchanged(_left(m, layers, order), order, layers) for layers, order in _tries(m)]
    if not tries:
        return
    best = min(tries, key=lambda tried: tried.left)
    before = m.deviation(m.moving, m.reference)
    share = 1 - best.left / before if math.isfinite(before) else 1.0
    paths = [layer.path for layer in best.layers]
    yield Cause.tested(
        rules.SWAPPED,
        cause=f"vectors of {listed(paths, most=SHOWN)} stand in each other's place, as after "
        f"loading weights in another order: {best.said}",
        tested=f"exchanged in the model, the statistics are {digits(best.left, 2)} standard "
        f"deviations from those that this data gives then, as stored {digits(before, 2)}",
        remedy=REMEDY,
        share=share if share > MOST else 0.0,
        place=paths[0] if len(paths) == 1 else "",
    )


def _tries(m: Measured) -> Iterator[tuple[list[Layer], Order]]:
    """Orders that make the first wrong layer's statistics the data's, in it and in all like it.

    Its own vectors do nothing to its input. Where layers before it are right, their weights alone
    may stand in each other's place: those of the last of them, or of all that have statistics
    behind them.
    """
    layers, bad = list(_layers(m)), set(m.wrong)
    before = 0
    while before < len(layers) and not bad & set(layers[before].statistics.values()):
        before += 1
    like = _alike(layers[before:], layers[before]) if layers[before:] else []
    for order in _orders(m, like[0]) if like else ():
        yield like[:1], order
        if len(like) > 1:
            yield like, order
    if before and like:
        last, followed = layers[before - 1], _alike(layers[:-1], layers[before - 1])
        for order in _orders_of_weights(last):
            yield [last], order
            if len(followed) > 1:
                yield followed, order


def _alike(layers: Sequence[Layer], other: Layer) -> list[Layer]:
    """Those whose vectors have the names of the other's."""
    return [layer for layer in layers if list(layer.vectors) == list(other.vectors)]


def _orders_of_weights(layer: Layer) -> Iterator[Order]:
    """Orders of the layer's vectors in which each statistic stays where it is."""
    places = range(len(layer.vectors))
    for order in itertools.permutations(places):
        if order != tuple(places) and all(order[i] == i for i in layer.statistics):
            yield order


def _orders(m: Measured, layer: Layer) -> Iterator[Order]:
    """Orders of the layer's vectors, statistics and weights mixed, that make the first right.

    Channels in the next one's places must be as far off as the vectors in their own: where all are
    alike, as weights that were not trained are, none tells.
    """
    stored = [np.asarray(v.numpy(), np.float64) for v in layer.vectors.values()]
    for order in itertools.permutations(range(len(stored))):
        moved = [i for i in layer.statistics if order[i] != i]
        inside = all(source in layer.statistics for i, source in enumerate(order) if i != source)
        if not moved or inside:
            continue
        own, found = [stored[i] for i in moved], [stored[order[i]] for i in moved]
        limit = NEARER * min(_off(m, layer, moved, own), _off(m, layer, moved, _shifted(found)))
        if _off(m, layer, moved, found) < limit and _positive(m, layer, moved, found):
            yield order


def _off(m: Measured, layer: Layer, places: Sequence[int], values: Sequence[Array]) -> float:
    return sum(m.off(layer.statistics[i], v) for i, v in zip(places, values, strict=True))


def _shifted(values: Sequence[Array]) -> list[Array]:
    return [np.roll(value, 1) for value in values]


def _positive(m: Measured, layer: Layer, places: Sequence[int], values: Sequence[Array]) -> bool:
    roles = [m.tracked[layer.statistics[i]].role for i in places]
    return all(role != "variance" or v.min() >= 0 for role, v in zip(roles, values, strict=True))


def _left(m: Measured, layers: Sequence[Layer], order: Order) -> float:
    """How far the statistics are from the data's with these layers' vectors exchanged."""
    with restored([v for layer in layers for v in layer.vectors.values()]):
        for layer in layers:
            vectors = list(layer.vectors.values())
            values = [v.numpy() for v in vectors]
            for vector, source in zip(vectors, order, strict=True):
                vector.assign(values[source])
        stored = [t.stored for t in m.tracked]
        given = m.statistics_of(m.batches).population
    return mean_distance(distances(m.tracked, given), stored, given)


def _copied(m: Measured) -> Iterator[Cause]:
    """Statistics that are, to the last bit, another vector of their layer."""
    sources = {i: name for i in m.wrong if (name := _copy_of(m, i))}
    if not sources:
        return
    tracked = [(m.tracked[i], name) for i, name in sources.items()]
    said = [f"{variable_name(t.layer, t.variable)} of {t.path} is its {n}" for t, n in tracked]
    before = float(np.mean([m.off(i, m.moving[i]) for i in sources]))
    yield Cause.tested(
        rules.SWAPPED,
        cause=f"what is stored is a copy of another vector: {listed(said, most=SHOWN)}",
        tested=f"to the last bit, and {digits(before, 2)} standard deviations from what this data "
        "gives in their place",
        remedy=f"{REMEDY}; {RECALIBRATE}",
        share=m.gone(m.mended(sources)),
    )


def _copy_of(m: Measured, place: int) -> str:
    """The weight of the layer, or its statistic of another role, that a statistic is a copy of;
    empty where it is none's. What else moves along with it may be the same for a good reason.
    """
    t = m.tracked[place]
    stored = t.variable.numpy()
    if not _is_vector(stored):
        return ""
    roles = {id(o.variable): o.role for o in m.tracked}
    moving = {id(v) for v in tracked_candidates(m.subject, t.layer)}
    for variable in m.subject.own_variables(t.layer):
        other = roles.get(id(variable), t.role if id(variable) in moving else "weight")
        if other != t.role and np.array_equal(variable.numpy(), stored):
            return variable_name(t.layer, variable)
    return ""


def _is_vector(value: Array) -> bool:
    """Whether its numbers, one for each channel, are like no other vector's by chance."""
    return value.ndim == 1 and value.size >= FEWEST_CHANNELS and bool(np.ptp(value) > 0)
