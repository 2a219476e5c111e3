"""A momentum so small that the statistics are those of the last batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import (
    BY_CHANCE,
    HALF,
    OF_LARGE,
    TRIED_ROWS,
    Cause,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.rows_in_order import drawn_at_random
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.batches import in_batches
from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics, batch_statistics
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits

USUAL_MOMENTUM, MOST_MOMENTUM = 0.9, 0.999
"""A momentum to set, and the largest that anybody sets: 1 never updates."""


def small_momentum(m: Measured) -> Iterator[Cause]:
    """Moving averages about the last batches only: draw some, with this momentum and a usual.

    Batches may have been smaller than those of the check.
    """
    quick = [i for i, t in enumerate(m.tracked) if t.momentum < HALF]
    drawn = _drawn_as_far_off(m, quick) if quick and len(m.seen) > 1 else None
    if drawn is None:
        return
    convention, other = _otherwise(m.quickest.momentum)
    sizes = [value.size for value in m.reference]
    share = drawn.stored * sum(sizes[i] for i in quick) / sum(sizes)
    yield Cause.tested(
        rules.SMALL_MOMENTUM,
        cause=f"momentum {m.quickest.momentum:.5g} keeps the statistics of the last batches only"
        + convention,
        tested=f"moving averages of this momentum over batches of {drawn.rows} rows are as far "
        f"from the population ({digits(drawn.now, 2)} standard deviations) as the stored ones "
        f"({digits(drawn.stored, 2)}), those of momentum {USUAL_MOMENTUM} are not "
        f"({digits(drawn.usual, 2)})",
        remedy=f"momentum {other:.3g}; or recalibrate(model, x)",
        share=min(0.75, share / m.deviation(m.moving, m.reference)),
        place="" if len(quick) == len(m.tracked) else m.quickest.path,
    )


def _otherwise(momentum: float) -> tuple[str, float]:
    """Where the momentum may have been copied from, and the one to set in its place."""
    other = 1 - momentum
    if other > MOST_MOMENTUM:  # counted the other way round it would keep all, or nearly all
        return "", USUAL_MOMENTUM
    there = f"{momentum:.5g} there is {other:.3g} here"
    convention = f" (other frameworks count it the other way round: {there})"
    return convention, max(other, USUAL_MOMENTUM)


@dataclass(frozen=True)
class Drawn:
    """How far statistics are from the population's, in standard deviations: as `stored`, and drawn
    over batches of so many `rows` with the layers' own momentum (`now`) and with a `usual` one.
    """

    rows: int
    stored: float
    now: float
    usual: float


def _drawn_as_far_off(m: Measured, places: Sequence[int]) -> Drawn | None:
    """The first size of batches by which such a momentum, and no usual one, tells some places."""
    stored = _off(m, places, [m.moving])
    for rows, seen in _in_smaller_batches(m):
        now, usual = (
            _off(m, places, drawn_at_random(m, momentum, seen))
            for momentum in (None, USUAL_MOMENTUM)
        )
        found = Drawn(rows, *(_all_together(m, places, off) for off in (stored, now, usual)))
        if found.usual >= HALF * max(found.stored, found.now):
            continue
        if found.now > HALF * found.stored if rows == m.size else _are_alike(stored, now):
            return found
    return None


def _in_smaller_batches(m: Measured) -> Iterator[tuple[int, Sequence[BatchStatistics]]]:
    """What batches gave, and their size: the check's, and smaller ones."""
    yield m.size, m.seen
    rows = m.batches.order[: TRIED_ROWS if m.small else OF_LARGE]
    size = m.size // 2
    while 2 <= size < len(rows):
        seen = list(batch_statistics(m.training, m.tracked, in_batches(m.data, rows, size)))
        if len(seen) > 1:
            yield size, seen
        size //= 2


def _off(m: Measured, places: Sequence[int], drawn: Sequence[Sequence[Array]]) -> Array:
    """How far each of some statistics is from the population's: a row a draw."""
    off = np.array([m.deviations(values, m.reference) for values in drawn])
    return off[:, list(places)]


def _all_together(m: Measured, places: Sequence[int], off: Array) -> float:
    """The mean over all channels, in the median of the draws."""
    return float(np.median(np.average(off, axis=1, weights=[m.reference[i].size for i in places])))


def _are_alike(stored: Array, drawn: Array) -> bool:
    """Whether each statistic is as far off as in some such draws, within a factor."""
    mine = np.median(stored, axis=0)
    least, most = HALF * drawn.min(axis=0), drawn.max(axis=0) / HALF
    by_chance = np.maximum(mine, np.median(drawn, axis=0)) <= BY_CHANCE
    return bool(np.all(by_chance | ((mine > least) & (mine < most))))
