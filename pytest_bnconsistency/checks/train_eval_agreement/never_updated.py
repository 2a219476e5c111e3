"""Statistics that are exactly their initial values though the model was trained."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import (
    Estimated,
    batch_size,
    estimated,
    inference_pass,
    training_pass,
)
from pytest_bnconsistency.checks.train_eval_agreement.lost_statistics import (
    LOST,
    OR_RECALIBRATE,
    in_both_modes,
    lost,
)
from pytest_bnconsistency.checks.train_eval_agreement.summary import layers_of
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import Variables, preserve_state
from pytest_bnconsistency.measurement.input_moments import Moments
from pytest_bnconsistency.measurement.normalization_layers import find_tracked
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep
from pytest_bnconsistency.measurement.tracked_variables import Tracked, tracked_candidates
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.results import CheckResult, Explanation, Finding, Verdict
from pytest_bnconsistency.rules import catalogue as rules

ANY_MOMENTUM = 0.5
INFORMED = 0.5
"""A model knows its targets if its loss in training mode is less than this share of its loss in
inference, and of that of its mean answer for every row. Random weights may, by luck."""

FIT_THE_INITIAL = (
    "(recalibrate(model, x) alone may make it worse: the weights fit the initial statistics)"
)


@dataclass(frozen=True)
class Layers:
    """The statistics of normalization layers, by what moves them.

    Training mode moves those that are `tracked`, training=True in the call of the layer itself
    those that are `unreached`, and another momentum those `by_momentum`. `fresh` are those of all
    these whose layer holds nothing but zeros and ones, as layers begin.
    """

    tracked: Sequence[Tracked]
    unreached: Sequence[Tracked]
    by_momentum: Sequence[Tracked]

    @property
    def every(self) -> list[Tracked]:
        return [*self.tracked, *self.unreached, *self.by_momentum]

    @property
    def reached(self) -> list[Tracked]:
        """Those of layers that training mode reaches."""
        return [*self.tracked, *self.by_momentum]

    @functools.cached_property
    def fresh(self) -> list[Tracked]:
        moved = {id(t.layer) for t in self.every if not at_start(t)}
        return [t for t in self.every if id(t.layer) not in moved]


def layers(context: CheckContext, known: Estimated) -> Layers:
    """The layers that normalise, whether or not training mode moves their statistics."""
    training, tracked, x = known.training, known.tracked, known.batches[0].x
    unreached = [] if tracked else _unreached(context, training, x)
    return Layers(tracked, unreached, _by_momentum(context, training, [*tracked, *unreached], x))


def judged(name: str, context: CheckContext, layers: Layers) -> CheckResult:
    """The answer for statistics at their initial values: a fault, if the model was trained."""
    if untrained := _untrained(context, layers):
        return Unanswered(
            f"the model was never trained: the statistics of {layers_of(untrained)} "
            f"({untrained[0].path} first) are exactly their initial values",
            "train it or load trained weights first; if a loop of your own trained it, say "
            "updates=<number of steps>",
        ).inconclusive(name)
    finding = _finding(context, layers)
    return CheckResult(
        check=name, verdict=Verdict.FAILED, findings=(finding,), evidence=dict(finding.evidence)
    )


def _untrained(context: CheckContext, layers: Layers) -> list[Tracked]:
    """The statistics at their start of layers of which nothing says that they were trained."""
    if context.updates():
        return []
    found = [t for t in layers.fresh if not _weights_moved(context, t.layer)]
    rebuilt = bool(found) and _offsets_moved_after(context, found) and _informed(context)
    return [] if rebuilt else found


def _offsets_moved_after(context: CheckContext, fresh: Sequence[Tracked]) -> bool:
    """Whether the offsets of all layers that run after those at their start are trained.

    An offset begins as one number. Those of a new head are at their start, whatever stands below.
    """
    subject = context.subject
    layers = _layers_from(training_pass(context), {id(t.layer) for t in fresh})
    offsets = [value for layer in layers for value in _vectors(subject, layer)]
    return bool(offsets) and all(np.ptp(value) > 0 for value in offsets)


def _layers_from(training: Pass, begun: Collection[int]) -> list[object]:
    """The other layers that run after the first of those that are `begun`."""
    layers = [call.layer for call in training.calls if call.is_layer]
    first = next((i for i, layer in enumerate(layers) if id(layer) in begun), len(layers))
    return [layer for layer in layers[first:] if id(layer) not in begun]


def _vectors(subject: Subject, layer: object) -> list[Array]:
    """The float vectors among a layer's own variables, of more than one number."""
    own = [variable for variable in subject.own_variables(layer) if variable.dtype.is_floating]
    return [value for v in own if len(v.shape) == 1 and (value := v.numpy()).size > 1]


