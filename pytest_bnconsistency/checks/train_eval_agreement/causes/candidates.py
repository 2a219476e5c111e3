"""Causes of a disagreement, each as what would be stored if it were so.

A cause is named if the statistics that it predicts, under today's weights, are nearer to the
stored ones than half of the distance from those to the population statistics, and no other cause
comes nearer.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import (
    HALF,
    OF_LARGE,
    TRIED_ROWS,
    Cause,
    Try,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.changed_weights import other_weights
from pytest_bnconsistency.checks.train_eval_agreement.causes.initial_values import set_back, stale
from pytest_bnconsistency.checks.train_eval_agreement.causes.other_epsilon import other_epsilon
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import own_steps
from pytest_bnconsistency.checks.train_eval_agreement.causes.preprocessing import preprocessed
from pytest_bnconsistency.checks.train_eval_agreement.causes.preprocessing_layers import misfit
from pytest_bnconsistency.checks.train_eval_agreement.causes.rewritten import rewritten
from pytest_bnconsistency.checks.train_eval_agreement.causes.rows_in_order import (
    in_order,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.small_momentum import small_momentum
from pytest_bnconsistency.checks.train_eval_agreement.causes.weights_among_statistics import (
    weights_among_statistics,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.batches import in_batches
from pytest_bnconsistency.measurement.batch_statistics import batch_statistics, mean_values
from pytest_bnconsistency.models.owned_objects import name_of, widens
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

LAST_ROWS = 512
"""So many rows are tried as the last of each epoch, in small models."""
ENOUGH = 16
"""A variance within so many rows is about that of the data."""


def predicted(m: Measured, tries: Tries) -> Cause | None:
    """The cause that explains most of what is stored, if one explains half."""
    found = list[Cause]()
    for attempt in ATTEMPTS:
        look = functools.partial(_all, attempt, m)
        causes = tries.found(attempt.name, look, list[Cause]())
        found += [cause for cause in causes if cause.sure or cause.share > HALF]
        if found and _settles(m, attempt, found):
            break
        if tries.cut:
            return None
    else:
        if not tries.complete:
            return None  # what was not tried may explain more
    return max(found, key=lambda cause: (cause.sure, cause.share), default=None)


def _all(attempt: Attempt, m: Measured) -> list[Cause]:
    """What is found until the model refuses a batch: it was not trained on such."""
    found = []
    with contextlib.suppress(RefusedError):
        for cause in attempt.find(m):
            found.append(cause)
    return found


def _settles(m: Measured, attempt: Attempt, found: Sequence[Cause]) -> bool:
    """Whether nothing that is tried after it may explain more.

    That initial values are left is arithmetic where the updates are known; rows of mean 0 and
    variance 1 would store much the same.
    """
    if any(cause.sure for cause in found):
        return True
    if attempt.by_updates:
        return m.few_updates
    return any(cause.share > 0.95 for cause in found)


def _variance_shift(m: Measured) -> Iterator[Cause]:
    """Re-estimate with dropout on: if that is what is stored, dropout is what differs."""
    values = m.noisy
    if values is None:
        return
    fed = m.training.fed_by_random
    feeding = {id(layer): layer for t in m.tracked for layer in fed.get(id(t.layer), ())}
    drawing = list(feeding.values()) or m.training.random_layers  # only a trace tells what feeds
    names = _names(drawing)
    yield Cause.tested(
        rules.VARIANCE_SHIFT,
        cause=f"{listed(names)} {'feeds' if len(names) == 1 else 'feed'} a normalization layer: "
        "its statistics were taken with random layers on, and evaluation runs with them off",
        tested="the stored statistics are those with the random layers on, not those with them "
        "off",
        remedy=_without_shift(drawing),
        share=max(m.explained(values), _variances_explained(m, values)),
    )


def _without_shift(drawing: Sequence[Any]) -> str:
    """What to do about random layers: what augments can't stand behind a normalization layer."""
    widening = _names(layer for layer in drawing if widens(layer))
    others = _names(layer for layer in drawing if not widens(layer))
    return "; or ".join(
        [
            *([f"put {listed(widening)} after the last normalization layer"] if widening else []),
            *([f"weaken {listed(others)}"] if others else []),
            "recalibrate(model, x)",
        ]
    )


def _names(layers: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(name_of, layers)))


