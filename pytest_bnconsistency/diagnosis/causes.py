"""Causes of a disagreement, each as what would be stored if it were so.

A cause is named if the statistics that it predicts, under today's weights, are nearer to the
stored ones than half of the distance from those to the population statistics, and no other cause
comes nearer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pytest_bnconsistency.data import Array
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.budget import Tries
from pytest_bnconsistency.diagnosis.cause import HALF, MOST, OF_LARGE, TRIED_ROWS, Cause, Try
from pytest_bnconsistency.diagnosis.fixed import misfit
from pytest_bnconsistency.diagnosis.measured import CERTAIN_SHARE, Measured
from pytest_bnconsistency.diagnosis.other_weights import other_weights
from pytest_bnconsistency.diagnosis.preprocessing import preprocessed
from pytest_bnconsistency.diagnosis.rewritten import rewritten
from pytest_bnconsistency.diagnosis.sides import gap
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.batches import in_batches
from pytest_bnconsistency.probes.statistics import BatchStatistics, Moments
from pytest_bnconsistency.probes.taps import Pass

SETTLED_SHARE = 0.01
"""The remedy's arithmetic aims at this share of the initial values."""
USUAL_MOMENTUM = 0.9
ENOUGH = 16
"""A variance within so many rows is about that of the data."""


def predicted(m: Measured, tries: Tries) -> Cause | None:
    """The cause that explains most of what is stored, if one explains half."""
    found: list[Cause] = []
    for name, attempt in TRIES.items():
        if not tries.may(name):
            return None  # what was not tried may explain more
        found += [cause for cause in attempt(m) if cause.share > HALF]
        # That initial values are left is arithmetic where the updates are known; rows of mean 0
        # and variance 1 would store much the same.
        known = name == "few updates" and (m.certain_share or 0.0) >= CERTAIN_SHARE
        measured = name == "few updates" and not known
        if any(cause.sure or (cause.share > 0.95 and not measured) or known for cause in found):
            break
    else:
        if tries.cut:
            return None
    return max(found, key=lambda cause: (cause.sure, cause.share), default=None)


def stale(m: Measured) -> Iterator[Cause]:
    certain, t = m.certain_share, m.slowest
    share = m.initial_share if certain is None else certain
    if (certain is None and share < HALF) or t.cumulative or not 0 < t.retention < 1:
        return
    explained = m.explained(m.with_initial(share))
    if certain is None or not m.updates:
        yield Cause(
            rules.STALE,
            f"{share:.0%} of the initial values are still in the statistics (measured; how many "
            f"updates there were is not known; momentum {t.momentum:.3g})",
            "train for more updates, or with a smaller momentum; or recalibrate(model, x)",
            "",
            min(explained, _remade(m, m.with_initial(share))),
        )
        return
    needed = math.ceil(math.log(SETTLED_SHARE) / math.log(t.retention))
    largest = math.floor(100 * SETTLED_SHARE ** (1 / (m.updates * t.calls))) / 100
    harmless, place = _harmless_share(m)
    more = math.ceil(math.log(harmless) / math.log(t.retention))
    also = ""
    if more > needed:
        also = f" ({more} for {place}, whose variance is far below the initial 1)"
    if certain < CERTAIN_SHARE:  # little is left, of what is large against the variances
        needed, largest = more, math.floor(100 * harmless ** (1 / (m.updates * t.calls))) / 100
        also = f" (for {place}, whose variance is far below the initial 1)"
    steps = f"{m.updates} updates" if t.calls == 1 else f"{m.updates} steps of {t.calls} updates"
    yield Cause(
        rules.STALE,
        f"momentum {t.momentum:.3g} after {steps} leaves {certain:.1%} of the initial values",
        f"train for {needed} updates or more{also}; or momentum <= {largest:.2f} for {m.updates} "
        "updates; or recalibrate(model, x)",
        "",
        explained if certain >= CERTAIN_SHARE or explained > MOST else 0.0,
    )


