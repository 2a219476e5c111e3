"""How far sampling alone moves what a model says: other rows, and a moving average's jitter."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement.measure import (
    Batching,
    other_batchings,
    under,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.batches import Batches
from pytest_bnconsistency.measurement.batch_statistics import batch_statistics
from pytest_bnconsistency.measurement.compared_outputs import Side
from pytest_bnconsistency.measurement.population import Estimate
from pytest_bnconsistency.measurement.tracked_variables import Tracked

DRAWS = 5
"""Converged moving averages that are drawn."""
LAST_BATCHES = 16
"""Batches of as few rows as an epoch ends on that are drawn, where it ends on fewer than usual."""
USUAL_MOMENTUM = 0.9
"""What averages about the last batches only (momentum below 0.5) jitter is not theirs to excuse:
it is bounded as with this momentum."""
FORGOTTEN = 0.01
"""A moving average is drawn from its last batches, up to this share of what came before."""


@dataclass(frozen=True)
class Alternatives:
    """What the model says under statistics as good as the reference.

    `samples` are population statistics of halves of the rows: they lie as far from those of all
    rows as these from the truth. `converged` are moving averages of the momentum and the batch
    size of training, at rest, and `ended` the same after one more batch, of the rows that are left
    at the end of the data, where that tells.
    """

    samples: list[Side]
    converged: list[Side]
    ended: list[Side]


NONE = Alternatives([], [], [])


def alternatives(context: CheckContext, m: Measured, known: Estimated) -> Alternatives:
    """The rows in several orders, each cut in halves, and drawn moving averages."""
    others = other_batchings(context)
    samples = list(known.estimate.halves)
    if known.estimate.rows == m.data.rows:
        samples += [
            half for other in others for half in Estimate(known.tracked, other.seen).halves
        ]
    averages = list(_moving_averages(m, known, others))
    return Alternatives(
        list(_said(context, m, samples)),
        list(_said(context, m, averages)),
        list(_said(context, m, _ended(m, known, averages))),
    )


def _said(
    context: CheckContext, m: Measured, statistics: Iterable[Sequence[Array]]
) -> Iterator[Side]:
    """What the model says under each; numbers that are no statistics for it say nothing."""
    for values in statistics:
        with contextlib.suppress(RefusedError):  # a matrix that has no root, say
            yield under(context, m, values)


def _moving_averages(
    m: Measured, known: Estimated, others: Sequence[Batching]
) -> Iterator[list[Array]]:
    """Where moving averages end that took so many batches of these rows, drawn anew each time.

    They lie around the population's: that batches of few rows have other statistics throughout is
    no jitter. A batch that is a part of few rows varies less than one of many, and so does a
    larger batch.
    """
    size = others[0].size
    if size >= m.data.rows:
        return
    spread = math.sqrt(size / known.size / (1 - size / m.data.rows))
    every = [*known.seen, *(batch for other in others for batch in other.seen)]
    seen = [batch for batch in every if batch.rows == size]
    stacked = [np.stack([batch.values[i] for batch in seen]) for i in range(len(m.tracked))]
    rng = np.random.default_rng(m.seed)
    for _ in range(DRAWS):
        order = rng.integers(0, len(seen), _memory(m.tracked))
        yield [
            center
            + spread * (np.tensordot(_weights(t, order, len(seen)), values, 1) - values.mean(0))
            for t, center, values in zip(m.tracked, m.reference, stacked, strict=True)
        ]


def _ended(
    m: Measured, known: Estimated, averages: Sequence[list[Array]]
) -> Iterator[list[Array]]:
    """These averages after the last batch of an epoch, which may have fewer rows.

    It counts where it alone moves them as much as all the others. What so few rows do differs
    much from batch to batch, so many are drawn. It is never a single row: that would have no
    variance, and is joined to the batch before it.
    """
    rows = known.seen[-1].rows
    steady = min(map(_kept, m.tracked))
    most = (1 - steady**2) * known.size
    if not averages or rows >= min(most, known.size, m.data.rows):
        return
    usual = [
        np.mean([b.values[i] for b in known.seen if b.rows == known.size], axis=0)
        for i in range(len(m.tracked))
    ]
    rng = np.random.default_rng(m.seed)
    drawn = Batches(
        m.data, tuple(rng.permutation(m.data.rows)[:rows] for _ in range(LAST_BATCHES))
    )
    spread = math.sqrt(1 / (1 - rows / m.data.rows))
    ends = batch_statistics(known.training, m.tracked, drawn)
    for average, end in zip(itertools.cycle(averages), ends, strict=False):
        yield [
            _kept(t) * value + (1 - _kept(t)) * (center + spread * (last - full))
            for t, value, center, last, full in zip(
                m.tracked, average, m.reference, end.values, usual, strict=True
            )
        ]


def _kept(t: Tracked) -> float:
    return t.retention if 0.5 <= t.momentum < 1 else USUAL_MOMENTUM


def _memory(tracked: Sequence[Tracked]) -> int:
    slowest = max(map(_kept, tracked))
    return math.ceil(math.log(FORGOTTEN) / math.log(slowest))


def _weights(t: Tracked, order: Array, batches: int) -> Array:
    """The weight of each batch in a moving average over them in this order, the latest first."""
    kept = _kept(t)
    weights = np.bincount(order, kept ** np.arange(len(order)), batches)
    return np.asarray(weights / weights.sum())
