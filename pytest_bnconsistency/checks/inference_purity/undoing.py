"""What sets an entry point apart, found by undoing it: a mode, a step of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_bnconsistency.checks import compiled_before
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.training_mode_callers import (
    in_inference,
    own_code_trains,
    pass_training_on,
    to_blame,
    who_tells,
)
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.state import preserve_state, restored
from pytest_bnconsistency.execution.variable_writers import writers_of
from pytest_bnconsistency.models import Call, Proceed, Subject
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.words import listed

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


def stale(healed: str) -> Cause:
    return Cause(compiled_before.PLACE, compiled_before.because(f"compiled anew, {healed}"))


@dataclass(frozen=True)
class Runner:
    """An entry point whose code runs, or is traced, once more each time.

    `own` are the methods of the model's own that it goes through. What `run` changes stays
    changed: `may_change` are the variables that it may change.
    """

    run: Run
    own: Sequence[str]
    may_change: Sequence[Any]


class Undoing:
    """Tries one cause of a symptom after the other: `healed` runs and tells whether it is gone.

    `ok` says so in words, `tries` whether there is time; `inference_holds` that the symptom does
    not show where the model is called with training=False. `retraced` tells of the code run anew
    and nothing else, `calls` are the calls of layers in that run.
    """

    def __init__(
        self,
        subject: Subject,
        runner: Runner,
        healed: Callable[[], bool],
        ok: str,
        tries: Tries,
        *,
        inference_holds: bool = True,
    ) -> None:
        self._subject, self._runner, self._healed, self._ok = subject, runner, healed, ok
        self._tries, self._inference_holds = tries, inference_holds
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
        step = to_blame(own, self._by_library)
        with in_inference(subject):
            inference = self._ran(INFERENCE)
        if self._tries.cut:
            return None
        who = f"the model's own {listed([subject.qualified(name) for name in step])}"
        if step and inference:
            return Cause(listed(step), own_code_trains(who, listed(step), self._ok))
        if step:
            return by_itself(listed(step), who)
        return self._in_training_mode(call) if inference else None

    def _in_training_mode(self, call: Call | None) -> Cause:
        holds = self._inference_holds
        teller = who_tells(self._subject, call, self.calls, self._with, inference_holds=holds)
        if self._tries.cut:
            teller = None
        who = call.path if call is not None else "a layer"
        return Cause(
            call.path if call is not None else "",
            Explanation(
                cause=f"{who} runs in training mode"
                + (f", because {teller.because}" if teller else ""),
                tested=f"with every layer told training=False, {self._ok}",
                remedy=teller.remedy if teller else pass_training_on(holds),
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
