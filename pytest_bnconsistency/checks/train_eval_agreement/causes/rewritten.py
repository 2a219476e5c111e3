"""Stored statistics to which something was done after they were taken: it is undone again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.channel_orders import MANY, orders
from pytest_bnconsistency.checks.train_eval_agreement.causes.factors import is_count, one_factor
from pytest_bnconsistency.checks.train_eval_agreement.causes.forms_of_statistics import (
    ALIKE,
    in_another_form,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.compared_outputs import gap
from pytest_bnconsistency.measurement.swapped_statistics import (
    FEWEST_CHANNELS,
    NEARER,
    REMEDY,
    SHOWN,
    swapped,
)
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import digits, listed

CLOSE = 0.05
"""An order of few channels is believed where it leaves less than this share."""
FOR_WANT_OF_ANOTHER = 0.6
"""A factor of the variances counts for so much: dropout, say, is one, and says why."""
SUMMED = "divide what is summed over batches, replicas or checkpoints by their number"
DIVIDED = "divide by the number of batches, replicas or checkpoints once, and only what is summed"
RECALIBRATE = "or recalibrate(model, x)"

MEANT = {
    "variance": "store the variance, as the layer takes its root",
    "mean": "store the mean itself, as the layer subtracts it",
}


@dataclass(frozen=True)
class Undone:
    """What was done to the statistics of some places, and all of them with that undone.

    `nearer` is how far those are from what they are said to be, `before` how far they were from
    what should be in their own places.
    """

    rule: Rule
    cause: str
    remedy: str
    values: list[Array]
    before: float
    nearer: float
    tested: str = ""
    most: float = 1.0
    """It counts for at most this share: what tells as much says more."""


def rewritten(m: Measured) -> Iterator[Cause]:
    """Undo what may have been done to the stored statistics: does the gap close?"""
    before = gap(m.stored, m.population, m.data).outputs
    for find in (_exchanged, _in_another_form, _multiplied, _in_another_order, _of_another_layer):
        for undone in find(m):
            after = gap(m.under(undone.values), m.population, m.data).outputs
            closes = after < HALF * min(before, 1.0)
            how_near = (
                f"undone, they are {digits(undone.nearer, 2)} standard deviations from those of "
                f"this data, as stored {digits(undone.before, 2)}"
            )
            yield Cause.tested(
                undone.rule,
                cause=undone.cause,
                tested=f"{undone.tested or how_near}; evaluation is then {digits(after, 2)} from "
                f"that under population statistics, as stored {digits(before, 2)}",
                remedy=f"{undone.remedy}; {RECALIBRATE}",
                share=min(undone.most, 1 - undone.nearer / undone.before) if closes else 0.0,
            )


def _exchanged(m: Measured) -> Iterator[Undone]:
    """Vectors that stand in each other's place."""
    found = swapped(m.tracked, m.moving, m.reference)
    if found is not None:
        exchanged, tested = found.exchanged, found.tested
        yield Undone(
            rules.SWAPPED, found.cause, REMEDY, exchanged, found.before, found.after, tested
        )


def _in_another_form(m: Measured) -> Iterator[Undone]:
    """Statistics that are stored as a function of what they should be."""
    for form, meant in in_another_form(m):
        yield _undone(
            m,
            meant,
            rules.ANOTHER_FORM,
            f"what is stored as the {form.role} of {_paths(m, meant)} is {form.name}",
            MEANT[form.role],
        )


def _concatenated(values: Sequence[Array], places: Sequence[int]) -> Array:
    return np.concatenate([values[place].ravel() for place in places])


def _multiplied(m: Measured) -> Iterator[Undone]:
    """Variances, and means as well, that are one number times what they should be.

    Where the layer's input grows, as data or weights at another scale make it, variances grow by
    the square of what means do: what that tells half as well is no factor. What is left of the
    means and variances beside initial values is a factor below 1, too.
    """
    layers = {id(m.tracked[i].layer) for i in m.wrong if m.tracked[i].role == "variance"}
    places = [i for i, t in enumerate(m.tracked) if id(t.layer) in layers]
    variances = [i for i in places if m.tracked[i].role == "variance"]
    if sum(m.moving[i].size for i in variances) < FEWEST_CHANNELS:
        return
    factor = one_factor(*(_concatenated(of, variances) for of in (m.moving, m.reference)))
    if factor is None or (m.few_updates and not is_count(factor)):
        return  # few updates leave what nobody knows

    def divided(of_means: float) -> dict[int, Array]:
        by = {"mean": of_means, "variance": factor}
        return {i: m.moving[i] / by.get(m.tracked[i].role, 1.0) for i in places}

    def left(values: dict[int, Array]) -> float:
        return sum(m.off(i, value) for i, value in values.items())

    initial = m.with_initial(1 - factor) if factor < 1 else m.reference
    beside = sum(float(np.mean(m.far[i](m.moving[i], initial[i]))) for i in places)
    as_stored = {i: m.moving[i] for i in places}
    limit = min(ALIKE * left(as_stored), HALF * beside, HALF * left(divided(factor**0.5)))
    named = {factor: "means and variances"}
    if is_count(factor):  # data of another spread, blurred or augmented, has any
        named[1.0] = "variances"
    for of_means, what in named.items():
        if left(divided(of_means)) < limit:
            undone = _undone(
                m,
                divided(of_means),
                rules.ANOTHER_FORM,
                f"the stored {what} of {_paths(m, variances)} are {digits(factor, 2)} times "
                "those of this data",
                SUMMED if factor > 1 else DIVIDED,
            )
            # A step that writes to the statistics may be why: it is looked at, too.
            most = 0.95 if of_means == factor else FOR_WANT_OF_ANOTHER
            yield replace(undone, most=most)


