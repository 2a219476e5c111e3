"""Why inference changes state, does not repeat itself, or means something else another way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.checks import compiled_before, size_dependence
from pytest_bnconsistency.checks.budget import Budget, Tries
from pytest_bnconsistency.checks.training_mode_callers import in_inference, who_tells
from pytest_bnconsistency.data.arrays import Array, Nest, flatten, map_nest
from pytest_bnconsistency.execution.activation_patching import Patch
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import (
    differ,
    given_and_returned,
    in_trace,
    outputs_with,
    repeats_with,
    results_of,
    values_of,
)
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.execution.state import Variables, preserve_state, restored
from pytest_bnconsistency.execution.variable_writers import writers_of
from pytest_bnconsistency.models import Call, Proceed, Subject
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted, listed

RESETS = ("reset_states", "reset_state")
"""What the methods are called that put a recurrence back to its initial state."""
Run = Callable[[], list[Array]]
"""Runs an entry point, traced anew, and gives its outputs."""
Unlike = Callable[[list[Array]], str]
"""How outputs differ from those of inference, empty where they don't."""


@dataclass(frozen=True)
class Cause:
    """Where what sets an entry point apart is, and why it does.

    `intended` where the model adds to its inference by methods of its own.
    """

    place: str
    explanation: Explanation
    intended: bool = False


RETRACED, INFERENCE = "the code run anew", "inference mode for every layer"
LIBRARY = "the library's methods in place of the model's own"
TRIED = f"tried: {RETRACED}, {INFERENCE}, {LIBRARY}"

NOT_LOCATED = "the model's output"


def _stale(healed: str) -> Cause:
    return Cause(compiled_before.PLACE, compiled_before.because(f"compiled anew, {healed}"))


@dataclass(frozen=True)
class Called:
    """Rows on which the model is called outside of a trace, and the mode that it is told."""

    x: Nest
    training: bool | None


@dataclass(frozen=True)
class Runner:
    """An entry point whose code runs, or is traced, once more each time.

    `own` are the methods of the model's own that it goes through. What `run` changes stays
    changed: `may_change` are the variables that it may change.
    """

    run: Run
    own: Sequence[str]
    may_change: Sequence[Any]


def disagreement_cause(
    subject: Subject, runner: Runner, unlike: Unlike, called: Called | None
) -> Cause:
    """What makes an entry point give other outputs than inference, found by undoing it.

    `called` is what it is called with, if it is the model's call and inference is traced.
    """
    # What the model's own code adds is no fault: a verdict hangs on it: it has the time it needs.
    tries = Tries(Budget(math.inf) if runner.own else None)
    undoing = _Undoing(subject, runner, lambda: not unlike(runner.run()), "it agrees", tries)
    if undoing.retraced:
        return _stale("it agrees")

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


class _Undoing:
    """Tries one cause of a symptom after the other: `healed` runs and tells whether it is gone.

    `ok` says so in words, `tries` whether there is time. `retraced` tells of the code run anew and
    nothing else, `calls` are the calls of layers in that run.
    """

    def __init__(
        self,
        subject: Subject,
        runner: Runner,
        healed: Callable[[], bool],
        ok: str,
        tries: Tries,
    ) -> None:
        self._subject, self._runner, self._healed, self._ok = subject, runner, healed, ok
        self._tries = tries
        self.calls: list[Call] = []
        self.retraced = self._with({}, self.calls)

    def mode_or_step(
        self, call: Call | None, by_itself: Callable[[str, str], Cause]
    ) -> Cause | None:
        """A step of the model's own, or the mode in which the layer of `call` runs.

        `by_itself` words the cause where it is not the mode that a step runs layers in. No place
        is named where `call` is None.
        """
        subject, own = self._subject, self._runner.own
        one_by_one = [name for name in own if self._by_library([name])]
        step = one_by_one[:1] or (list(own) if len(own) > 1 and self._by_library(own) else [])
        with in_inference(subject):
            inference = self._ran(INFERENCE)
        if self._tries.cut:
            return None
        who = f"the model's own {listed([subject.qualified(name) for name in step])}"
        if step and inference:
            return self._in_training(listed(step), who)
        if step:
            return by_itself(listed(step), who)
        return self._in_training_mode(call) if inference else None

    def _in_training(self, step: str, who: str) -> Cause:
        explanation = Explanation(
            cause=f"{who} runs the layers in training mode",
            tested=f"with the library's own in its place, {self._ok}; so it is with every layer "
            "told training=False",
            remedy=f"in {step}, call the model with training=False",
            established=True,
        )
        return Cause(step, explanation)

    def _in_training_mode(self, call: Call | None) -> Cause:
        teller = who_tells(self._subject, call, self.calls, self._with)
        if self._tries.cut:
            teller = None
        who = call.path if call is not None else "a layer"
        return Cause(
            call.path if call is not None else "",
            Explanation(
                cause=f"{who} runs in training mode"
                + (f", because {teller.because}" if teller else ""),
                tested=f"with every layer told training=False, {self._ok}",
                remedy=teller.remedy
                if teller
                else "call the model with training=False for inference",
                established=True,
            ),
        )

    def _by_library(self, names: Collection[str]) -> bool:
        with self._subject.as_library(names):
            return self._ran(LIBRARY)

    def _with(self, modes: Mapping[int, bool], calls: list[Call] | None = None) -> bool:
        """Whether it is gone with layers, by identity, in these modes; `calls` takes the calls."""
        subject = self._subject

        def in_mode(call: Call, proceed: Proceed) -> Any:
            if calls is not None:
                calls.append(replace(call, args=(), kwargs={}))
            mode = modes.get(id(call.layer))
            if mode is None or not (call.is_layer and subject.takes_training(call.layer)):
                return proceed(call.args, call.kwargs)
            return proceed(*subject.with_training(call, mode))

        with subject.watch(in_mode):
            return self._ran("inference mode for one layer" if modes else RETRACED)

    def writers_of(self, variables: Sequence[Any]) -> list[str]:
        """Who writes to them, if the symptom is gone without; empty where it is not."""
        with writers_of(variables, let=False) as writers:
            healed = self._with({}, [])
        found = [writer.label for each in writers.values() for writer in each]
        return list(dict.fromkeys(found)) if healed else []

    def _ran(self, what: str) -> bool:
        if not self._tries.may(what):
            return False
        try:
            with preserve_state(self._subject), restored(self._runner.may_change):
                return self._healed()
        except Exception:
            return False


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


