"""What the model says under moving and population statistics and in training mode, with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import (
    Estimated,
    estimated,
    inference_pass,
    shuffled,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.batches import Batches
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.batch_statistics import (
    BatchStatistics,
    batch_statistics,
    said_in,
)
from pytest_bnconsistency.measurement.compared_outputs import Side
from pytest_bnconsistency.measurement.population import Estimate
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep
from pytest_bnconsistency.measurement.tracked_variables import Tracked, write_statistics

BATCHINGS = 3
"""In so many orders the rows are cut into batches, where something hangs on it."""


def measured(context: CheckContext, data: Data, known: Estimated, done: int | None) -> Measured:
    """All that is known after the runs; `done` is the number of updates, as far as it is known."""
    subject, tracked, batches = context.subject, known.tracked, known.batches
    size = known.size
    moving = [t.stored for t in tracked]
    reference = known.estimate.population
    inference = inference_pass(context)

    def under(values: Sequence[Array], rows: Data = data) -> Side:
        write_statistics(tracked, values)
        return Side(inference.over(rows.batches(size)))

    def with_scores(values: Sequence[Array]) -> Side:
        write_statistics(tracked, values)
        return evaluated(context, data, inference, size)

    population = with_scores(reference)
    trained = in_training(context, data, known.seen, batches)
    if not same_shapes(trained, population):  # more outputs than evaluation gives: no reference
        trained = population
    step = _step(context, data, size)
    return Measured(
        subject=subject,
        data=data,
        batches=batches,
        training=known.training,
        inference=inference,
        tracked=tracked,
        moving=moving,
        reference=reference,
        seen=known.seen,
        stored=with_scores(moving),
        population=population,
        trained=trained,
        updates=done or None,  # statistics that moved before the optimizer was made anew
        seed=context.settings.seed,
        under=under,
        step=step,
        again=lambda: other_batchings(context)[0].side,
    )


def _step(context: CheckContext, data: Data, size: int) -> RealStep | None:
    own, subject = context.train_step, context.subject
    possible = own is not None or subject.trains_on(data)
    return RealStep(subject, own, size) if possible else None


def evaluated(context: CheckContext, data: Data, inference: Pass, size: int) -> Side:
    """What the model says in evaluation, as it is, with its scores."""
    side = Side(inference.over(data.batches(size)))
    return Side(side.outputs, _scores(context, data, side, size))


def with_population(
    context: CheckContext, known: Estimated, training: Pass, tracked: Sequence[Tracked]
) -> Side:
    """What evaluation says under the population statistics of these variables, which stay."""
    seen = batch_statistics(training, tracked, known.batches)
    write_statistics(tracked, Estimate(tracked, seen).population)
    return evaluated(context, context.given, inference_pass(context), known.size)


def _scores(context: CheckContext, data: Data, side: Side, size: int) -> dict[str, float]:
    """Loss and metrics: of the outputs where they tell, else by the user's own `evaluate`."""
    if not context.subject.evaluates or data.y is None:
        return {}
    scores = context.subject.scores(data, side.predicted)
    return context.subject.evaluate(data, size) if scores is None else scores


def same_shapes(mine: Side, its: Side) -> bool:
    return [output.shape for output in mine.outputs] == [output.shape for output in its.outputs]


@dataclass(frozen=True)
class Batching:
    """The rows in other batches, in training mode: what each gave, and what was said."""

    size: int
    seen: list[BatchStatistics]
    side: Side


def other_batchings(context: CheckContext) -> list[Batching]:
    """The rows in other batches; where there are not two of the usual size, in halves."""
    data, known = context.given, estimated(context)

    def in_order(draw: int) -> Batching:
        batches = shuffled(context, data, min(known.size, -(-data.rows // 2)), draw)
        seen = list(batch_statistics(known.training, known.tracked, batches))
        return Batching(len(batches.rows[0]), seen, in_training(context, data, seen, batches))

    return context.once("batchings", lambda: [in_order(draw) for draw in range(1, BATCHINGS)])


def in_training(
    context: CheckContext, data: Data, seen: Sequence[BatchStatistics], batches: Batches
) -> Side:
    """What the model said in training mode, in the order of the rows, with its loss."""
    back = np.argsort(batches.order)
    return with_loss(context, data, Side([output[back] for output in said_in(seen)]))


def under(context: CheckContext, m: Measured, values: Sequence[Array]) -> Side:
    """What the model says under other statistics, with its loss where there is one."""
    side = with_loss(context, m.data, m.under(values))
    if side.loss is None and m.stored.loss is not None:
        return Side(side.outputs, context.subject.evaluate(m.data, m.size))
    return side


def with_loss(context: CheckContext, data: Data, side: Side) -> Side:
    return Side(side.outputs, losses_of(context, data, side))


def losses_of(context: CheckContext, data: Data, side: Side) -> dict[str, float]:
    """The compiled loss of what a side says, where there is one, and that of each output."""
    if data.y is None or not context.subject.evaluates:
        return {}
    return context.subject.losses(data, side.predicted)
