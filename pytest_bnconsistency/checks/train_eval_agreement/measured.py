"""All that is known of a disagreement, and the means to find out more."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data, some_rows
from pytest_bnconsistency.execution.batches import Batches, in_batches
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement import observed_updates as updates
from pytest_bnconsistency.measurement.affine_layers import Affine, affine_calls
from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics, batch_statistics
from pytest_bnconsistency.measurement.compared_outputs import Side, gap
from pytest_bnconsistency.measurement.input_moments import Moments
from pytest_bnconsistency.measurement.normalization_layers import FAR
from pytest_bnconsistency.measurement.observed_updates import Update
from pytest_bnconsistency.measurement.population import Estimate
from pytest_bnconsistency.measurement.population_distances import initial_share
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep, Rested, steps_at_rest
from pytest_bnconsistency.measurement.swapped_statistics import (
    Distance,
    distances,
    mean_distance,
)
from pytest_bnconsistency.measurement.tracked_variables import (
    Tracked,
    recorded_in,
    write_statistics,
)
from pytest_bnconsistency.models import Subject

SMALL_MODEL = 100
"""Models of at most so many calls are cheap to run: more is tried, on more rows."""
STEPS, OF_LARGE = 8, 2
"""Real steps with the weights put back: so many, and so many of large models."""
READ, READ_OF_LARGE, MOST_NUMBERS = 1024, 8, 2**14
"""What prepares the data is told by so many rows, and so many of large models, if it has no more
numbers."""
FAR_MORE = 0.5
"""Another initial value of the variances is believed where it leaves less than this share of what
the usual one leaves unexplained."""
RIGHT = 0.1
"""Statistics as near to the population's, in its deviations, have had nothing done to them."""
CERTAIN_SHARE, MEASURED_SHARE = 0.05, 0.8
"""Shares of the initial values that count as stale: by arithmetic, or measured without it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the check measured.

    `stored`, `population` and `trained` are the sides under the moving and the population
    statistics, and in training mode; `again` gives the last in other batches. `seen` is what each
    of the `batches` gave. `under` gives the side under other statistics. `step` is a real training
    step on a batch, None where there is none. `loss_of` gives how much a side has of what
    evaluation has too much of; by default, that is the loss.
    """

    subject: Subject
    data: Data
    batches: Batches
    training: Pass
    inference: Pass
    tracked: Sequence[Tracked]
    moving: list[Array]
    reference: list[Array]
    seen: Sequence[BatchStatistics]
    stored: Side
    population: Side
    trained: Side
    updates: int | None
    seed: int
    under: Callable[..., Side]
    step: RealStep | None
    again: Callable[[], Side]
    loss_of: Callable[[Side], float | None] = lambda side: side.loss

    @property
    def initial_share(self) -> float:
        """The share of the initial values, measured in the statistics themselves."""
        return initial_share(self.tracked, self.moving, self.reference)

    def with_initial(self, share: float | Callable[[Tracked], float]) -> list[Array]:
        """The population statistics with a share of the initial values (mean 0, variance 1)."""
        return self._with_initial(share, self.first_variance)

    @functools.cached_property
    def first_variance(self) -> float:
        """The initial value of variances: 1, or 0 where that tells far more of what is stored."""
        if self.certain_share is None or self.certain_share < CERTAIN_SHARE:
            return 1.0
        of_one, of_zero = (
            self.deviation(self.moving, self._with_initial(self.left, start)) for start in (1, 0)
        )
        return 0.0 if of_zero < FAR_MORE * of_one else 1.0

    def _with_initial(
        self, share: float | Callable[[Tracked], float], first_variance: float
    ) -> list[Array]:
        found = []
        for t, value in zip(self.tracked, self.reference, strict=True):
            own = share(t) if callable(share) else share
            found.append(own * t.begin(first_variance) + (1 - own) * value)
        return found

    @functools.cached_property
    def expected(self) -> list[Array]:
        """The population statistics, with what the updates leave of the initial values where that
        is too little to be a fault.
        """
        certain = self.certain_share
        little = certain is not None and certain < CERTAIN_SHARE
        return self.with_initial(self.left) if little else self.reference

    def left(self, t: Tracked) -> float:
        """The share of the initial value that the updates leave, as far as these are known.

        An average over all of them alike leaves none.
        """
        if t.cumulative:
            return 0.0
        return float(np.clip(t.retention, 0.0, 1.0) ** (self.updates or 0))

    @property
    def size(self) -> int:
        """The rows of a batch."""
        return len(self.batches.rows[0])

    @property
    def small(self) -> bool:
        return len(self.training.calls) <= SMALL_MODEL

    @property
    def slowest(self) -> Tracked:
        return max(self.tracked, key=lambda t: t.retention)

    @property
    def quickest(self) -> Tracked:
        return min(self.tracked, key=lambda t: t.retention)

    @property
    def certain_share(self) -> float | None:
        """The share of the initial values that the number of updates leaves."""
        return None if self.updates is None else self.left(self.slowest)

    @property
    def biased(self) -> bool:
        """Whether the initial values are still in the statistics, beyond what chance does."""
        certain = self.certain_share
        if certain is None:
            return self.initial_share >= MEASURED_SHARE
        return self.few_updates and self.initial_share >= certain / 2

    @property
    def few_updates(self) -> bool:
        """Whether the updates that were counted leave some of what stood there before."""
        return (self.certain_share or 0.0) >= CERTAIN_SHARE

    @functools.cached_property
    def closed(self) -> float:
        """The share of the distance to training that goes with population statistics, 0 to 1.

        By the loss where it is known, or the decisions where these are worse: single outputs in
        training depend on their batch.
        """
        losses = [self.loss_of(side) for side in (self.stored, self.population, self.trained)]
        if None not in losses:
            stored, population, trained = (float(loss or 0.0) for loss in losses)
            if stored > trained:
                return min(1.0, max(0.0, (stored - population) / (stored - trained)))
            if population < stored:
                return 1.0  # evaluation does better than training, and better still with these
        before = gap(self.stored, self.trained, self.data).outputs
        left = gap(self.population, self.trained, self.data).outputs
        if not math.isfinite(before):
            return 1.0 if math.isfinite(left) else 0.0
        if left > before / 2:  # what the batches do to training is no part of the distance
            by_batch = gap(self.again(), self.trained, self.data).outputs ** 2 / 2
            before, left = (math.sqrt(max(g**2 - by_batch, 0.0)) for g in (before, left))
        return max(0.0, 1 - left / before) if before else 0.0

    @functools.cached_property
    def preparing(self) -> list[Affine]:
        """The layers, or operations, that prepare the data by fixed numbers."""
        rows = min(self.data.rows, READ if self.small else READ_OF_LARGE)
        batches = in_batches(self.data, some_rows(self.data.rows, rows), self.size)
        found = affine_calls(self.inference, self.tracked, batches)
        return [place for place in found if place.scale.size <= MOST_NUMBERS]

    @functools.cached_property
    def noisy(self) -> list[Array] | None:
        """The population statistics with random layers on; None where there are none."""
        if not self.training.stochastic_off:
            return None
        run = Pass(
            self.subject, self.batches[0].x, training=True, instrument=Moments(self.subject)
        )
        tracked = recorded_in(run, self.tracked, self.training)
        return Estimate(tracked, batch_statistics(run, tracked, self.batches)).population

    @functools.cached_property
    def rested(self) -> list[Rested]:
        """What real steps make of the stored statistics, the weights put back after each."""
        return self._noted[0]

    @functools.cached_property
    def observed(self) -> list[Update]:
        """What a real step does to each tracked variable; it raises what the step raises."""
        if self.step is None:
            return []
        # Most of what steps cost is their trace: where some were run, they tell this as well.
        if "_noted" in vars(self) and (ends := self._noted[1]):
            zero, one = ends
            found = updates.between(self.tracked, zero.after, one.after)
        else:
            found = updates.observed(self.step, self.tracked, self.batches[0])
        if all(update.even for update in found):
            return found
        return updates.observed(self.step, self.tracked, self.batches[0], FAR)

    @functools.cached_property
    def _noted(self) -> tuple[list[Rested], list[Rested]]:
        """Real steps from the stored statistics, and one from zero and one from one."""
        found = self.steps_at_rest(at=updates.at_ends(self.tracked))
        return found[:-2], found[-2:]

    def steps_at_rest(
        self, *, at: Sequence[Sequence[Array]] = (), others: bool = True
    ) -> list[Rested]:
        """The same, and a step from each of the statistics `at`; none where no step runs.

        With `others=False` without what others than the layers write to the statistics.
        """
        if self.step is None:
            return []
        size = min(self.step.size, self.data.rows)
        whole = [rows for rows in self.batches.rows if len(rows) == size]
        stored = [(rows, self.moving) for rows in whole[: STEPS if self.small else OF_LARGE]]
        begun = [*stored, *((self.batches.rows[0], start) for start in at)]
        try:
            return steps_at_rest(self.step, self.tracked, self.data, begun, others=others)
        except Exception:  # whatever the user's step raises, it is not what was asked
            return []

    def after_steps(self, steps: int) -> tuple[list[Array], list[Array]] | None:
        """What steps from the population statistics leave stored, and the population's then.

        None where the user's step raises. What they change stays changed.
        """
        write_statistics(self.tracked, self.reference)
        rows = np.resize(self.batches.order, steps * self.size)
        try:
            if self.step is not None:
                self.step(self.data.take(rows))
        except Exception:  # whatever the user's step raises, it is not what was asked
            return None
        return [t.stored for t in self.tracked], self.statistics_of(self.batches).population

    def statistics_of(self, batches: Iterable[Data], training: Pass | None = None) -> Estimate:
        """The statistics of other batches, or of a pass of the same calls that runs otherwise."""
        run = self.training if training is None else training
        return Estimate(self.tracked, batch_statistics(run, self.tracked, batches))

    @functools.cached_property
    def far(self) -> list[Distance]:
        """How far two values are apart in each place, channel by channel."""
        return distances(self.tracked, self.reference)

    def off(self, place: int, value: Array) -> float:
        """How far a value is from the population's in a place: the mean over its channels."""
        return self.distance(place, value, self.reference[place])

    def distance(self, place: int, mine: Array, its: Array) -> float:
        """How far two values of a place are apart: the mean over its channels; inf for NaN."""
        deviation = float(np.mean(self.far[place](mine, its)))
        return deviation if math.isfinite(deviation) else math.inf

    @functools.cached_property
    def wrong(self) -> list[int]:
        """The places whose stored statistics are not the population's."""
        return [i for i, value in enumerate(self.moving) if self.off(i, value) > RIGHT]

    def of_layers(self, places: Collection[int]) -> list[int]:
        """All places of the layers that these are places of."""
        layers = {id(self.tracked[place].layer) for place in places}
        return [place for place, t in enumerate(self.tracked) if id(t.layer) in layers]

    def mended(self, places: Collection[int]) -> list[Array]:
        """What is stored, with the population's in some places."""
        pairs = enumerate(zip(self.moving, self.reference, strict=True))
        return [right if i in places else stored for i, (stored, right) in pairs]

    def deviations(self, a: Sequence[Array], b: Sequence[Array]) -> list[float]:
        """How far two sets of statistics are apart in each place: the mean over its channels."""
        places = zip(self.far, a, b, strict=True)
        return [float(np.mean(far(mine, its))) for far, mine, its in places]

    def deviation(self, a: Sequence[Array], b: Sequence[Array]) -> float:
        """How far two sets of statistics are apart: the mean distance over all channels."""
        return mean_distance(self.far, a, b)

    def gone(self, values: Sequence[Array]) -> float:
        """The share of the distance to what is expected that is gone with statistics, to 1."""
        return 1 - self.deviation(values, self.expected) / self.deviation(
            self.moving, self.expected
        )

    def explained(self, values: Sequence[Array]) -> float:
        """The share of what is stored that statistics tell better than the population's, to 1."""
        whole = self.deviation(self.moving, self.reference)
        left = self.deviation(self.moving, values)
        if not math.isfinite(left):
            return 0.0
        return 1 - left / whole if whole else 0.0