def _remade(m: Measured, values: list[Array]) -> float:
    """How much nearer evaluation under `values` is to what it says than under the population's;
    beyond a standard deviation all distances are alike.
    """
    before = min(gap(m.population, m.stored, m.data).outputs, 1.0)
    after = gap(m.under(values), m.stored, m.data).outputs
    return 1 - after / before if before and math.isfinite(after) else 0.0


def _harmless_share(m: Measured) -> tuple[float, str]:
    """The share of the initial variance 1 that is 5 % of the smallest of all, and its path."""
    shares = [(1.0, "")]
    for t, value in zip(m.tracked, m.reference, strict=True):
        if t.role == "variance":
            own = float(np.median(value))
            shares.append((0.05 * own / max(1 - own, 1e-9) if 0 < own < 1 else 1.0, t.path))
    return min(shares)


def _variance_shift(m: Measured) -> Iterator[Cause]:
    """Re-estimate with dropout on: if that is what is stored, dropout is what differs."""
    if not m.training.still:
        return
    noisy = Pass(m.subject, m.batches[0].x, training=True, instrument=Moments(m.subject))
    values = m.statistics_of(m.batches, noisy).population
    drawing = ", ".join(dict.fromkeys(layer.name for layer in m.training.random_layers))
    yield Cause(
        rules.VARIANCE_SHIFT,
        f"{drawing} feeds a normaliser: its statistics were taken with random layers on, and "
        "evaluation runs with them off",
        "put dropout and noise after the last normaliser; or recalibrate(model, x)",
        "the stored statistics are those with the random layers on, not those with them off",
        max(m.explained(values), _variances_explained(m, values)),
    )


def _variances_explained(m: Measured, values: Sequence[Array]) -> float:
    def apart(given: Sequence[Array]) -> float:
        ratios = [
            np.abs(np.log(np.maximum(stored, 1e-30) / np.maximum(value, 1e-30))).ravel()
            for t, stored, value in zip(m.tracked, m.moving, given, strict=True)
            if t.role == "variance"
        ]
        return float(np.mean(np.concatenate(ratios))) if ratios else 0.0

    whole = apart(m.reference)
    return 1 - apart(values) / whole if whole else 0.0


def _batch_order(m: Measured) -> Iterator[Cause]:
    """Batches of the rows in the order given: as moving averages take them, and in no order."""
    size = len(m.batches.rows[0])
    given = in_batches(m.data, np.arange(m.data.rows), size)
    if len(given) < 2:
        return
    seen = list(statistics.batch_statistics(m.training, m.tracked, given))
    ordered, mixed = _average(m, seen), _average(m, _redrawn(m, seen, 400))
    chance = _by_chance(m) / m.apart(m.moving, m.reference)
    yield Cause(
        rules.ORDER,
        "the rows came in an order: the moving averages end on rows of one kind",
        "shuffle the training data; or recalibrate(model, x)",
        "moving averages over the rows in the order given are what is stored, those over the "
        "same rows in random order are not",
        m.explained(ordered) if chance < HALF else 0.0,
    )
    yield Cause(
        rules.DOMAINS,
        "each batch held rows of one kind: the stored variances are those within a kind, and "
        "training normalised each kind by itself",
        "mix the kinds in every batch, or give each a normaliser of its own",
        "statistics over batches of neighbouring rows are what is stored, those over the same "
        "rows in random order are not",
        m.explained(mixed),
    )