def _informed(context: CheckContext) -> bool:
    """Whether the model knows its targets in training mode alone.

    Where a model was built anew and given the weights of all but its normalization layers, nothing
    else tells that it was trained. What knows them in inference as well may need no statistics.
    """
    losses = in_both_modes(context, Tries())
    if losses is None:
        return False
    return losses.trained < INFORMED * min(losses.stored, losses.uninformed)


def _unreached(context: CheckContext, training: Pass, x: Any) -> list[Tracked]:
    """Normalization layers that move only if training=True is passed to them."""
    by_batch = _by_batch(context, training, x)
    return [] if by_batch is None else find_tracked(by_batch, x)


def _by_batch(context: CheckContext, training: Pass, x: Any) -> Pass | None:
    """A pass in which the layers are told training=True themselves; None where none takes it."""

    def made() -> Pass | None:
        takes_training = context.subject.takes_training
        modes = {id(layer): True for layer in _holders(context, training) if takes_training(layer)}
        return _pass(context, x, modes) if modes else None

    return context.once("layers told to train", made)


def _by_momentum(
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
        found = find_tracked(_pass(context, x, {}), x)
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
        and tracked_candidates(subject, call.layer)
    ]


def _pass(context: CheckContext, x: Any, modes: dict[int, bool]) -> Pass:
    subject = context.subject
    return Pass(subject, x, training=True, instrument=Moments(subject), modes=modes)


def at_start(tracked: Tracked) -> bool:
    value = tracked.variable.numpy()
    return bool(value.flat[0] in (0, 1) and (value == value.flat[0]).all())


def _weights_moved(context: CheckContext, layer: Any) -> bool:
    """Whether a scale or offset of the layer's own is no longer one number throughout.

    It has as many elements as a statistic. Other weights, of a module that normalises beside other
    things, begin with random numbers.
    """
    candidates = tracked_candidates(context.subject, layer)
    statistics, sizes = {id(v) for v in candidates}, {v.shape.num_elements() for v in candidates}
    return any(
        np.ptp(variable.numpy()) > 0
        for variable in context.subject.own_variables(layer)
        if id(variable) not in statistics
        and variable.dtype.is_floating
        and variable.shape.num_elements() in sizes
    )


def _finding(context: CheckContext, layers: Layers) -> Finding:
    """The finding for statistics that no training step ever moved."""
    untouched, stuck = layers.fresh, layers.unreached
    data, updates = context.given, context.updates()
    first = untouched[0]
    after = f"after {updates} updates" if updates else "though their weights have moved"
    rule, tries = rules.NEVER_UPDATED, Tries()
    if any(t.layer is first.layer for t in layers.by_momentum):
        rule = rules.MOMENTUM
        momentum = first.layer.momentum
        explanation = Explanation(
            cause=f"momentum {momentum:g} keeps all of the old value: the statistics never move",
            tested=f"with momentum {ANY_MOMENTUM}, a pass in training mode moves them",
            remedy=f"momentum 0.9 to 0.99; then train again{OR_RECALIBRATE}",
            established=True,
        )
    elif stuck or _fit_leaves_unchanged(context, data, untouched, tries):
        explanation = _not_reached(context, first, bool(stuck), tries)
    else:
        explanation = _other_steps(context, untouched, tries)
    return rule.finding(
        layer=first.path,
        layers=dict.fromkeys(t.path for t in untouched),
        message=f"the statistics of {layers_of(untouched)} are exactly their initial values "
        f"{after}",
        explanation=explanation,
        bound="no tolerance: exactly 0 or 1 in every channel",
        evidence={"layers": sorted({t.path for t in untouched}), "updates": updates},
    )