def moves_because(
    subject: Subject, runner: Runner, moved: Sequence[Any], paths: Mapping[int, str]
) -> Cause:
    """What makes an entry point move state, found by undoing it.

    `paths` are those of the layers that hold the variables `moved`, by identity.
    """
    layers = list(dict.fromkeys(paths[id(variable)] for variable in moved))

    def stays() -> bool:
        before = Variables(list(moved))
        runner.run()
        return not before.moved()

    tries = Tries()
    undoing = _Undoing(subject, runner, stays, "all of their state stays", tries)
    if undoing.retraced:
        return _stale("it moves no state")
    ids = {id(variable) for variable in moved}
    owning = [c for c in undoing.calls if ids & {id(v) for v in subject.own_variables(c.layer)}]

    def writes_itself(step: str, who: str) -> Cause:
        explanation = Explanation(
            cause=f"{who} writes state",
            tested="with the library's own in its place, all of their state stays",
            remedy=f"write no state in {step}",
            established=True,
        )
        return Cause(step, explanation)

    found = undoing.mode_or_step(owning[0] if owning else None, writes_itself)
    if found is not None:
        return found if found.place else replace(found, place=layers[0])
    carried = _carried(subject, runner, owning, moved, tries)
    return carried or Cause(layers[0], _written(undoing, layers, moved, tries))


def _written(
    undoing: _Undoing, layers: Sequence[str], moved: Sequence[Any], tries: Tries
) -> Explanation:
    """The code that writes, if without its writes nothing moves."""
    writers = undoing.writers_of(moved)
    writes = f"{layers[0]} writes" if len(layers) == 1 else "these layers write"
    if writers:
        cause = f"{writes} state in inference as well: {listed(writers)}"
        tested = "with these writes left out, all of their state stays"
    else:
        cause = tries.without_cause(
            f"not established; {writes} state in inference as well; {TRIED}"
        )
        tested = ""
    return Explanation(
        cause=cause,
        tested=tested,
        remedy="write state only `if training`; keep nothing from one call to the next",
        established=bool(writers),
    )


def _carried(
    subject: Subject,
    runner: Runner,
    owning: Sequence[Call],
    moved: Sequence[Any],
    tries: Tries,
) -> Cause | None:
    """The cause where layers carry a state by design: where they, or the model, can reset it."""
    for whole in (True, False):
        found = (_reset(subject, call, whole) for call in owning)
        resets = list({reset.call_text: reset for reset in found if reset is not None}.values())
        if not resets or not tries.may("the state reset before each call"):
            continue
        if not _resettable(subject, runner, resets, moved):
            continue
        paths = list(dict.fromkeys(call.path for call in owning))
        carry = "is stateful: it carries its" if len(paths) == 1 else "are stateful: they carry"
        explanation = Explanation(
            cause=f"{listed(paths)} {carry} state from one call to the next",
            tested="reset before each call, the same rows give the same bits",
            remedy=f"call {listed([reset.call_text for reset in resets])} before each new "
            "sequence; or build it with stateful=False",
            established=True,
        )
        return Cause(paths[0], explanation)
    return None


@dataclass(frozen=True)
class _Reset:
    """A method that puts a recurrence back to its initial state."""

    call_text: str
    run: Callable[[], None]


def _reset(subject: Subject, call: Call, whole: bool) -> _Reset | None:
    """The method of the whole model, or of the layer of `call` or the innermost around it."""
    for layer in [subject.model] if whole else [call.layer, *reversed(call.parents)]:
        for name in RESETS:
            if callable(reset := getattr(layer, name, None)):
                paths = {id(call.layer): call.path, id(subject.model): "model"}
                return _Reset(f"{paths.get(id(layer), layer.name)}.{name}()", reset)
    return None