def _in_another_order(m: Measured) -> Iterator[Undone]:
    """Statistics of the right layer, in another order of the channels."""
    places = [i for i in m.wrong if m.moving[i].ndim == 1]
    found: dict[str, dict[int, Array]] = {}
    for layer in dict.fromkeys(m.tracked[i].layer for i in places):
        name, moved = _order(m, [i for i in places if m.tracked[i].layer is layer])
        if moved:
            found.setdefault(name, {}).update(moved)
    for name, nearer in found.items():
        yield _undone(
            m,
            nearer,
            rules.SWAPPED,
            f"the channels of the stored statistics of {_paths(m, nearer)} are {name}",
            "load the statistics in the order of the layer's channels",
        )


def _order(m: Measured, places: Sequence[int]) -> tuple[str, dict[int, Array]]:
    """The order that brings the vectors of a layer to the population's, and them in it."""
    many = all(m.moving[i].size >= MANY for i in places)
    best = (NEARER if many else CLOSE) * sum(m.off(i, m.moving[i]) for i in places), ""
    moved: dict[int, Array] = {}
    for name, order in orders([m.moving[i] for i in places], [m.reference[i] for i in places]):
        now = {i: m.moving[i][order] for i in places}
        left = sum(m.off(i, value) for i, value in now.items())
        if left < best[0]:
            best, moved = (left, name), now
    return best[1], moved


def _of_another_layer(m: Measured) -> Iterator[Undone]:
    """Statistics that are those of another layer, or the first of them."""
    sources = {i: _source(m, i) for i in m.wrong if m.moving[i].ndim == 1}
    found = {i: source for i, source in sources.items() if source is not None}
    if sum(m.moving[i].size for i in found) < FEWEST_CHANNELS:
        return
    pairs = dict.fromkeys((m.tracked[i].path, source) for i, (_, source) in found.items())
    said = [f"in {path} those of {source}" for path, source in pairs]
    before = float(np.mean([m.off(i, m.moving[i]) for i in found]))
    nearer = float(np.mean([deviation for deviation, _ in found.values()]))
    yield Undone(
        rules.SWAPPED,
        f"the stored statistics are those of another layer: {listed(said, most=SHOWN)}",
        REMEDY,
        m.mended(found),
        before,
        nearer,
        f"they are {digits(nearer, 2)} standard deviations from those, and {digits(before, 2)} "
        "from what this data gives in their own places; with that put in",
    )


def _source(m: Measured, place: int) -> tuple[float, str] | None:
    """The layer that has what is stored in a place, channel by channel, and how near it is.

    Its channels in the next one's places must be as far off as those of the place itself: where
    all vectors are near to one another, none tells.
    """
    t, stored = m.tracked[place], m.moving[place]
    far = m.far[place]
    limit = NEARER * float(np.mean(far(stored, m.reference[place])))
    found: list[tuple[float, str]] = []
    for other, value in zip(m.tracked, m.reference, strict=True):
        if other.role == t.role and other.layer is not t.layer:
            for name, part in _parts(value, stored.size):
                deviation = float(np.mean(far(stored, part)))
                moved = float(np.mean(far(stored, np.roll(part, 1))))
                if deviation < min(limit, NEARER * moved):
                    found.append((deviation, f"{name}{other.path}"))
    return min(found, default=None)


def _parts(value: Array, size: int) -> Iterator[tuple[str, Array]]:
    """What of a vector a shorter or longer one may be."""
    value = value.ravel()
    if value.size == size:
        yield "", value
    elif value.size > size:
        yield f"the first {size} channels of ", value[:size]
        yield f"the last {size} channels of ", value[-size:]
    else:
        yield f"the {value.size} channels, again and again, of ", np.resize(value, size)


def _undone(m: Measured, nearer: dict[int, Array], rule: Rule, cause: str, remedy: str) -> Undone:
    values = [nearer.get(i, value) for i, value in enumerate(m.moving)]
    return Undone(
        rule,
        cause,
        remedy,
        values,
        float(np.mean([m.distance(i, m.moving[i], m.expected[i]) for i in nearer])),
        float(np.mean([m.distance(i, value, m.expected[i]) for i, value in nearer.items()])),
        # Data of another kind moves other layers, too, which are then as far off as before.
        most=m.gone(values),
    )


def _paths(m: Measured, places: Sequence[int] | dict[int, Array]) -> str:
    return listed(dict.fromkeys(m.tracked[i].path for i in places), most=SHOWN)
