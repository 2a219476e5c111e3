"""Why inference changes state, does not repeat itself, or means something else another way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data import Array, Nest, flatten, map_nest
from pytest_bnconsistency.diagnosis import rules, sizes
from pytest_bnconsistency.probes.holding import Held
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.probes.values import (
    differ,
    given_and_returned,
    in_trace,
    outputs_with,
    repeats_with,
    results_of,
    values_of,
)
from pytest_bnconsistency.results import Finding
from pytest_bnconsistency.subjects import Call, Proceed, Subject
from pytest_bnconsistency.words import counted, listed

Run = Callable[[], list[Array]]
"""Runs an entry point, traced anew, and gives its outputs."""
Unlike = Callable[[list[Array]], str]
"""How outputs differ from those of inference, empty where they don't."""


@dataclass(frozen=True)
class Cause:
    """What sets an entry point apart, and what showed it; nothing did where `tested` is empty.

    `intended` where the model adds to its inference by methods of its own.
    """

    place: str
    text: str
    tested: str
    remedy: str
    intended: bool = False


UNKNOWN = Cause(
    "the model's output",
    "not established; tried: the code run anew, inference mode for every layer, the library's "
    "methods in place of the model's own",
    "",
    "call the model with training=False wherever it is used for inference",
)


@dataclass(frozen=True)
class Called:
    """Rows on which the model is called outside of a trace, and the mode that it is told."""

    x: Nest
    training: bool | None


def sets_apart(subject: Subject, run: Run, unlike: Unlike, called: Called | None) -> Cause:
    """What makes an entry point give other outputs than inference, found by undoing it.

    `called` is what it is called with, if it is the model's call and inference is traced.
    """
    if _heals(run, unlike):
        return Cause(
            "the compiled function",
            "it was compiled before the model changed",
            "compiled anew, it agrees",
            "have it compiled anew: model.predict_function = None, or compile the model again",
        )
    training: list[str] = []

    def told_inference(call: Call, proceed: Proceed) -> Any:
        if not (call.is_layer and subject.takes_training(call.layer)):
            return proceed(call.args, call.kwargs)
        if call.told[-1] or (call.told[-1] is None and subject.training_default(call.layer)):
            training.append(call.path)
        return proceed(*subject.told(call, False))

    with subject.watch(told_inference):
        healed = _heals(run, unlike)
    if healed:
        return Cause(
            training[0] if training else UNKNOWN.place,
            f"{training[0] if training else 'a layer'} runs in training mode",
            "with every layer told training=False, it agrees",
            "give the argument training the default None, and call the model with training=False "
            "for inference",
        )
    own = subject.own_inference()
    with subject.as_library():
        healed = bool(own) and _heals(run, unlike)
    if healed:
        return Cause(
            listed(own),
            f"the model's own {listed(own)} adds to what its layers give",
            "with the library's own in its place, it agrees",
            "leave it if it is meant; otherwise move it into call, or out of the model",
            intended=True,
        )
    return (_outside_of_trace(subject, called, unlike) if called else None) or UNKNOWN


def _outside_of_trace(subject: Subject, called: Called, unlike: Unlike) -> Cause | None:
    """The cause where the same call gives other outputs in a trace for any number of rows."""
    seen = Pass(subject, called.x, training=called.training, traced=False)
    try:
        known = unlike(_traced_for(subject, called))
        kept = unlike(Pass(subject, called.x, training=called.training).run(called.x).outputs)
        traced_given, traced = in_trace(seen, called.x)
    except Exception:
        return None  # what can't be traced can't be compared
    place, who, tested, before = UNKNOWN.place, "the model's code", "", "the model's input"
    given, returned = given_and_returned(seen, called.x)
    for label in sizes.in_order(list(returned), list(traced)):
        # A call that is not seen in a run hands its inputs on there.
        mine = returned[label] if label in returned else traced_given[label]
        its = traced[label] if label in traced else given[label]
        if len(its) == len(mine) and any(map(differ, its, mine)):
            outputs = outputs_with(seen, called.x, {label: its})
            if outputs is not None and not unlike(outputs):
                place = who = label
                if any(map(differ, given.get(label, []), traced_given.get(label, []))):
                    place = f"between {before} and {label}"
                    who = f"the code {place}"
                tested = f"given what {label} gives in such a trace, the outputs agree"
            break
        before = label
    if kept:
        return Cause(
            place,
            f"{who} keeps something in Python objects from one call to the next",
            tested or "traced anew, it is as far away from what such a trace gave before",
            "keep nothing from one call to the next",
        )
    if known:
        return Cause(
            place,
            f"{who} reads the number of rows, which a trace for any number does not know",
            tested or "traced for this number of rows alone, it is as far away",
            sizes.BRANCHING,
        )
    return Cause(
        place,
        f"{who} does something else outside of a trace",
        tested or "traced, it agrees",
        "look for what differs there: tf.executing_eagerly(), an `if` on values, .numpy(), what "
        "is kept in Python objects",
    )


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
        label or UNKNOWN.place,
        "not established; the code keeps something from one call to the next in Python objects"
        + first,
        "",
        "keep nothing from one call to the next: no cache by shape, no carried state",
    )