def _not_reached(context: CheckContext, first: Tracked, stuck: bool, tries: Tries) -> Explanation:
    """Training mode does not reach the layer: the model does not pass it on, or is not told.

    Where the weights fit the batch all the same, another model was trained that they are of.
    """
    known, losses = estimated(context), None
    if stuck:
        by_batch = _by_batch(context, known.training, known.batches[0].x)
        losses = in_both_modes(context, tries, by_batch)
    if losses is not None and losses.fit_the_batch:
        return lost(losses, ", or recalibrate the model inside that takes training")
    cause = (
        f"training mode does not reach {first.path} in a training step: a model or layer "
        "around it takes no training argument, or does not pass it on"
    )
    remedy = (
        "write call(self, x, training=None) and pass training on to the layers inside; then "
        "train again"
    )
    if stuck and _moves_in_inference(context, first):
        cause = (
            f"{first.path} is given the wrong mode: it runs in inference mode in training, and in "
            "training mode in inference"
        )
        remedy = "pass training on as it is, training=training; then train again"
    if not stuck and context.subject.takes_training(context.subject.model):
        # The model would pass the mode on: the step does not ask for it.
        cause = f"a training step of the model's own runs {first.path} in inference mode"
        remedy = "call self(x, training=True) in train_step; then train again"
    modes = "told training=True, they move"
    tested = modes if stuck else f"one step of training leaves the statistics alone; {modes}"
    return Explanation(
        cause=cause, tested=tested, remedy=f"{remedy} {FIT_THE_INITIAL}", established=True
    )


def _moves_in_inference(context: CheckContext, tracked: Tracked) -> bool:
    seen = inference_pass(context).run(estimated(context).batches[0].x)
    return any(variable is tracked.variable for variable in seen.moved)


def _other_steps(context: CheckContext, untouched: Sequence[Tracked], tries: Tries) -> Explanation:
    """Why, where a training step of the model's own would move them.

    Either other steps trained the weights, with the statistics as they are, or the weights were
    trained with other statistics. Weights fit the mode that they were trained in.
    """
    moves = "one forward pass in training mode moves the statistics"
    in_loop = "the steps ran in inference mode, as model(x) without training=True does in a loop"
    losses = in_both_modes(context, tries)
    layers = {id(t.layer) for t in untouched}
    all_at_start = all(id(t.layer) in layers for t in estimated(context).tracked)
    if losses is not None:
        stored, trained = losses.stored, losses.trained
        if losses.fit_the_batch if all_at_start else stored > trained:
            return lost(losses, OR_RECALIBRATE)
        if all_at_start and stored <= trained:
            return Explanation(
                cause=in_loop,
                tested=f"{moves}, and the weights fit the initial ones: {losses.text()}",
                remedy="call model(x, training=True) in the training loop; then train again "
                + FIT_THE_INITIAL,
                established=True,
            )
    if not all_at_start:
        return Explanation(
            cause=tries.without_cause(
                "not established; the statistics of other layers moved, so the steps ran in "
                f"training mode: either {LOST}, or the layer is new"
            ),
            tested=moves,
            remedy=f"load all weights{OR_RECALIBRATE}",
        )
    return Explanation(
        cause=tries.without_cause(f"not established; either {in_loop}, or {LOST}"),
        tested=moves,
        remedy="call model(x, training=True) in the training loop and train again; or load all "
        f"weights{OR_RECALIBRATE}",
    )


def _fit_leaves_unchanged(
    context: CheckContext, data: Data, untouched: Sequence[Tracked], tries: Tries
) -> bool:
    """Whether a real step of the user's own training does not move the statistics.

    It is undone at once: what is measured later is the model as it was given.
    """
    if context.train_step is not None or not context.subject.trains_on(data):
        return False
    if not tries.may("a step of fit"):
        return False
    before = Variables([t.variable for t in untouched])
    size = min(batch_size(context, data), data.rows)
    with preserve_state(context.subject):
        RealStep(context.subject, None, size)(data.take(slice(0, size)))
        return not before.moved()
