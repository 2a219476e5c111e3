"""Statistics that are exactly their initial values though the model was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import batch_size, estimated
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import Variables, preserve_state
from pytest_bnconsistency.measurement import normalization_layers as statistics
from pytest_bnconsistency.measurement.compared_outputs import Side
from pytest_bnconsistency.measurement.normalization_layers import Tracked
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted

ANY_MOMENTUM = 0.5


def untold(context: CheckContext, training: Pass, x: Any) -> list[Tracked]:
    """Normalization layers that move only if training=True is passed to them."""
    modes = {
        id(layer): True for layer in _holders(context, training) if _takes_training(context, layer)
    }
    if not modes:
        return []
    return statistics.find(_pass(context, x, modes), x)


def kept_by_momentum(
    context: CheckContext, training: Pass, tracked: Sequence[Tracked], x: Any
) -> list[Tracked]:
    """Normalization layers that do not move, but would with another momentum."""
    moving = {id(t.layer) for t in tracked}
    by_momentum = [
        layer
        for layer in _holders(context, training)
        if id(layer) not in moving and isinstance(getattr(layer, "momentum", None), (int, float))
    ]
    if not by_momentum:
        return []
    with preserve_state(context.subject):
        for layer in by_momentum:
            layer.momentum = ANY_MOMENTUM
        found = statistics.find(_pass(context, x, {}), x)
    layers = {id(layer) for layer in by_momentum}
    return [t for t in found if id(t.layer) in layers]


def _holders(context: CheckContext, training: Pass) -> list[Any]:
    """Trainable layers that ran and hold what could be statistics."""
    subject = context.subject
    return [
        call.layer
        for call in training.calls
        if call.is_layer
        and subject.trainable(call.layer)
        and statistics.tracked_candidates(subject, call.layer)
    ]


def _takes_training(context: CheckContext, layer: Any) -> bool:
    return context.subject.takes_training(layer)


def _pass(context: CheckContext, x: Any, modes: dict[int, bool]) -> Pass:
    subject = context.subject
    return Pass(subject, x, training=True, instrument=statistics.Moments(subject), modes=modes)


def fresh(tracked: Sequence[Tracked]) -> list[Tracked]:
    """The statistics of layers that hold nothing but zeros and ones, as layers begin."""
    moved = {id(t.layer) for t in tracked if not _at_start(t)}
    return [t for t in tracked if id(t.layer) not in moved]


def _at_start(tracked: Tracked) -> bool:
    value = tracked.variable.numpy()
    return bool(value.flat[0] in (0, 1) and (value == value.flat[0]).all())


def weights_moved(context: CheckContext, layer: Any) -> bool:
    """Whether a scale or offset of the layer's own is no longer one number throughout."""
    candidates = {id(v) for v in statistics.tracked_candidates(context.subject, layer)}
    return any(
        np.ptp(variable.numpy()) > 0
        for variable in context.subject.own_variables(layer)
        if id(variable) not in candidates and variable.dtype.is_floating
    )


def finding(
    context: CheckContext,
    data: Data,
    untouched: Sequence[Tracked],
    stuck: Sequence[Tracked],
    by_momentum: Sequence[Tracked],
    updates: int | None,
) -> Finding:
    """The finding for statistics that no training step ever moved.

    `stuck` move when they are told training=True, `by_momentum` with another momentum.
    """
    first = untouched[0]
    after = f"after {updates} updates" if updates else "though their weights have moved"
    rule, tries = rules.NEVER_UPDATED, Tries()
    if any(t.layer is first.layer for t in by_momentum):
        rule = rules.MOMENTUM
        momentum = first.layer.momentum
        explanation = Explanation(
            cause=f"momentum {momentum:g} keeps all of the old value: the statistics never move",
            tested=f"with momentum {ANY_MOMENTUM}, a pass in training mode moves them",
            remedy="momentum 0.9 to 0.99; then train again",
            established=True,
        )
    elif stuck or _fit_leaves_unchanged(context, data, untouched, tries):
        explanation = _not_reached(context, first, bool(stuck))
    else:
        explanation = _other_steps(context, data, untouched, tries)
    count = counted(len({id(t.layer) for t in untouched}), "normalization layer")
    remedy = f"{explanation.remedy}, or recalibrate(model, x)"
    return rule.finding(
        layer=first.path,
        layers=dict.fromkeys(t.path for t in untouched),
        message=f"the statistics of {count} are exactly their initial values {after}",
        explanation=replace(explanation, remedy=remedy),
        bound="no tolerance: exactly 0 or 1 in every channel",
        evidence={"layers": sorted({t.path for t in untouched}), "updates": updates},
    )


