"""Population statistics, joined batch by batch: memory does not grow with the data.

A mean is the mean of the batch means, weighted by their elements; a variance is the mean variance
within the batches plus the variance between their means. Joined pairwise, means that are large
against the deviation don't cancel.

Sources: Chan, Golub and LeVeque 1983 (and Welford 1962) for joining means and variances; Ioffe and
Szegedy 2015, algorithm 2; Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm" (PreciseBN).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_bnconsistency.data.arrays import Array

if TYPE_CHECKING:
    from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics
    from pytest_bnconsistency.measurement.tracked_variables import Tracked


@dataclass(frozen=True)
class Moment:
    """The mean and the (biased) variance of `count` elements, a value a channel, in float64."""

    count: float
    mean: Array
    variance: Array

    def joined(self, other: Moment) -> Moment:
        """The moments of both sets of elements together."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        deviation = other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance
        return Moment(
            count, self.mean + share * deviation, variance + share * (1 - share) * deviation**2
        )


class Estimate:
    """The statistics of all batches that were added, of every other one, and their spread."""

    def __init__(
        self, tracked: Sequence[Tracked], batches: Iterable[BatchStatistics] = ()
    ) -> None:
        self._tracked = tracked
        self._whole: list[Moment] = []
        self._halves: list[list[Moment]] = [[], []]
        self._between: list[Moment] = []
        self.batches = 0
        self.rows = 0
        for batch in batches:
            self.add(batch)

    def add(self, batch: BatchStatistics) -> None:
        own = [_join(calls) for calls in batch.moments]
        half = self.batches % 2
        self._whole = _joined(self._whole, own)
        self._halves[half] = _joined(self._halves[half], own)
        one = [Moment(1, value, np.zeros_like(value)) for value in batch.values]
        self._between = _joined(self._between, one)
        self.batches += 1
        self.rows += batch.rows

    @property
    def population(self) -> list[Array]:
        """The statistic of each tracked variable over all batches."""
        return self._values(self._whole)

    @property
    def halves(self) -> list[list[Array]]:
        """The same over every other batch; empty for a single one."""
        return [self._values(half) for half in self._halves] if self.batches > 1 else []

    @property
    def spread(self) -> list[Array]:
        """The standard deviation of each statistic from batch to batch; zero for a single one."""
        unbiased = self.batches / max(self.batches - 1, 1)
        return [np.asarray(np.sqrt(unbiased * moment.variance)) for moment in self._between]

    def _values(self, moments: Sequence[Moment]) -> list[Array]:
        return [t.value(moment) for t, moment in zip(self._tracked, moments, strict=True)]


def _join(moments: Sequence[Moment]) -> Moment:
    whole = moments[0]
    for moment in moments[1:]:
        whole = whole.joined(moment)
    return whole


def _joined(whole: list[Moment], more: list[Moment]) -> list[Moment]:
    return [a.joined(b) for a, b in zip(whole, more, strict=True)] if whole else more