def _small_batches(m: Measured) -> Iterator[Cause]:
    """Batches of few rows, and a single row at the end of each epoch."""
    size, rows = len(m.batches.rows[0]), min(m.data.rows, TRIED_ROWS if m.small else OF_LARGE)
    order = m.batches.order
    for few in (1, 2, 4):
        if few > size:
            break
        seen = list(
            statistics.batch_statistics(
                m.training, m.tracked, in_batches(m.data, order[:rows], few, ragged=True)
            )
        )
        values = [
            np.asarray(np.mean([batch.values[i] for batch in seen], axis=0))
            for i in range(len(m.tracked))
        ]
        kind = "single rows" if few == 1 else f"{few} rows"
        yield Cause(
            rules.TINY_BATCHES,
            f"training ran on batches of {kind}: a variance within so few rows is not that of "
            "the data",
            f"train with larger batches ({ENOUGH} or more), or with GroupNormalization; or "
            f"recalibrate(model, x, batch_size={max(size, ENOUGH)})",
            f"statistics taken over batches of {kind} are what is stored",
            m.explained(values),
        )
    if m.data.rows % size == 1 and m.data.rows > size:
        tails = [in_batches(m.data, o, size, ragged=True) for o in (order, np.sort(order))]
        last = [list(statistics.batch_statistics(m.training, m.tracked, t)) for t in tails]
        yield Cause(
            rules.TINY_BATCHES,
            "each epoch ended with a batch of a single row, which has no variance of its own",
            "drop the remainder (dataset.batch(..., drop_remainder=True)), or use another batch "
            "size; or recalibrate(model, x)",
            "moving averages that end on a single row are what is stored",
            max(m.explained(_average(m, [*seen, *seen, *seen])) for seen in last),
        )


def _small_momentum(m: Measured) -> Iterator[Cause]:
    """Moving averages about the last batches only: draw some, with this momentum and a usual."""
    t = m.quickest
    if t.momentum >= HALF or len(m.seen) < 2:
        return
    whole = m.apart(m.moving, m.reference)
    now, usual = _by_chance(m), _by_chance(m, USUAL_MOMENTUM)
    other = 1 - t.momentum
    yield Cause(
        rules.SMALL_MOMENTUM,
        f"momentum {t.momentum:.3g} keeps the statistics of the last batches only (other "
        f"frameworks count it the other way round: {t.momentum:.3g} there is {other:.3g} here)",
        f"momentum {max(other, USUAL_MOMENTUM):.3g}; or recalibrate(model, x)",
        f"moving averages of this momentum over these batches are as far from the population "
        f"({now:.2g} standard deviations) as the stored ones ({whole:.2g}), those of momentum "
        f"{USUAL_MOMENTUM} are not ({usual:.2g})",
        0.75 if now > HALF * whole and usual < HALF * whole else 0.0,
    )


def _by_chance(m: Measured, momentum: float | None = None) -> float:
    """How far moving averages over batches in random order are from the population."""
    draws = (_average(m, _redrawn(m, m.seen, 60, draw), momentum) for draw in range(8))
    return float(np.median([m.apart(values, m.reference) for values in draws]))


def _average(
    m: Measured, seen: Sequence[BatchStatistics], momentum: float | None = None
) -> list[Array]:
    """Moving averages over `seen` in this order, from the population statistics on."""
    values = [np.array(value) for value in m.reference]
    for batch in seen:
        for i, t in enumerate(m.tracked):
            kept = t.retention if momentum is None else momentum
            values[i] = kept * values[i] + (1 - kept) * batch.values[i]
    return values


def _redrawn(
    m: Measured, seen: Sequence[BatchStatistics], steps: int, draw: int = 0
) -> list[BatchStatistics]:
    rng = np.random.default_rng(m.seed + draw)
    return [seen[i] for i in rng.integers(0, len(seen), steps)]


TRIES: dict[str, Try] = {
    "the numbers of layers of preprocessing": misfit,
    "other weights that the optimizer has": other_weights,
    "few updates": stale,
    "vectors in another place, order or form": rewritten,
    "random layers on": _variance_shift,
    "batches of few rows": _small_batches,
    "rows in the order given": _batch_order,
    "the momentum": _small_momentum,
    "other preprocessing": preprocessed,
}