def _not_reached(context: CheckContext, first: Tracked, stuck: bool) -> Explanation:
    """Training mode does not reach the layer: the model does not pass it on, or is not told."""
    cause = (
        f"training mode does not reach {first.path} in a training step: a model or layer "
        "around it takes no training argument, or does not pass it on"
    )
    remedy = (
        "write call(self, x, training=None) and pass training on to the layers inside; then "
        "train again"
    )
    if not stuck and context.subject.takes_training(context.subject.model):
        # The model would pass the mode on: the step does not ask for it.
        cause = f"a training step of the model's own runs {first.path} in inference mode"
        remedy = "call self(x, training=True) in train_step; then train again"
    modes = "told training=True, they move"
    tested = modes if stuck else f"one step of training leaves the statistics alone; {modes}"
    return Explanation(cause=cause, tested=tested, remedy=remedy, established=True)


def _other_steps(
    context: CheckContext, data: Data, untouched: Sequence[Tracked], tries: Tries
) -> Explanation:
    """Why, where a training step of the model's own would move them.

    Either other steps trained the weights, with the statistics as they are, or the weights were
    trained with other statistics. Weights fit the mode that they were trained in.
    """
    moves = "one forward pass in training mode moves the statistics"
    in_loop = "the steps ran in inference mode, as model(x) without training=True does in a loop"
    lost = "the weights were trained with other statistics, which were not saved, loaded or kept"
    losses = _losses(context, data, tries)
    if losses is not None:
        stored, trained = losses
        modes = f"loss {stored:.2g} with the initial statistics, {trained:.2g} in training mode"
        if stored > trained:
            return Explanation(
                cause=lost,
                tested=f"the weights fit the statistics of the batch: {modes}",
                remedy="save and load the weights that do not train along with those that do",
                established=True,
            )
        layers = {id(t.layer) for t in untouched}
        if all(id(t.layer) in layers for t in estimated(context).tracked):
            return Explanation(
                cause=in_loop,
                tested=f"{moves}, and the weights fit the initial ones: {modes}",
                remedy="call model(x, training=True) in the training loop; then train again",
                established=True,
            )
    return Explanation(
        cause=tries.without_cause(f"not established; either {in_loop}, or {lost}"),
        tested=moves,
        remedy="call model(x, training=True) in the training loop, or load all weights",
    )


def _losses(context: CheckContext, data: Data, tries: Tries) -> tuple[float, float] | None:
    """The loss under the stored statistics and in training mode, where there is one."""
    subject, known = context.subject, estimated(context)
    if data.y is None or not subject.compiled or not known.seen:
        return None
    if not tries.may("the loss in either mode"):
        return None
    inference = Pass(subject, known.batches[0].x, training=False)
    ordered = data.take(known.batches.order)
    trained = zip(*(batch.outputs for batch in known.seen), strict=True)
    sides = Side(inference.over(known.batches)), Side(list(map(np.concatenate, trained)))
    both = tuple(subject.loss(ordered, side.predicted) for side in sides)
    return None if both[0] is None or both[1] is None else (both[0], both[1])


def _fit_leaves_unchanged(
    context: CheckContext, data: Data, untouched: Sequence[Tracked], tries: Tries
) -> bool:
    """Whether a real step of the user's own training does not move the statistics."""
    if context.train_step is not None or not context.subject.trains_on(data):
        return False
    if not tries.may("a step of fit"):
        return False
    before = Variables([t.variable for t in untouched])
    size = min(batch_size(context, data), data.rows)
    RealStep(context.subject, None, size)(data.take(slice(0, size)))
    return not before.moved()
