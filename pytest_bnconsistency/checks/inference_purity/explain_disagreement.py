"""Why an entry point means something else than inference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from pytest_bnconsistency.checks import size_dependence
from pytest_bnconsistency.checks.budget import Budget, Tries
from pytest_bnconsistency.checks.inference_purity.undoing import (
    NOT_LOCATED,
    TRIED,
    Cause,
    Runner,
    Undoing,
    Unlike,
    stale,
)
from pytest_bnconsistency.data.arrays import Array, Nest, flatten, map_nest
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import (
    differ,
    given_and_returned,
    in_trace,
    outputs_with,
)
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules


@dataclass(frozen=True)
class Called:
    """Rows on which the model is called outside of a trace, and the mode that it is told."""

    x: Nest
    training: bool | None


def disagreement_cause(
    subject: Subject, runner: Runner, unlike: Unlike, called: Called | None
) -> Cause:
    """What makes an entry point give other outputs than inference, found by undoing it.

    `called` is what it is called with, if it is the model's call and inference is traced.
    """
    # What the model's own code adds is no fault: a verdict hangs on it: it has the time it needs.
    tries = Tries(Budget(math.inf) if runner.own else None)
    undoing = Undoing(subject, runner, lambda: not unlike(runner.run()), "it agrees", tries)
    if undoing.retraced:
        return stale("it agrees")

    def adds(step: str, who: str) -> Cause:
        return Cause(
            step,
            Explanation(
                cause=f"{who} adds to what its layers give",
                tested="with the library's own in its place, it agrees",
                remedy="leave it if it is meant; otherwise move it into call, or out of the model",
                established=True,
            ),
            intended=True,
        )

    if found := undoing.mode_or_step(_first_in_training(subject, undoing.calls), adds):
        return found if found.place else replace(found, place=NOT_LOCATED)
    if called is not None and tries.may("the same call in a trace"):
        found = _outside_of_trace(subject, called, unlike)
    return found or Cause(
        NOT_LOCATED,
        Explanation(
            cause=tries.without_cause(f"not established; {TRIED}"),
            remedy="call the model with training=False wherever it is used for inference",
        ),
    )


def _first_in_training(subject: Subject, calls: Sequence[Call]) -> Call | None:
    """The first call of a layer that is told to train, or takes it for granted."""
    modes = (
        (c, c.called_with[-1]) for c in calls if c.is_layer and subject.takes_training(c.layer)
    )
    return next(
        (c for c, mode in modes if mode or (mode is None and subject.training_default(c.layer))),
        None,
    )


def _outside_of_trace(subject: Subject, called: Called, unlike: Unlike) -> Cause | None:
    """The cause where the same call gives other outputs in a trace for any number of rows."""
    seen = Pass(subject, called.x, training=called.training, traced=False)
    try:
        known = unlike(_traced_for(subject, called))
        kept = unlike(Pass(subject, called.x, training=called.training).run(called.x).outputs)
        traced_given, traced = in_trace(seen, called.x)
    except Exception:
        return None  # what can't be traced can't be compared
    place, who, tested = _first_unlike(seen, called.x, traced_given, traced, unlike)
    if kept:
        cause = f"{who} keeps something in Python objects from one call to the next"
        tested = tested or "traced anew, it is as far away from what such a trace gave before"
        remedy = "keep nothing from one call to the next"
    elif known:
        cause = f"{who} reads the number of rows, which a trace for any number does not know"
        tested = tested or "traced for this number of rows alone, it is as far away"
        remedy = size_dependence.BRANCHING
    else:
        cause = f"{who} does something else outside of a trace"
        tested = tested or "traced, it agrees"
        remedy = (
            "look for what differs there: tf.executing_eagerly(), an `if` on values, .numpy(), "
            "what is kept in Python objects"
        )
    explanation = Explanation(cause=cause, tested=tested, remedy=remedy, established=True)
    return Cause(place, explanation)


def _first_unlike(
    seen: Pass,
    x: Nest,
    traced_given: Mapping[str, list[Array]],
    traced: Mapping[str, list[Array]],
    unlike: Unlike,
) -> tuple[str, str, str]:
    """Where something else is given first than in a trace, who does so, and how it was tested."""
    before = "the model's input"
    given, returned = given_and_returned(seen, x)
    for label in size_dependence.in_order(list(returned), list(traced)):
        # A call that is not seen in a run hands its inputs on there.
        mine = returned[label] if label in returned else traced_given[label]
        its = traced[label] if label in traced else given[label]
        if len(its) != len(mine) or not any(map(differ, its, mine)):
            before = label
            continue
        outputs = outputs_with(seen, x, {label: its})
        if outputs is None or unlike(outputs):
            break
        tested = f"given what {label} gives in such a trace, the outputs agree"
        if any(map(differ, given.get(label, []), traced_given.get(label, []))):
            place = f"between {before} and {label}"
            return place, f"the code {place}", tested
        return label, label, tested
    return NOT_LOCATED, "the model's code", ""


def _traced_for(subject: Subject, called: Called) -> list[Array]:
    """What the call gives in a trace for this number of rows alone."""
    tensors = map_nest(tf.convert_to_tensor, called.x)
    function = tf.function(lambda: subject.forward(tensors, called.training), autograph=False)
    with preserve_state(subject):
        return [leaf.numpy() for leaf in flatten(function()) if leaf is not None]


def remembering(label: str) -> Cause:
    """The cause of calls that go wrong after others; `label` is the first call that does."""
    first = f"; {label} is the first to give something else" if label else ""
    return Cause(
        label or NOT_LOCATED,
        Explanation(
            cause="not established; the code keeps something from one call to the next in Python "
            f"objects{first}",
            remedy="keep nothing from one call to the next: no cache by shape, no carried state",
        ),
    )


def refusing(cause: Cause) -> Cause:
    """The cause of an entry point that raises, which nobody means it to."""
    if not cause.explanation.established:
        about_rows = f"if it is about the number of rows, {size_dependence.ANY_NUMBER}"
        remedy = f"fix what the message says; {about_rows}"
        return replace(cause, explanation=replace(cause.explanation, remedy=remedy))
    if not cause.intended:
        return cause
    return Cause(
        cause.place,
        Explanation(
            cause=f"the model's own {cause.place} does not take these rows",
            tested="with the library's own in its place, the outputs agree",
            remedy=size_dependence.ANY_NUMBER,
            established=True,
        ),
    )


def disagree(cause: Cause, disagreeing: Mapping[str, str], reference: str, bound: str) -> Finding:
    """The finding for entry points that one cause explains, by name; the values say how."""
    name, how = next(iter(disagreeing.items()))
    return rules.ENTRIES_DISAGREE.finding(
        layer=cause.place,
        message=f"{name} {how}",
        explanation=cause.explanation,
        bound=bound,
        evidence={"apart": dict(disagreeing), "reference": reference},
    )
