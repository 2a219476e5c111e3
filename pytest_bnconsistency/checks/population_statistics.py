"""The statistics of the data: a pass in training mode over all rows, batch by batch."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.traced_passes import IN_BOTH_MODES, TRAINING
from pytest_bnconsistency.context import door
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.batches import Batches, in_batches
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics, batch_statistics
from pytest_bnconsistency.measurement.input_moments import pass_with_moments
from pytest_bnconsistency.measurement.normalization_layers import find_tracked
from pytest_bnconsistency.measurement.population import Estimate
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.settings import Settings

PARTS, FEWEST_IN_A_PART = 4, 4
"""Where all rows are one batch, parts of it tell how statistics vary from batch to batch."""
REPORTED_BY = 4
"""Single rows that tell whether a row has a variance of its own."""


def batch_size(context: CheckContext, data: Data) -> int:
    """The rows of a training step: those of the data set's own batches, where it has several."""
    own = data.batch_size
    return own if own is not None and own < data.rows else context.settings.batch_size


def shuffled(context: CheckContext, data: Data, size: int, draw: int = 0) -> Batches:
    """The kept rows in the batches that training would see; `draw` draws another order."""
    order = np.random.default_rng(context.settings.seed + draw).permutation(data.rows)
    return in_batches(data, order, size)


def training_pass(context: CheckContext) -> Pass:
    """A pass in training mode that sees the moments of each batch, of the sample without data."""

    def traced() -> Pass:
        data, before = context.data, context.known(IN_BOTH_MODES)
        if data is None:
            return pass_with_moments(context.subject, context.sample(), before)
        batch = data.take(slice(0, batch_size(context, data)))
        return pass_with_moments(context.subject, batch.x, before)

    return context.once(TRAINING, traced)


def inference_pass(context: CheckContext) -> Pass:
    """A pass in inference that records nothing, for rows as those given."""
    some = context.given.take(slice(0, batch_size(context, context.given))).x
    return context.once("inference", lambda: Pass(context.subject, some, training=False))


@dataclass(frozen=True)
class Estimated:
    """The tracked variables, the statistics of all rows, and what each batch of the kept gave.

    `size` is the rows of a batch; `notes` say where it is not that of training.
    """

    size: int
    notes: tuple[str, ...]
    training: Pass
    batches: Batches
    tracked: list[Tracked]
    seen: list[BatchStatistics]
    estimate: Estimate


def in_parts(known: Estimated) -> Estimate:
    """The estimate, where it is of several batches; else that of parts of the one batch.

    Parts vary more from one to the other than batches of all rows do: no error is told too small.
    """
    rows = known.batches.order
    size = max(len(rows) // PARTS, FEWEST_IN_A_PART)
    if known.estimate.batches > 1 or len(rows) < 2 * size:
        return known.estimate
    parts = in_batches(known.batches.data, rows, size)
    return Estimate(known.tracked, batch_statistics(known.training, known.tracked, parts))


def estimated(context: CheckContext) -> Estimated:
    """The population statistics of the given data, taken once: checks restore the state."""
    return context.once("estimated", lambda: _estimated(context, context.given))


def _estimated(context: CheckContext, data: Data) -> Estimated:
    training, size = training_pass(context), batch_size(context, data)
    notes: tuple[str, ...] = ()
    batches = shuffled(context, data, size)
    tracked = find_tracked(training, data.take(batches.order[:size]).x)
    without_variance = _without_variance(training, tracked, batches) if size == 1 else None
    if without_variance is not None:
        own = context.settings.batch_size
        size = own if own > 1 else Settings.batch_size
        batches = shuffled(context, data, size)
        notes = (
            f"a single row has no variance in {without_variance.path}: the statistics, and what "
            f"training says, are those of batches of {size} rows (option batch_size), not of one",
        )
    seen = list(batch_statistics(training, tracked, batches)) if tracked else []
    estimate = Estimate(tracked, seen)
    if tracked and data.rest is not None:
        rest = batch_statistics(training, tracked, data.rest.of(size))
        _add_rest(estimate, rest, data.rest.total)
    return Estimated(size, notes, training, batches, tracked, seen, estimate)


def _add_rest(estimate: Estimate, rest: Iterator[BatchStatistics], total: int | None) -> None:
    """What was given beyond the kept rows is read batch by batch and not kept."""
    of_total = f" of {total}" if total else ""
    for batch in rest:
        estimate.add(batch)
        gc.collect(1)  # tensors that a run leaves in cycles hold on to the batch
        door.get().progress.doing(f"statistics of {estimate.rows} rows{of_total} read")


def _without_variance(training: Pass, tracked: list[Tracked], batches: Batches) -> Tracked | None:
    """A variance that is exactly 0 within every batch, though the batches are not alike."""
    few = itertools.islice(batches, REPORTED_BY)
    seen = list(batch_statistics(training, tracked, few))
    for i, t in enumerate(tracked):
        moments = [moment for batch in seen for moment in batch.moments[i]]
        within = any(moment.variance.any() for moment in moments)
        between = np.ptp([moment.mean for moment in moments], axis=0).any()
        if t.role not in ("mean", "other") and between and not within:
            return t
    return None