def _resettable(
    subject: Subject, runner: Runner, resets: Sequence[_Reset], moved: Sequence[Any]
) -> bool:
    """Whether two runs, each after a reset, give the same bits and leave the same state."""

    def reset_and_run() -> list[Array]:
        for reset in resets:
            reset.run()
        return runner.run()

    try:
        with preserve_state(subject), restored(runner.may_change):
            first, after = reset_and_run(), Variables(list(moved))
            return same_outputs(first, reset_and_run()) and not after.moved()
    except Exception:
        return False


def state_moves(
    cause: Cause, layers: Sequence[str], moving: Sequence[str], unmoved: Sequence[str]
) -> Finding:
    """The finding for entry points that one cause has `moving` the state of `layers`."""
    holds = f"; {listed(unmoved)} {'does' if len(unmoved) == 1 else 'do'} not" if unmoved else ""
    return rules.STATE_MOVES.finding(
        layer=cause.place,
        layers=layers,
        message=f"{listed(moving)} {'moves' if len(moving) == 1 else 'move'} the state of "
        f"{counted(len(layers), 'layer')}{holds}",
        explanation=cause.explanation,
        bound="no tolerance: bitwise",
        evidence={"moves": list(moving), "holds": list(unmoved), "layers": list(layers)},
    )


def not_repeatable(
    subject: Subject, x: Nest, default: Pass, random: Sequence[str], mode: bool | None
) -> Finding:
    """The finding for entry points that give other bits the second time.

    `default` is a pass that leaves the mode out, `mode` what one of the entry points is told.
    """
    drawn, tested, tries = _drawn(default), False, Tries()
    if tries.may("the random numbers held"):
        with contextlib.suppress(Exception):
            tested = _repeats_with(subject, x, mode, drawn.labels, default.drawing)
    places = drawn.places
    return rules.NOT_REPEATABLE.finding(
        layer=places[0] if places else "not located",
        layers=places,
        message=f"the same batch gives other bits the second time, through {listed(random)}",
        explanation=_of_draws(drawn, tested, tries, _to_repeat(subject, random)),
        bound="no tolerance: bitwise",
        evidence={"random": list(random), "layers": drawn.paths},
    )


@dataclass(frozen=True)
class _Drawn:
    """The layers that draw random numbers, the labels of their calls, and code between layers."""

    paths: list[str]
    labels: list[str]
    around: list[str]

    @property
    def places(self) -> list[str]:
        return [*self.paths, *self.around]


def _drawn(default: Pass) -> _Drawn:
    drawing = {id(layer) for layer in default.random_layers}
    # Held still, a layer may return what it was given.
    called = [*default.passing_calls, *default.calls]
    calls = [call for call in called if id(call.layer) in drawing]
    path_of = {id(call.layer): call.path for call in reversed(calls)}
    paths = [path_of.get(id(layer), layer.name) for layer in default.random_layers]
    around = [f"between {before} and {after}" for before, after in default.drawing.values()]
    labels = [call.label for call in calls]
    return _Drawn(list(dict.fromkeys(paths)), labels, list(dict.fromkeys(around)))


def _of_draws(drawn: _Drawn, tested: bool, tries: Tries, remedy: str) -> Explanation:
    """Why rows are not as they were: what draws, if holding it was `tested` to mend that."""
    if not drawn.places:
        return Explanation(
            cause="not established; no random operation was seen",
            remedy="keep nothing from one call to the next: no counter, no cache",
        )
    one = len(drawn.places) == 1
    who = listed([*drawn.paths, *(f"the code {place}" for place in drawn.around)])
    draws = f"{who} {'draws' if one else 'draw'} random numbers"
    whose = f"{'its' if one else 'their'} {'random numbers' if drawn.around else 'outputs'}"
    if tested:
        return Explanation(
            cause=f"{draws} in inference",
            tested=f"with {whose} held, the same batch gives the same bits",
            remedy=remedy,
            established=True,
        )
    unknown = f"not established; {draws}, and holding {whose} showed nothing"
    return Explanation(cause=tries.without_cause(unknown), remedy=remedy)


def _to_repeat(subject: Subject, random: Sequence[str]) -> str:
    """What has nothing drawn; a mode that was seen to draw nothing comes first."""
    if list(random) == [subject.call_text(None)]:
        advice = f"call the model with training=False for inference, {subject.call_text(False)}"
    else:
        advice = "draw random numbers in training mode only"
    return f"{advice}; keep augmentation outside the model"


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
        patched = {label: known for label, known in values_of(seen, x).items() if label in labels}
        return bool(patched) and repeats_with(seen, x, patched)
    traced = Pass(subject, x, training=training)
    patched = {k: v for k, v in in_trace(traced, x)[1].items() if k in labels}
    drawn = {name: Patch(values) for name, values in results_of(traced, x, drawing).items()}
    return repeats_with(traced, x, patched, drawn)
