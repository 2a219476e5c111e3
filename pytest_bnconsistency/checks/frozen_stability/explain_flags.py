"""Flags: one that is not what it is said to be, that changes midway, or that nobody heeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_bnconsistency.checks.frozen_stability.cause import (
    FLAGS,
    WRITERS,
    Cause,
    explanation_of,
    refusal,
    time_for,
)
from pytest_bnconsistency.checks.frozen_stability.explain_updates import by_parent
from pytest_bnconsistency.checks.frozen_stability.explain_writers import named_writers
from pytest_bnconsistency.checks.frozen_stability.measured import (
    Frozen,
    Measured,
    paths_of,
    variables_of,
)
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.execution.trainable_flags import flags_set
from pytest_bnconsistency.models.owned_objects import as_variable
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import listed


def overridden(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in m.judged if f.inference_only and (f in left or f in m.by_batch)]
    if not layers:
        return None
    proof = (
        "with trainable=False on the same layers, their statistics stay and training mode gives "
        "what inference gives"
    )
    explanation = explanation_of(
        f"{m.steps.path} runs {paths_of(layers)} in training mode, in spite of {layers[0].by}",
        "set trainable = False on each of these normalization layers and compile again; or give "
        "the base to a layer that calls it with training=False in its own call",
        proof if time_for(FLAGS) and m.all_stay_in_a_pass(layers, frozen=True) else "",
    )
    return Cause(rules.INFERENCE_OVERRIDDEN, layers, explanation)


def set_midway(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in left if m.freed(f) and not f.own_flag]
    if not layers or not time_for(FLAGS):
        return None
    kept, tested = layers, ""
    with flags_set([f.call.layer for f in layers], m.subject.layers(), let=False):
        try:
            kept = m.staying(layers) or m.staying(layers, retrace=True)
        except BNConsistencyError as error:
            tested = f"with their flags held at False {refusal(error)}"
    if not kept:
        return None
    by = listed(dict.fromkeys(m.freed_by(f) for f in kept))
    explanation = Explanation(
        cause=f"{by} sets trainable of {paths_of(kept)} from False to True while training runs",
        tested=tested or "with their flags held at False, their state stays",
        remedy="put back the flag that was there before (was = layer.trainable; ...; "
        "layer.trainable = was), rather than True; or, where it is to train in its turn (a "
        "discriminator), accept that by the option ignore",
        established=not tested,
    )
    return Cause(rules.FROZEN_MOVES, kept, explanation)


def child(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    free = [f for f in left if f.own_flag and f.above]
    meant = (
        "; or, where it is to train, trainable = True on the parent and False on all else in it"
    )
    return _unfrozen(m, free, rules.CHILD_TRAINABLE, ",", meant)


def expected(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    free = [f for f in left if f.own_flag and f.expected]
    return _unfrozen(m, free, rules.NOT_FROZEN, " says frozen,")


def _unfrozen(
    m: Measured, free: Sequence[Frozen], rule: Rule, says: str, meant: str = ""
) -> Cause | None:
    if not free:
        return None
    by = f"{free[0].by}{says} but the layer's own flag is True"
    remedy = (
        "set trainable = False on the layer itself, after every trainable = True on a parent, "
        f"and compile again{meant}"
    )
    proof = ""
    if time_for(FLAGS):
        heeding = m.all_stay_in_a_pass(free, frozen=True)
        try:
            staying = len(m.staying(free, freeze=True, retrace=True)) == len(free)
        except BNConsistencyError as error:
            tried = f"with trainable=False on the layer itself {refusal(error)}"
            return Cause(rule, free, Explanation(cause=by, tested=tried, remedy=remedy))
        if not (heeding and staying):
            return Cause(rule, free, _whatever_the_flag(m, free, by, heeding=heeding))
        proof = "with trainable=False on the layer itself, its state stays"
    return Cause(rule, free, explanation_of(f"{by}{_by_decay(m, free)}", remedy, proof))


def _whatever_the_flag(
    m: Measured, free: Sequence[Frozen], by: str, *, heeding: bool
) -> Explanation:
    """Their state moves with trainable=False as well: does it in inference mode?

    Layers that are `heeding` their flag leave it alone themselves: somebody else writes to it.
    """
    as_well = f"{by}, and with trainable=False as well"
    if heeding:
        layers = [f.call.layer for f in free]
        written = named_writers(m.steps, variables_of(free), layers) if time_for(WRITERS) else None
        if written is not None:
            own = written.explanation
            return replace(own, cause=f"{as_well}, {own.cause}")
    elif (
        any(f.any_of(m.by_forward) for f in free)
        and time_for("inference mode forced")
        and m.all_stay_in_a_pass(free, frozen=False)
    ):
        return explanation_of(
            f"{by}, and with trainable=False its state moves as well: it is updated whenever "
            "training is true",
            "in the layer: if training and self.trainable: update, and set trainable = False; or "
            "call it with training=False",
            "told training=False, its state stays; with trainable=False alone it does not",
        )
    parent = by_parent(m, free)
    if parent is not None and len(parent.layers) == len(free):
        own = parent.explanation
        return replace(own, cause=f"{as_well}, {own.cause}")
    return explanation_of(
        f"not established; {by}, and with trainable=False its state moves as well",
        "call the layer in inference mode while the others train, and leave its weights out of "
        "what the step writes to; or take it out of frozen=...",
        "",
    )


def _by_decay(m: Measured, free: Sequence[Frozen]) -> str:
    """A clause where only weight decay moves the layers; else ""."""
    if any(f.any_of(m.by_forward) for f in free) or not time_for(WRITERS):
        return ""
    try:
        decay = named_writers(m.steps, variables_of(free))
    except BNConsistencyError:
        return ""
    if decay is None or not decay.by_decay:
        return ""
    return f"; no gradient moves it, but {decay.explanation.cause} does"


def not_compiled(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in left if not f.inference_only and not f.expected]
    if not layers or any(f.any_of(m.by_forward) for f in layers):
        return None
    if not time_for("compiling again"):
        return None
    explanation = _stale_function(m)
    try:
        kept = m.staying(layers, retrace=True)
    except BNConsistencyError as error:
        if not m.subject.unknown_to_optimizer():
            return None
        tried = f"traced anew {refusal(error)}"
        kept, explanation = layers, replace(explanation, tested=tried, established=False)
    return Cause(rules.RECOMPILE_MISSING, kept, explanation)


def _stale_function(m: Measured) -> Explanation:
    if m.steps.train_step is None:
        text = (
            "fit still runs the training function that was compiled before the layers were frozen"
        )
        remedy = "call model.compile(...) again after changing trainable"
    else:
        text = "train_step still runs what was traced before the layers were frozen"
        remedy = "make the tf.function (or compile the model) anew after changing trainable"
    proof = "with the training function built anew, their state stays"
    return Explanation(cause=text, remedy=remedy, tested=proof, established=True)


def not_passed_on(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    """A flag of a layer that its weights don't have."""
    of_model = getattr(m.subject.model, "trainable_variables", ())
    training = frozenset(id(as_variable(v)) for v in of_model)
    layers = [f for f in left if not f.own_flag and f.any_of(training)]
    if not layers or not time_for(FLAGS):
        return None
    try:
        kept = m.staying(layers, freeze=True, retrace=True)
    except BNConsistencyError:
        return None
    if not kept:
        return None
    flags = f"the flag of {kept[0].path} is False, those of its weights are True"
    if m.subject.constructor_freezes():
        cause = f"weights were set trainable on their own: {flags}"
        remedy = "set trainable = True and then False on the layer, and compile again"
    else:
        cause = f"this version of Keras ignores trainable=False in the constructor: {flags}"
        remedy = (
            "leave it out there, set trainable = False on the layer after it was built (called "
            "once), and compile again"
        )
    explanation = Explanation(
        cause=cause,
        tested="with the flags of the weights at False, too, their state stays",
        remedy=remedy,
        established=True,
    )
    return Cause(rules.FROZEN_MOVES, kept, explanation)
