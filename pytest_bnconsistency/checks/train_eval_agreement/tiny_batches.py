"""Weights that know their rows in batches of few, as they were trained, and in no others.

Each of these batches normalises by itself: no statistics that are stored do the same for all rows.
Those that are stored are nearer to those within such batches than to those of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement.measure import losses_of, with_loss
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.summary import disagreement
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.batch_statistics import (
    BatchStatistics,
    batch_statistics,
    mean_values,
    said_in,
)
from pytest_bnconsistency.measurement.compared_outputs import Side, number, right, uninformed
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted

FEW, WIDE = (1, 2, 4), 32
TRIED, TRIED_OF_LARGE = 48, 8
"""So many rows are tried, and so many of large models."""
FAR_LESS, HARMFUL = 0.5, 0.1
"""The share of every other loss that is lost at most in batches of few rows, and the share of the
loss of a mean answer by which evaluation loses more."""
NEARER = 0.75
"""What is stored is nearer to what such batches come to: by this share of how far it is from what
wide ones do."""


def found(context: CheckContext, known: Estimated, m: Measured) -> Finding | None:
    # As they are given, rows may stand in pairs that tell their classes.
    rows = m.batches.order[: TRIED if m.small else TRIED_OF_LARGE]
    data = m.data.take(rows)
    stored, wide = _of(context, m.stored, rows, data), _of(context, m.trained, rows, data)
    if known.size < WIDE:
        wide = with_loss(context, data, Side(known.training.over(data.batches(WIDE))))
    others = [side.loss for side in (stored, wide, m.population) if side.loss is not None]
    constant = losses_of(context, data, uninformed(stored)).get("loss")
    if len(others) < 3 or constant is None:
        return None
    most = min(FAR_LESS * min(others), others[0] - HARMFUL * abs(constant))
    if most <= 0 or not Tries().may("batches of few rows"):
        return None
    for size, few in _in_few(context, m, data):
        if few.loss is not None and few.loss < most and not _decides_less(few, stored, data):
            return _finding(m, data, stored, few, size, wide)
    return None


def _of(context: CheckContext, side: Side, rows: Array, data: Data) -> Side:
    return with_loss(context, data, Side([output[rows] for output in side.outputs]))


def _in_few(context: CheckContext, m: Measured, data: Data) -> Iterator[tuple[int, Side]]:
    """What training mode says in batches of few rows, where their statistics are those stored."""
    wide = _off(m, _seen(m, data, WIDE))
    for size in FEW:
        try:
            seen = _seen(m, data, size)
        except Exception:  # a batch that the model cannot take
            continue
        if _off(m, seen) < NEARER * wide:
            yield size, with_loss(context, data, Side(said_in(seen)))


def _seen(m: Measured, data: Data, size: int) -> list[BatchStatistics]:
    return list(batch_statistics(m.training, m.tracked, data.batches(size)))


def _off(m: Measured, seen: Sequence[BatchStatistics]) -> float:
    """How far what is stored is from what averages over these batches come to."""
    stored = zip(m.far, m.moving, mean_values(seen), strict=True)
    return sum(float(np.sum(far(moving, value))) for far, moving, value in stored)


def _decides_less(few: Side, stored: Side, data: Data) -> bool:
    now, before = right(few, data), right(stored, data)
    return now is not None and before is not None and now < before


def _finding(m: Measured, data: Data, stored: Side, few: Side, size: int, wide: Side) -> Finding:
    rows = "single rows" if size == 1 else f"{size} rows"
    losses = [number(side.loss or 0.0) for side in (few, wide, stored)]
    paths = list(dict.fromkeys(t.path for t in m.tracked))
    return rules.TINY_BATCHES.finding(
        layer=paths[0],
        layers=paths,
        message=disagreement(stored, few, data),
        explanation=Explanation(
            cause=f"the weights were trained on batches of {rows}: each normalises by itself "
            f"there, and no stored statistics of {counted(len(paths), 'layer')} do the same",
            tested=f"in training mode, batches of {rows} have a loss of {losses[0]}, and wider "
            f"ones {losses[1]}; evaluation has {losses[2]}",
            remedy="train with larger batches (16 or more), or with GroupNormalization in place "
            "of these layers; to recalibrate does not help",
            established=True,
        ),
        bound=f"fails with a loss of less than {FAR_LESS:.0%} of evaluation's",
        evidence={"rows": size, "evaluation": stored.scores, "training": few.scores},
    )
