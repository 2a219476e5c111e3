"""Causes of a disagreement, each as what would be stored if it were so.

A cause is named if the statistics that it predicts, under today's weights, are nearer to the
stored ones than half of the distance from those to the population statistics, and no other cause
comes nearer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data import Array, Data, is_float, map_nest
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.measured import CERTAIN_SHARE, Measured
from pytest_bnconsistency.diagnosis.misplaced import REMEDY, misplaced
from pytest_bnconsistency.diagnosis.rules import Rule
from pytest_bnconsistency.diagnosis.sides import gap
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.batches import in_batches
from pytest_bnconsistency.probes.statistics import BatchStatistics, Moments
from pytest_bnconsistency.probes.taps import Pass

SETTLED_SHARE = 0.01
"""The remedy's arithmetic aims at this share of the initial values."""
HALF, MOST = 0.5, 0.8
RIVALS = 0.05
"""Two explanations whose shares are as near to each other explain as much."""
TRIED_ROWS, OF_LARGE = 64, 8
"""Causes that need runs of their own are tried on so many rows, and so many of large models."""
UNLIKE = 0.2
"""How much of the means must lie aside, against the number that is said to move them all."""
USUAL_SCALES = (1 / 255, 255.0, 1 / 127.5, 127.5)
USUAL_MOMENTUM = 0.9
ENOUGH = 16
"""A variance within so many rows is about that of the data."""


@dataclass(frozen=True)
class Cause:
    """A rule, what happened, what to do, and how it was proven; `share` is how much of what is
    stored it explains.
    """

    rule: Rule
    text: str
    remedy: str
    proof: str
    share: float


Try = Callable[[Measured], Iterator[Cause]]


def predicted(m: Measured) -> tuple[Cause | None, list[str]]:
    """The cause that explains most of what is stored, if one explains half, and all tried."""
    tried: list[str] = []
    found: list[Cause] = []
    for name, attempt in TRIES.items():
        tried.append(name)
        found += [cause for cause in attempt(m) if cause.share > HALF]
        # That initial values are left is arithmetic where the updates are known; rows of mean 0
        # and variance 1 would store much the same.
        known = name == "few updates" and (m.certain_share or 0.0) >= CERTAIN_SHARE
        if any(cause.share > 0.95 or known for cause in found):
            break
    return max(found, key=lambda cause: cause.share, default=None), tried


