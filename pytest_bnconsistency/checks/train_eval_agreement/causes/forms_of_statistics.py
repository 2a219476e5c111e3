"""Statistics that are stored as a function of what they should be: in another form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.population_distances import initial_share
from pytest_bnconsistency.measurement.swapped_statistics import FEWEST_CHANNELS

ALIKE = 0.3
"""A form is believed where it, undone, leaves less than this share of the distance that it would
leave were nothing done to the statistics, and less than half of what they are off as stored."""

Undo = Callable[[Array, Array], Array]
"""What was meant by a statistic, from what is stored for it and for the mean of the layer."""


class Form(NamedTuple):
    """What may be stored for a statistic, and how that is undone."""

    role: str
    name: str
    undo: Undo


FORMS = (
    Form(
        "variance",
        "the square root of the variance (the standard deviation)",
        lambda stored, _: np.square(stored),
    ),
    Form("variance", "the square of the variance", lambda stored, _: np.sqrt(stored)),
    Form("variance", "1 / the variance", lambda stored, _: 1 / stored),
    Form("variance", "1 / the standard deviation", lambda stored, _: 1 / np.square(stored)),
    Form("variance", "the logarithm of the variance", lambda stored, _: np.exp(stored)),
    Form(
        "variance",
        "the logarithm of the standard deviation",
        lambda stored, _: np.exp(2 * stored),
    ),
    Form(
        "variance",
        "the mean of the squares (the variance and the square of the mean)",
        lambda stored, mean: stored - np.square(mean),
    ),
    Form("mean", "the mean with its sign turned round", lambda stored, _: -stored),
)


def in_another_form(m: Measured) -> Iterator[tuple[Form, dict[int, Array]]]:
    """The forms in which statistics seem to be stored, and what was meant, by their places.

    Where something simpler does as well, as one factor for channels of one variance, none is told.
    """
    simpler = {i: _simpler(m, i) for i in m.wrong}
    for form in FORMS:
        places = [i for i in m.wrong if m.tracked[i].role == form.role]
        found = [read for i in places if (read := _read_back(m, i, form, simpler[i])).nearer]
        channels = sum(read.value.size for read in found)
        is_nearest = sum(read.left for read in found) < HALF * sum(read.simpler for read in found)
        if is_nearest and channels >= FEWEST_CHANNELS:
            yield form, {read.place: read.value for read in found}


class _Read(NamedTuple):
    """A stored statistic, taken for a form and undone.

    `left` is how far that is from what should be there, `stored` how far it was before, and
    `otherwise` how far the value is from the same done to what should be there. `simpler` is how
    far its layer is from a multiple of what should be there, or from initial values among it,
    beyond how far it is from that itself.
    """

    place: int
    value: Array
    left: float
    stored: float
    otherwise: float
    simpler: float

    @property
    def nearer(self) -> bool:
        """Whether undoing brings it to what should be there."""
        return self.left < min(HALF * self.stored, ALIKE * max(self.stored, self.otherwise))


class _Simpler(NamedTuple):
    """What else may be stored in a place: a multiple of what should be there, or initial values
    among it.

    These are in the `mean` of the layer as well, which is so much `farther` from that than from
    what should be in its place.
    """

    mean: int | None
    multiple: Array
    set_back: Array
    farther: float


def _simpler(m: Measured, place: int) -> _Simpler:
    right, stored = m.expected[place], m.moving[place]
    mean = _place_of_mean(m, place)
    own = [place] if mean is None else [place, mean]
    share = initial_share(
        [m.tracked[i] for i in own], [m.moving[i] for i in own], [m.expected[i] for i in own]
    )
    initial, farther = 0.0 if m.tracked[place].role == "mean" else 1.0, 0.0
    with np.errstate(all="ignore"):
        multiple = np.median(np.abs(stored) / np.abs(right)) * right
        set_back = share * initial + (1 - share) * right
        if mean is not None:
            farther = m.distance(mean, m.moving[mean], (1 - share) * m.expected[mean])
            farther -= m.distance(mean, m.moving[mean], m.expected[mean])
    return _Simpler(mean, multiple, set_back, farther)


def _read_back(m: Measured, place: int, form: Form, simpler: _Simpler) -> _Read:
    right, stored = m.expected[place], m.moving[place]
    beside = np.full(stored.shape, np.nan) if simpler.mean is None else m.moving[simpler.mean]
    with np.errstate(all="ignore"):
        value = form.undo(stored, beside)

        def undone(other: Array) -> float:
            return m.distance(place, value, form.undo(other, beside))

        return _Read(
            place,
            value,
            m.distance(place, value, right),
            m.distance(place, stored, right),
            undone(right),
            min(undone(simpler.multiple), undone(simpler.set_back) + simpler.farther),
        )


def _place_of_mean(m: Measured, place: int) -> int | None:
    """Where the mean of the layer of another statistic is, if it has one of that shape."""
    for i, t in enumerate(m.tracked):
        if i != place and t.layer is m.tracked[place].layer and t.role == "mean":
            return i if m.moving[i].shape == m.moving[place].shape else None
    return None