def refusing(cause: Cause) -> Cause:
    """The cause of an entry point that raises, which nobody means it to."""
    if not cause.tested:
        remedy = f"mend what it says; if it is about the number of rows, {sizes.ANY_NUMBER}"
        return replace(cause, remedy=remedy)
    if not cause.intended:
        return cause
    return replace(
        cause,
        text=f"the model's own {cause.place} does not take these rows",
        tested="with the library's own in its place, the outputs agree",
        remedy=sizes.ANY_NUMBER,
        intended=False,
    )


def disagree(cause: Cause, apart: Mapping[str, str], reference: str, bound: str) -> Finding:
    """The finding for entry points that one cause sets `apart`, by name; the values say how."""
    name, how = next(iter(apart.items()))
    return Finding(
        rules.ENTRIES_DISAGREE.id,
        rules.ENTRIES_DISAGREE.slug,
        cause.place,
        f"{name} {how}",
        cause.text,
        bool(cause.tested),
        cause.remedy,
        cause.tested,
        bound,
        evidence={"apart": dict(apart), "reference": reference},
    )


def state_moves(
    subject: Subject,
    x: Nest,
    moved: Mapping[int, str],
    moving: Sequence[str],
    still: Sequence[str],
) -> Finding:
    """The finding for variables, by identity with their layers' paths, that entry points move."""
    layers = list(dict.fromkeys(moved.values()))
    training = None if subject.spelled(None) in moving else False
    free = Pass(subject, x, training=training)
    told = [call.layer for call in free.calls if call.is_layer]
    modes = {id(layer): False for layer in told if subject.takes_training(layer)}
    forced = Pass(subject, x, training=training, modes=modes)
    # What only an entry point's own code moves, no call of the model tells about.
    moves, moves_still = (
        any(id(variable) in moved for variable in seen.run(x).moved) for seen in (free, forced)
    )
    tested = moves and not moves_still
    holds = f"; {listed(still)} {'does' if len(still) == 1 else 'do'} not" if still else ""
    runs = "the layer runs" if len(layers) == 1 else "these layers run"
    writes = f"{layers[0]} writes" if len(layers) == 1 else "these layers write"
    return Finding(
        rules.STATE_MOVES.id,
        rules.STATE_MOVES.slug,
        layers[0],
        f"{listed(moving)} {'moves' if len(moving) == 1 else 'move'} the state of "
        f"{counted(len(layers), 'layer')}{holds}",
        f"{runs} in training mode though no training was asked for"
        if tested
        else f"not established; {writes} state in inference as well",
        tested,
        "take training=True out of calls and defaults (training=None); "
        "call model(x, training=False)"
        if tested
        else "write state only `if training`; keep nothing from one call to the next",
        "with every layer told training=False, all of their state stays"
        if tested
        else "every layer told training=False",
        "no tolerance: bitwise",
        evidence={"moves": list(moving), "holds": list(still), "layers": layers},
    )


def not_repeatable(
    subject: Subject, x: Nest, default: Pass, random: Sequence[str], mode: bool | None
) -> Finding:
    """The finding for entry points that give other bits the second time.

    `default` is a pass that leaves the mode out, `mode` what one of the entry points is told.
    """
    drawing = {id(layer) for layer in default.random_layers}
    # Held still, a layer may return what it was given.
    called = [*default.passing_calls, *default.calls]
    calls = [call for call in called if id(call.layer) in drawing]
    paths = list(
        dict.fromkeys(
            next((call.path for call in calls if call.layer is layer), layer.name)
            for layer in default.random_layers
        )
    )
    around = [f"between {before} and {after}" for before, after in default.drawing.values()]
    places = [*paths, *dict.fromkeys(around)]
    labels, tested = [call.label for call in calls], False
    with contextlib.suppress(Exception):
        tested = _repeats_with(subject, x, mode, labels, default.drawing)
    who = listed([*paths, *(f"the code {place}" for place in dict.fromkeys(around))])
    draws = f"{who} {'draws' if len(places) == 1 else 'draw'} random numbers"
    whose = "its" if len(places) == 1 else "their"
    what = "random numbers" if around else "outputs"
    if tested:
        cause = f"{draws} in inference"
    elif places:
        cause = f"not established; {draws}, and holding {whose} {what} showed nothing"
    else:
        cause = "not established; no random operation was seen"
    return Finding(
        rules.NOT_REPEATABLE.id,
        rules.NOT_REPEATABLE.slug,
        places[0] if places else "not located",
        f"the same batch gives other bits the second time, through {listed(random)}",
        cause,
        tested,
        "draw random numbers in training mode only; keep augmentation outside the model"
        if places
        else "keep nothing from one call to the next: no counter, no cache",
        f"with {whose} {what} held, the same batch gives the same bits" if tested else "",
        "no tolerance: bitwise",
        evidence={"random": list(random), "layers": paths},
    )


def _repeats_with(
    subject: Subject,
    x: Nest,
    training: bool | None,
    labels: Collection[str],
    drawing: Collection[str],
) -> bool:
    """Whether the same rows give the same bits twice once calls and operations are held."""
    if not drawing:
        seen = Pass(subject, x, training=training, traced=False)
        held = {label: known for label, known in values_of(seen, x).items() if label in labels}
        return bool(held) and repeats_with(seen, x, held)
    traced = Pass(subject, x, training=training)
    held = {k: v for k, v in in_trace(traced, x)[1].items() if k in labels}
    drawn = {name: Held(values) for name, values in results_of(traced, x, drawing).items()}
    return repeats_with(traced, x, held, drawn)


def _heals(run: Run, unlike: Unlike) -> bool:
    try:
        return not unlike(run())
    except Exception:
        return False