def stale(m: Measured) -> Iterator[Cause]:
    certain, t = m.certain_share, m.slowest
    share = m.initial_share if certain is None else certain
    if (certain is None and share < HALF) or t.cumulative or not 0 < t.retention < 1:
        return
    explained = m.explained(with_initial(m, share))
    if certain is None or not m.updates:
        yield Cause(
            rules.STALE,
            f"{share:.0%} of the initial values are still in the statistics (measured; how many "
            f"updates there were is not known; momentum {t.momentum:.3g})",
            "train for more updates, or with a smaller momentum; or recalibrate(model, x)",
            "",
            explained,
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


def with_initial(m: Measured, share: float) -> list[Array]:
    """The population statistics with a share of the initial values (mean 0, variance 1)."""
    return [
        share * (0.0 if t.role == "mean" else 1.0) + (1 - share) * value
        for t, value in zip(m.tracked, m.reference, strict=True)
    ]


def _harmless_share(m: Measured) -> tuple[float, str]:
    """The share of the initial variance 1 that is 5 % of the smallest of all, and its path."""
    shares = [(1.0, "")]
    for t, value in zip(m.tracked, m.reference, strict=True):
        if t.role == "variance":
            own = float(np.median(value))
            shares.append((0.05 * own / max(1 - own, 1e-9) if 0 < own < 1 else 1.0, t.path))
    return min(shares)


def _misplaced(m: Measured) -> Iterator[Cause]:
    """Exchange vectors that stand in each other's place: does the gap close?"""
    found = misplaced(m.tracked, m.moving, m.reference)
    if found is None:
        return
    before = gap(m.stored, m.population, m.data).outputs
    after = gap(m.under(found.exchanged), m.population, m.data).outputs
    yield Cause(
        rules.MISPLACED,
        found.cause,
        f"{REMEDY}; or recalibrate(model, x)",
        f"{found.tested}; evaluation is then {after:.2g} from that under population statistics, "
        f"as stored {before:.2g}",
        1 - found.after / found.before if after < HALF * before else 0.0,
    )


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


def _preprocessing(m: Measured) -> Iterator[Cause]:
    """The data under other preprocessing: scaled and shifted, standardised, channels reversed."""
    count = min(m.data.rows, TRIED_ROWS if m.small else OF_LARGE)
    rows = np.linspace(0, m.data.rows - 1, count).round().astype(int)
    some = m.data.take(rows)
    size = len(m.batches.rows[0])

    def under(change: Callable[[Array], Array]) -> list[Array] | None:
        changed = Data(map_nest(change, some.x))
        try:
            return m.statistics_of(changed.batches(size)).population
        except Exception:  # values that the model cannot take
            return None

    # Standardised features have the statistics that a normaliser begins with.
    initial = m.explained(with_initial(m, m.initial_share))
    for name, change in itertools.chain(_changes(m), _moved(m, under)):
        values = under(change)
        if values is None:
            continue
        share = m.explained(values)
        # Some change of the data brings any statistics nearer.
        if share > max(MOST, initial - RIVALS):
            yield Cause(
                rules.SHIFT,
                f"the statistics are those of {name}: this data is preprocessed otherwise than "
                "the training data",
                "give evaluation the preprocessing of training (best inside the model)",
                f"with {name} the statistics of this data are what is stored",
                share,
            )


def _floats(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda leaf: change(leaf).astype(leaf.dtype) if is_float(leaf) else leaf


def _moved(
    m: Measured, under: Callable[[Callable[[Array], Array]], list[Array] | None]
) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """The data and its negative, moved by the number that gives the first mean that is stored.

    Where the data's own means lie along what a number moves, it brings them to any others.
    """
    first = next((i for i, t in enumerate(m.tracked) if t.role == "mean"), None)
    for scale in (1, -1) if first is not None else ():
        still, moved = under(_floats(_scaled(scale, 0))), under(_floats(_scaled(scale, 1)))
        if first is None or still is None or moved is None:
            continue
        slope, means = (moved[first] - still[first]).ravel(), still[first].ravel()
        unit = max(slope @ slope, 1e-30)
        offset = float(slope @ (m.moving[first].ravel() - means) / unit)
        left = means - slope * (slope @ means) / unit
        if np.linalg.norm(left) < UNLIKE * abs(offset) * np.linalg.norm(slope):
            continue
        named = f"x {'+' if offset >= 0 else '-'} {abs(offset):.2g}"
        yield named if scale > 0 else f"{offset:.2g} - x", _floats(_scaled(scale, offset))


def _changes(m: Measured) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    for scale in (*USUAL_SCALES, *_scales(m)):
        name = f"x * {scale:.3g}" if scale >= 1 else f"x / {1 / scale:.3g}"
        yield name, _floats(_scaled(scale, 0))
        if scale < 1:
            yield f"{name} - 1", _floats(_scaled(scale, -1))
        else:
            yield f"(x + 1) * {scale:.3g}", _floats(_scaled(scale, scale))
    yield (
        "the features standardised",
        _floats(lambda leaf: (leaf - leaf.mean(0)) / np.maximum(leaf.std(0), 1e-7)),
    )
    yield "the channels in reverse order", _floats(lambda leaf: leaf[..., ::-1])


def _scaled(scale: float, offset: float) -> Callable[[Array], Array]:
    return lambda leaf: np.asarray(leaf * scale + offset)


def _scales(m: Measured) -> list[float]:
    """The scale of the data that gives the first normaliser the variance that is stored."""
    for t, stored, value in zip(m.tracked, m.moving, m.reference, strict=True):
        if t.role == "variance":
            ratio = float(np.median(np.maximum(stored, 0) / np.maximum(value, 1e-12)))
            scale = math.sqrt(ratio)
            usual = any(abs(scale / known - 1) < 0.1 for known in (1.0, *USUAL_SCALES))
            return [scale] if scale > 0 and not usual else []
    return []


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
    "few updates": stale,
    "vectors in each other's place": _misplaced,
    "random layers on": _variance_shift,
    "batches of few rows": _small_batches,
    "rows in the order given": _batch_order,
    "the momentum": _small_momentum,
    "other preprocessing": _preprocessing,
}
