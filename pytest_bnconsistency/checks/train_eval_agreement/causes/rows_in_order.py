"""Rows that training met in an order: by time, by class, one task after another."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import calls_in
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array, flatten
from pytest_bnconsistency.execution.batches import Batches, in_batches
from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics, batch_statistics
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.rules import catalogue as rules

PARTS = 24
"""Rows in an order are tried in so many parts: what training ended on may be some of them."""
MOST_CLASSES, FEWEST_OF_A_CLASS = 100, 4
SETTLED, MOST_ROUNDS = 0.01, 100
"""Rounds over the batches until so little is left of what was before, and no more of them."""
SHARES = (0.3, 0.45, 0.6, 0.8, 1.0)
"""Shares of the statistics that the last batches may have replaced."""
OF_LAST_BATCHES = 0.7
"""So much counts that training ended on some rows where a small momentum keeps only the last
batches: which rows these were is chance.
"""
SHUFFLE = "shuffle the training data; or recalibrate(model, x)"


def in_order(m: Measured) -> Iterator[Cause]:
    """Moving averages over the rows in an order; over each kind by itself; over one kind last.

    Rows in random order must explain none of it.
    """
    by_luck = _explained_by_part(m, _in_parts(m.seen))
    drawn = by_chance(m) / m.deviation(m.moving, m.reference)
    size, most = m.size, OF_LAST_BATCHES if m.quickest.momentum < HALF else 1.0
    for words, order, starts in _orders(m):
        if len(order) < 2 * size:
            continue
        kinds = [
            list(_seen(m, in_batches(m.data, rows, size))) for rows in np.split(order, starts)
        ]
        seen = [batch for kind in kinds for batch in kind]
        mean = [
            np.mean([batch.values[i] for batch in seen], axis=0) for i in range(len(m.tracked))
        ]
        yield Cause.tested(
            rules.ORDER,
            cause=f"the rows came in an order ({words}): the moving averages end on rows of one "
            "kind",
            tested=f"moving averages over the rows {words} are what is stored, those over the "
            "same rows in random order are not",
            remedy=SHUFFLE,
            share=m.explained(moving_averages(m, seen * _rounds(m, len(seen))))
            if drawn < HALF
            else 0.0,
        )
        yield _one_kind_a_batch(m, words, m.explained(mean))
        part = _explained_by_part(m, kinds if len(kinds) > 1 else _in_parts(seen))
        yield Cause.tested(
            rules.ORDER,
            cause=f"the rows came in an order ({words}): training ended on some of them alone, "
            "rows of one kind",
            tested=f"the statistics of a part of the rows {words} are what is stored, those of "
            "parts in random order are not",
            remedy=SHUFFLE,
            share=min(part, most) if part - by_luck > HALF else 0.0,
        )


def _one_kind_a_batch(m: Measured, words: str, share: float) -> Cause:
    """Each call of the layers saw rows of one kind: as batches came, or as a step calls them."""
    tested = (
        f"statistics over batches of the rows {words} are what is stored, those over the same "
        "rows in random order are not"
    )
    if share > HALF and (several := _called_more(m)):
        path, calls = several
        return Cause.tested(
            rules.DOMAINS,
            cause=f"a training step runs {path} {calls} times, each on rows of one kind (here "
            f"{words}): the stored variances are those within a kind",
            tested=tested,
            remedy="give all kinds to the layer in one batch of the step, or each a normalization "
            "layer of its own; or recalibrate(model, x)",
            share=share,
        )
    return Cause.tested(
        rules.ORDER,
        cause=f"the rows came in an order ({words}), and each batch held rows of one kind: the "
        "stored variances are those within a kind",
        tested=tested,
        remedy="shuffle the training data, so that every batch holds all kinds; or "
        "recalibrate(model, x)",
        share=share,
    )


def _called_more(m: Measured) -> tuple[str, int] | None:
    """The layer that a step runs more often than a pass does, by the most, and how often."""
    calls = [calls_in(m.rested, i) for i in range(len(m.tracked))]
    index = max(range(len(calls)), key=lambda i: calls[i] - m.tracked[i].calls)
    t = m.tracked[index]
    return (t.path, calls[index]) if calls[index] > t.calls else None


def _orders(m: Measured) -> Iterator[tuple[str, Array, Array]]:
    """Orders of the rows in words, and where in them another kind starts: the order given; and
    that of the classes, where there are some.
    """
    given = np.arange(m.data.rows)
    yield "as given", given, np.array([], int)
    targets = flatten(m.data.y) if m.data.y is not None else []
    if len(targets) != 1 or targets[0].size != m.data.rows:
        return
    classes = targets[0].ravel()
    order = np.argsort(classes, kind="stable")
    starts = np.flatnonzero(np.diff(classes[order])) + 1
    if 0 < len(starts) < min(MOST_CLASSES, m.data.rows // FEWEST_OF_A_CLASS):
        yield "sorted by class", order, starts


def _seen(m: Measured, batches: Batches) -> Iterator[BatchStatistics]:
    return batch_statistics(m.training, m.tracked, batches)


def _in_parts(seen: Sequence[BatchStatistics]) -> list[Sequence[BatchStatistics]]:
    bounds = np.linspace(0, len(seen), min(PARTS, len(seen)) + 1).round().astype(int)
    return [seen[a:b] for a, b in itertools.pairwise(bounds)]


def _explained_by_part(m: Measured, parts: Sequence[Sequence[BatchStatistics]]) -> float:
    """How much of what is stored neighbouring parts tell, not all of them, as the last that came:
    by themselves, or beside what is left of the rows before.
    """
    joined = [
        [_joined(batch.moments[i] for batch in part) for i in range(len(m.tracked))]
        for part in parts
    ]
    found = 0.0
    for first in range(len(parts)):
        others = joined[first : len(parts) - (not first)]
        for more, moments in enumerate(itertools.accumulate(others, _both)):
            values = [t.value(moment) for t, moment in zip(m.tracked, moments, strict=True)]
            found = max(found, _explained_by_share(m, values, (1.0,) if more else SHARES))
    return found


def _both(some: Sequence[Moment], others: Sequence[Moment]) -> list[Moment]:
    return [a.joined(b) for a, b in zip(some, others, strict=True)]


def _explained_by_share(m: Measured, values: Sequence[Array], shares: Iterable[float]) -> float:
    """What statistics explain that replaced some share of the population's."""
    pairs = list(zip(m.reference, values, strict=True))
    return max(m.explained([(1 - share) * a + share * b for a, b in pairs]) for share in shares)


def _joined(moments: Iterable[Sequence[Moment]]) -> Moment:
    return functools.reduce(Moment.joined, itertools.chain.from_iterable(moments))


def _rounds(m: Measured, batches: int) -> int:
    kept = float(np.clip(m.slowest.retention, 0.0, 1 - 1e-6))
    if not kept:
        return 1
    return min(math.ceil(math.log(SETTLED) / math.log(kept) / batches), MOST_ROUNDS)


def by_chance(m: Measured) -> float:
    """How far moving averages over batches in random order are from the population."""
    drawn = drawn_at_random(m, None, m.seen)
    return float(np.median([m.deviation(values, m.reference) for values in drawn]))


def drawn_at_random(
    m: Measured, momentum: float | None, among: Sequence[BatchStatistics]
) -> list[list[Array]]:
    """Moving averages over some batches in several random orders."""
    return [moving_averages(m, _redrawn(m, among, 60, draw), momentum) for draw in range(8)]


def moving_averages(
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
    m: Measured, seen: Sequence[BatchStatistics], steps: int, draw: int
) -> list[BatchStatistics]:
    rng = np.random.default_rng(m.seed + draw)
    return [seen[i] for i in rng.integers(0, len(seen), steps)]
