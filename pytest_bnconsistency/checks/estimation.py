"""The statistics of a case's data: a pass in training mode over all rows, batch by batch."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Data
from pytest_bnconsistency.door import door
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.batches import Batches, in_batches
from pytest_bnconsistency.probes.population import Estimate
from pytest_bnconsistency.probes.statistics import BatchStatistics, Tracked
from pytest_bnconsistency.probes.taps import Pass


def batch_size(case: Case, data: Data) -> int:
    """The rows of a training step: those of the data set's own batches, where it has several."""
    own = data.batch_size
    return own if own is not None and own < data.rows else case.settings.batch_size


def shuffled(case: Case, data: Data, draw: int = 0) -> Batches:
    """The kept rows in the batches that training would see; `draw` draws another order."""
    order = np.random.default_rng(case.settings.seed + draw).permutation(data.rows)
    return in_batches(data, order, batch_size(case, data))


def training_pass(case: Case, data: Data) -> Pass:
    if "training" not in case.shared:
        example = data.take(slice(0, batch_size(case, data))).x
        case.shared["training"] = statistics.training_pass(case.subject, example)
    traced: Pass = case.shared["training"]
    return traced


@dataclass(frozen=True)
class Estimated:
    """The tracked variables, the statistics of all rows, and what each batch of the kept gave."""

    training: Pass
    batches: Batches
    tracked: list[Tracked]
    seen: list[BatchStatistics]
    estimate: Estimate


def estimated(case: Case, data: Data) -> Estimated:
    """The population statistics of a case, taken once: state is restored between checks.

    What was given beyond the kept rows is read batch by batch and not kept.
    """
    if "estimated" not in case.shared:
        training, batches = training_pass(case, data), shuffled(case, data)
        tracked = statistics.find(training, batches[0].x)
        seen = list(statistics.batch_statistics(training, tracked, batches)) if tracked else []
        estimate = Estimate(tracked, seen)
        if data.rest is not None and tracked:
            size, total = batch_size(case, data), data.rest.total
            parts = (part for block in data.rest for part in block.batches(size))
            for batch in statistics.batch_statistics(training, tracked, parts):
                estimate.add(batch)
                gc.collect(1)  # tensors that a run leaves in cycles hold on to the batch
                door.get().progress(estimate.rows, total)
        case.shared["estimated"] = Estimated(training, batches, tracked, seen, estimate)
    known: Estimated = case.shared["estimated"]
    return known
