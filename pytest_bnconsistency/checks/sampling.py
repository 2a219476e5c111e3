"""How far sampling alone moves what a model says: other rows, and a moving average's jitter."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data import Array, Data
from pytest_bnconsistency.diagnosis.measured import Measured
from pytest_bnconsistency.diagnosis.sides import Gap, Side, gap
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.population import Estimate
from pytest_bnconsistency.probes.statistics import Tracked

FEW_ROWS = 16
"""Below this, halves of the data say nothing: each row is left out in turn instead."""
DEVIATIONS = 3
"""A gap beyond this many times what sampling and jitter do is not theirs."""
JITTERS = 3
USUAL_MOMENTUM = 0.9
"""What averages about the last batches only (momentum below 0.5) jitter is not theirs to excuse:
it is bounded as with this momentum."""


@dataclass(frozen=True)
class Sampling:
    """What sampling explains: a gap up to `bound`, and that `restless`, a share, of the decisions
    change. `few` says that the rows were too few for halves.
    """

    few: bool
    bound: float
    restless: float

    @property
    def means(self) -> str:
        return "leaving out one row" if self.few else "split halves of the data"


def sampling(m: Measured, estimate: Estimate, *, thorough: bool) -> Sampling:
    """Measured on statistics as good as those of the estimate; roughly, unless `thorough`."""
    noise = _noise(m, _alternatives(m, estimate), thorough)
    bound = DEVIATIONS * math.hypot(*(max([n.outputs for n in g], default=0.0) for g in noise))
    restless = max((n.decisions or 0.0 for group in noise for n in group), default=0.0)
    return Sampling(estimate.rows < FEW_ROWS, bound, restless)


def _alternatives(m: Measured, estimate: Estimate) -> list[list[list[Array]]]:
    """Statistics that would be as good as the reference: other samples, and healthy jitter.

    Other samples are every other batch; of a single batch, every other row; of few rows, all but
    one.
    """
    rng = np.random.default_rng(m.seed)
    data, halves = m.data, estimate.halves
    if data.rows < FEW_ROWS and estimate.rows == data.rows:
        halves = []
        samples = [np.delete(np.arange(data.rows), row) for row in range(data.rows)]
    else:
        samples = [np.arange(data.rows)[start::2] for start in (0, 1)]
    if not halves:
        parts = (data.take(rows) for rows in samples)
        seen = statistics.batch_statistics(m.training, m.tracked, parts)
        halves = [Estimate(m.tracked, [one]).population for one in seen]
    jitters = [
        [
            value + _jitter(t) * deviation * rng.standard_normal(value.shape)
            for t, value, deviation in zip(m.tracked, m.reference, estimate.spread, strict=True)
        ]
        for _ in range(JITTERS if estimate.batches > 1 else 0)
    ]
    return [halves, jitters]


def _jitter(t: Tracked) -> float:
    """The deviation of a converged moving average, in those from batch to batch."""
    momentum = t.momentum if t.momentum >= 0.5 else USUAL_MOMENTUM
    return math.sqrt((1 - momentum) / (1 + momentum)) if momentum < 1 else 1.0


def _noise(m: Measured, alternatives: list[list[list[Array]]], thorough: bool) -> list[list[Gap]]:
    """How far each alternative is from the reference.

    Where nothing hangs on it, one of each and some rows tell enough for the evidence. Numbers
    that are no statistics for the model, a matrix that has no root, say, tell nothing.
    """

    def gaps(group: list[list[Array]], reference: Side, rows: Data) -> Iterator[Gap]:
        for values in group:
            with contextlib.suppress(RefusedError):
                yield gap(m.under(values, rows), reference, rows)

    if thorough:
        return [list(gaps(group, m.population, m.data)) for group in alternatives]
    count = max(16, m.data.rows // 16) if m.small else 2
    index = np.linspace(0, m.data.rows - 1, min(m.data.rows, count)).round().astype(int)
    some = m.data.take(index)
    reference = Side([output[index] for output in m.population.outputs])
    return [list(gaps(group[:1], reference, some)) for group in alternatives]