def _variances_explained(m: Measured, values: Sequence[Array]) -> float:
    def deviation(given: Sequence[Array]) -> float:
        ratios = [
            np.abs(np.log(np.maximum(stored, 1e-30) / np.maximum(value, 1e-30))).ravel()
            for t, stored, value in zip(m.tracked, m.moving, given, strict=True)
            if t.role == "variance"
        ]
        return float(np.mean(np.concatenate(ratios))) if ratios else 0.0

    whole = deviation(m.reference)
    return 1 - deviation(values) / whole if whole else 0.0


def _small_batches(m: Measured) -> Iterator[Cause]:
    """Batches of few rows, and a single row at the end of each epoch."""
    yield from _few_rows(m)
    size = m.size
    if m.data.total % size == 1 and m.data.total > size:
        yield _single_row_last(m, size)


def _few_rows(m: Measured) -> Iterator[Cause]:
    size, rows = m.size, min(m.data.rows, TRIED_ROWS if m.small else OF_LARGE)
    order = m.batches.order
    for few in (4, 2, 1):
        if few > size:
            continue
        batches = in_batches(m.data, order[:rows], few, ragged=True)
        values = mean_values(list(batch_statistics(m.training, m.tracked, batches)))
        kind = "single rows" if few == 1 else f"{few} rows"
        yield Cause.tested(
            rules.TINY_BATCHES,
            cause=f"training ran on batches of {kind}: a variance within so few rows is not that "
            "of the data",
            tested=f"statistics taken over batches of {kind} are what is stored",
            remedy=f"train with larger batches ({ENOUGH} or more), or with GroupNormalization; or "
            f"recalibrate(model, x, batch_size={max(size, ENOUGH)})",
            share=m.explained(values),
        )


def _single_row_last(m: Measured, size: int) -> Cause:
    """Which row it was is not known: each is tried, in all epochs or in the last alone."""
    order = m.batches.order
    rows = np.unique(
        [
            m.data.rows - 1,  # as given: rows that nobody shuffled end on it
            *order[-OF_LARGE:],
            *(range(min(m.data.rows, LAST_ROWS)) if m.small else ()),
        ]
    )
    single = in_batches(m.data, rows, 1, ragged=True)
    batches = list(batch_statistics(m.training, m.tracked, single))
    seen, mean = [batch.values for batch in batches], mean_values(batches)
    updates = math.ceil(m.data.total / size)
    ended = [_ended(m, last, before, updates) for last in seen for before in (last, mean)]
    return Cause.tested(
        rules.TINY_BATCHES,
        cause="each epoch ended with a batch of a single row, which has no variance of its own",
        tested="moving averages that end on a single row are what is stored",
        remedy="drop the remainder (dataset.batch(..., drop_remainder=True)), or use another "
        "batch size; or recalibrate(model, x)",
        share=max(map(m.explained, ended)),
    )


def _ended(
    m: Measured, last: Sequence[Array], before: Sequence[Array], updates: int
) -> list[Array]:
    """Moving averages after epochs of so many updates, each of which ended on `before`, and the
    last on `last`.
    """
    values = []
    for t, reference, final, earlier in zip(m.tracked, m.reference, last, before, strict=True):
        kept = float(np.clip(t.retention, 0.0, 1 - 1e-6))
        of_last = 1 - kept
        of_earlier = of_last / (1 - kept**updates) - of_last
        others = 1 - of_last - of_earlier
        values.append(others * reference + of_earlier * earlier + of_last * final)
    return values


@dataclass(frozen=True)
class Attempt:
    """A way to look for causes, and what it is called for a reader.

    `by_updates` says that it reckons with the number of updates.
    """

    name: str
    find: Try
    by_updates: bool = False


ATTEMPTS = (
    Attempt("the numbers of layers of preprocessing", misfit),
    Attempt("other weights that the optimizer has", other_weights),
    Attempt("few updates", stale, by_updates=True),
    Attempt("weights and statistics in each other's place", weights_among_statistics),
    Attempt("vectors in another place, order or form", rewritten),
    Attempt("another epsilon", other_epsilon),
    Attempt("random layers on", _variance_shift),
    Attempt("batches of few rows", _small_batches),
    Attempt("real steps with the weights put back", own_steps),
    Attempt("rows in an order", in_order),
    Attempt("the momentum", small_momentum),
    Attempt("other preprocessing", preprocessed),
    Attempt("statistics set back", set_back),
)
