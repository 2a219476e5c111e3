"""Why an entry point changes state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.inference_purity.undoing import (
    TRIED,
    Cause,
    Runner,
    Undoing,
    stale,
)
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.execution.state import Variables, preserve_state, restored
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import name_of
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted, listed

RESETS = ("reset_states", "reset_state")
"""What the methods are called that put a recurrence back to its initial state."""


def moves_because(
    subject: Subject,
    runner: Runner,
    moved: Sequence[Any],
    paths: Mapping[int, str],
    *,
    inference_holds: bool,
) -> Cause:
    """What makes an entry point move state, found by undoing it.

    `paths` are those of the layers that hold the variables `moved`, by identity;
    `inference_holds` says that a call with training=False moves none.
    """
    layers = list(dict.fromkeys(paths[id(variable)] for variable in moved))

    def stays() -> bool:
        before = Variables(list(moved))
        runner.run()
        return not before.moved()

    tries = Tries()
    ok = "all of their state stays"
    undoing = Undoing(subject, runner, stays, ok, tries, inference_holds=inference_holds)
    if undoing.retraced:
        return stale("it moves no state")
    ids = {id(variable) for variable in moved}
    owning = [c for c in undoing.calls if ids & {id(v) for v in subject.state_of(c.layer)}]

    def writes_itself(step: str, who: str) -> Cause:
        explanation = Explanation(
            cause=f"{who} writes state",
            tested="with the library's own in its place, all of their state stays",
            remedy=f"write no state in {step}",
            established=True,
        )
        return Cause(step, explanation)

    # Of several calls of one layer, one may be told to train.
    training = sorted(owning, key=lambda call: True not in call.called_with)
    found = undoing.mode_or_step(training[0] if training else None, writes_itself)
    if found is not None:
        return found if found.place else replace(found, place=layers[0])
    carried = _carried(subject, runner, owning, moved, tries)
    return carried or Cause(layers[0], _written(undoing, layers, moved, tries))


def _written(
    undoing: Undoing, layers: Sequence[str], moved: Sequence[Any], tries: Tries
) -> Explanation:
    """The code that writes, if without its writes nothing moves."""
    writers = undoing.writers_of(moved)
    writes = f"{layers[0]} writes" if len(layers) == 1 else "these layers write"
    remedy = "write state only `if training`; keep nothing from one call to the next"
    if writers:
        cause = f"{writes} state in inference as well: {listed(writers)}"
        tested = "with these writes left out, all of their state stays"
    else:
        cause = tries.without_cause(
            f"not established; {writes} state in inference as well; {TRIED}"
        )
        tested = ""
        remedy += "; what was saved, or traced, in training mode: do so again in inference mode"
    return Explanation(
        cause=cause,
        tested=tested,
        remedy=remedy,
        established=bool(writers),
    )


def _carried(
    subject: Subject, runner: Runner, owning: Sequence[Call], moved: Sequence[Any], tries: Tries
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
                return _Reset(f"{paths.get(id(layer), name_of(layer))}.{name}()", reset)
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
