"""What the model says under moving and population statistics and in training mode, with scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.estimation import Estimated, shuffled
from pytest_bnconsistency.data import Array, Data
from pytest_bnconsistency.diagnosis.measured import Measured
from pytest_bnconsistency.diagnosis.sides import Side
from pytest_bnconsistency.probes import statistics, updates
from pytest_bnconsistency.probes.batches import Batches, in_batches
from pytest_bnconsistency.probes.resting import RealStep
from pytest_bnconsistency.probes.statistics import BatchStatistics
from pytest_bnconsistency.probes.taps import Pass

T = TypeVar("T")


def measured(case: Case, data: Data, known: Estimated, done: int | None) -> Measured:
    """All that is known after the runs; `done` is the number of updates, as far as it is known."""
    subject, tracked, batches = case.subject, known.tracked, known.batches
    size = known.size
    moving = [t.variable.numpy().astype(np.float64) for t in tracked]
    reference = known.estimate.population
    inference = Pass(subject, batches[0].x, training=False)

    def under(values: Sequence[Array], rows: Data = data) -> Side:
        statistics.write(tracked, values)
        return Side(_outputs(inference, rows, size))

    def with_scores(values: Sequence[Array]) -> Side:
        side = under(values)
        return Side(side.outputs, _scores(case, data, side, size))

    step = _step(case, data, size)
    return Measured(
        subject,
        data,
        batches,
        known.training,
        inference,
        tracked,
        moving,
        reference,
        known.seen,
        with_scores(moving),
        with_scores(reference),
        _in_training(case, data, known.seen, batches),
        done or None,  # statistics that moved before the optimizer was made anew
        case.settings.seed,
        under,
        step,
        _once(lambda: [] if step is None else updates.observed(step, tracked, batches[0])),
        _once(lambda: _in_other_batches(case, data, known)),
    )


def _step(case: Case, data: Data, size: int) -> RealStep | None:
    own, subject = case.train_step, case.subject
    possible = own is not None or (subject.compiled and data.y is not None)
    return RealStep(subject, own, size) if possible else None


def _once(measure: Callable[[], T]) -> Callable[[], T]:
    known: list[T] = []

    def measured() -> T:
        if not known:
            known.append(measure())
        return known[0]

    return measured


def _outputs(inference: Pass, data: Data, size: int) -> list[Array]:
    parts = [inference.run(batch.x).outputs for batch in data.batches(size)]
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


def _scores(case: Case, data: Data, side: Side, size: int) -> dict[str, float]:
    """Loss and metrics: of the outputs where they tell, else by the user's own `evaluate`."""
    if not case.subject.compiled or data.y is None:
        return {}
    outputs = side.outputs[0] if len(side.outputs) == 1 else side.outputs
    scores = case.subject.scores(data, outputs)
    return case.subject.evaluate(data, size) if scores is None else scores


def _in_training(
    case: Case, data: Data, seen: Sequence[BatchStatistics], batches: Batches
) -> Side:
    """What the model said in training mode, in the order of the rows, with its loss."""
    back = np.argsort(batches.order)
    parts = zip(*(batch.outputs for batch in seen), strict=True)
    side = Side([np.concatenate(leaves)[back] for leaves in parts])
    loss = loss_of(case, data, side)
    return side if loss is None else Side(side.outputs, {"loss": loss})


def _in_other_batches(case: Case, data: Data, known: Estimated) -> Side:
    """What the model says in training mode of the same rows in other batches."""
    others = shuffled(case, data, known.size, draw=1)
    if len(others) == 1:
        others = in_batches(data, known.batches.order, -(-data.rows // 2))
    seen = list(statistics.batch_statistics(known.training, known.tracked, others))
    return _in_training(case, data, seen, others)


def loss_of(case: Case, data: Data, side: Side) -> float | None:
    """The compiled loss of what a side says, where there is one."""
    if data.y is None or not case.subject.compiled:
        return None
    outputs = side.outputs[0] if len(side.outputs) == 1 else side.outputs
    return case.subject.loss(data, outputs)
