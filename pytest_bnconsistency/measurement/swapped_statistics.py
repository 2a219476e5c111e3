"""Stored vectors in each other's place, as after loading weights in another order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.words import digits, listed

FEWEST_CHANNELS = 3
"""Shorter vectors may be like one another by chance."""
NEARER = 0.2
"""In their own places, vectors are nearer to the population's than this share of the distance."""
NEAR_ZERO, DEAD = 1e-2, 1e-6
"""Shares of a typical variance: variances below the first are near zero and alike, and channels
with less than the second have no deviation that a mean could be told in.
"""
SHOWN = 4
REMEDY = "load the weights by name, or in the order of the model's own"

Distance = Callable[[Array, Array], Array]


def distances(tracked: Sequence[Tracked], reference: Sequence[Array]) -> list[Distance]:
    """How far two vectors are apart in each place, channel by channel.

    Means count in standard deviations of the population, variances as logarithms of their
    ratios, with a share of a typical variance for those near zero.
    """
    variances = {
        id(t.layer): value
        for t, value in zip(tracked, reference, strict=True)
        if t.role == "variance"
    }

    def of(t: Tracked, value: Array) -> Distance:
        if t.role == "variance":
            floor = NEAR_ZERO * typical(value)
            return lambda mine, its: np.abs(np.log((np.abs(mine) + floor) / (np.abs(its) + floor)))
        own = variances.get(id(t.layer), np.ones(1))
        unit = np.sqrt(np.maximum(own, DEAD * typical(own)))
        unit = unit if unit.size in (1, value.size) else np.ones(1)
        return lambda mine, its: np.abs(mine - its) / (unit + 1e-2 * np.abs(value))

    return [of(t, value) for t, value in zip(tracked, reference, strict=True)]


def mean_distance(far: Sequence[Distance], mine: Sequence[Array], its: Sequence[Array]) -> float:
    """How far two sets of statistics are apart: the mean over all channels, infinite for NaN."""
    parts = [of(a, b) for of, a, b in zip(far, mine, its, strict=True)]
    distance = float(np.mean(np.concatenate([part.ravel() for part in parts])))
    return distance if math.isfinite(distance) else math.inf


def typical(variances: Array) -> float:
    """The median variance; where most channels are dead, a tenth of the mean."""
    return max(float(np.median(variances)), 0.1 * float(np.mean(variances)), 1e-12)


@dataclass(frozen=True)
class Swapped:
    """Stored vectors that belong into each other's place.

    `places` are theirs; `exchanged` are all vectors, with these where they belong. `before` and
    `after` say how far these are from the population's, as stored and exchanged.
    """

    places: list[Tracked]
    exchanged: list[Array]
    before: float
    after: float
    within: bool
    """Whether each stays in its layer."""

    @property
    def cause(self) -> str:
        paths = list(dict.fromkeys(t.path for t in self.places))
        what = "mean and variance" if self.within else "the stored statistics"
        return (
            f"{what} of {listed(paths, most=SHOWN)} stand in each other's place, as after loading "
            "weights in another order"
        )

    @property
    def tested(self) -> str:
        return (
            f"exchanged, they are {digits(self.after, 2)} standard deviations from those of this "
            f"data, as stored {digits(self.before, 2)}"
        )


def swapped(
    tracked: Sequence[Tracked], stored: Sequence[Array], reference: Sequence[Array]
) -> Swapped | None:
    """Places whose nearest vector is in the next of them, and that of the last in the first."""
    far = distances(tracked, reference)

    def off(place: int, source: int) -> float:
        deviation = float(np.mean(far[place](stored[source], reference[place])))
        return deviation if math.isfinite(deviation) else math.inf

    def nearest(place: int) -> int:
        alike = (i for i, value in enumerate(stored) if value.shape == stored[place].shape)
        return min(alike, key=lambda source: off(place, source))

    def nearer(cycle: Sequence[int]) -> bool:
        """Whether each is much nearer to the next one's place than to its own."""
        exchanged = sum(off(*pair) for pair in _exchanged(cycle).items())
        return exchanged < NEARER * sum(off(place, place) for place in cycle)

    cycles = [
        cycle
        for cycle in _cycles(list(map(nearest, range(len(stored)))))
        if stored[cycle[0]].size >= FEWEST_CHANNELS and nearer(cycle)
    ]
    if not cycles:
        return None
    moved = dict(itertools.chain.from_iterable(_exchanged(cycle).items() for cycle in cycles))
    within = all(len({id(tracked[place].layer) for place in cycle}) == 1 for cycle in cycles)
    return Swapped(
        [tracked[place] for place in sorted(moved)],
        [stored[moved.get(place, place)] for place in range(len(stored))],
        float(np.mean([off(place, place) for place in moved])),
        float(np.mean([off(place, source) for place, source in moved.items()])),
        within,
    )


def _exchanged(cycle: Sequence[int]) -> dict[int, int]:
    """Each place with that of the next."""
    return dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True))


def _cycles(following: Sequence[int]) -> Iterator[list[int]]:
    """The ways along `following` that come back to where they began, each once."""
    for start in range(len(following)):
        cycle = [start]
        while following[cycle[-1]] not in cycle:
            cycle.append(following[cycle[-1]])
        if following[cycle[-1]] == start == min(cycle):
            yield cycle
