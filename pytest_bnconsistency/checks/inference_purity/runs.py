"""Each entry point run on the rows: what it gives, whether it repeats, and what it moves."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    WHOLE,
    Entry,
    calls_of,
    changeable_variables,
    entry,
    is_random,
    methods_of,
    moves_layers,
    owners,
    rows_between,
    run_retraced,
    runs_own_code,
    traced_entry,
)
from pytest_bnconsistency.checks.inference_purity.undoing import Runner
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Array, Nest, all_finite, rows_of
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.observations import has_rows, same_outputs
from pytest_bnconsistency.execution.state import Variables, preserve_state
from pytest_bnconsistency.models.base import PREDICT_DATASET, set_batch
from pytest_bnconsistency.words import brief_line

EVALUATED = 32
EVALUATE = "evaluate"


class Kind(enum.Enum):
    """Whether a call of the model, a method such as `predict`, one on batches, a function of its
    own, or `evaluate`.
    """

    CALL = enum.auto()
    METHOD = enum.auto()
    IN_BATCHES = enum.auto()
    ENDPOINT = enum.auto()
    EVALUATION = enum.auto()

    @classmethod
    def of(cls, context: CheckContext, name: str) -> Kind:
        if name in calls_of(context):
            return cls.CALL
        if name in context.subject.endpoints():
            return cls.ENDPOINT
        return cls.IN_BATCHES if name == PREDICT_DATASET else cls.METHOD


@dataclass(frozen=True)
class Seen:
    """One entry point: its outputs, whether they repeat, the variables that moved.

    What it `raised` on rows that inference takes stands in place of outputs. Of `evaluate`, and
    of the data set, which `predict` runs as it runs arrays, it is taken for granted that they
    repeat.
    """

    name: str
    kind: Kind
    outputs: list[Array]
    repeats: bool
    moved: tuple[Any, ...]
    raised: str = ""


@dataclass(frozen=True)
class Runs:
    """All entry points that ran, and the path of the layer that holds a variable, by identity.

    `owned` are the variables of layers that they may change. `notes` say what did not run, and
    why.
    """

    seen: Sequence[Seen]
    owner_of: dict[int, str]
    owned: Sequence[Any]
    notes: Sequence[str]

    @property
    def names(self) -> list[str]:
        """Those that predict."""
        return [s.name for s in self.seen if s.kind is not Kind.EVALUATION]

    @property
    def endpoints(self) -> list[str]:
        """Those that are functions of their own."""
        return [s.name for s in self.seen if s.kind is Kind.ENDPOINT]

    @property
    def finite(self) -> bool:
        return all(all_finite(s.outputs) for s in self.seen)

    @property
    def steady(self) -> list[Seen]:
        """Those that repeat themselves and move nothing.

        A data set runs once, through the first way to predict.
        """
        first = next((s for s in self.seen if s.kind is not Kind.IN_BATCHES), None)
        repeats = first is None or first.repeats
        steady = [s for s in self.seen if s.repeats and not s.moved]
        return [s for s in steady if s.kind is not Kind.IN_BATCHES or repeats]

    @property
    def repeating(self) -> list[Seen]:
        """The same, without calls where one does not repeat itself though nothing draws: what
        Python keeps from one call to the next is in all of them.
        """
        calls = [s for s in self.seen if s.kind is Kind.CALL]
        keeping = not all(s.repeats for s in calls)
        return [s for s in self.steady if not (keeping and s.kind is Kind.CALL)]

    def evidence(self) -> dict[str, Any]:
        return {
            "entry_points": {
                s.name: {
                    "repeats": s.repeats,
                    "moved": sorted({self.owner_of[id(v)] for v in s.moved}),
                }
                for s in self.seen
            }
        }


def run_all(context: CheckContext, x: Nest) -> Runs:
    owner_of = owners(context, observed(context, False))
    # Metrics and the states of seed generators may move: no layer holds them as its own.
    owned = [v for v in changeable_variables(context) if id(v) in owner_of]
    names = [*methods_of(context), *reversed(calls_of(context))]
    seen, notes = list[Seen](), list[str]()
    for name in names:
        if Kind.of(context, name) is Kind.IN_BATCHES and not _joins(context, x):
            note = f"{name}, as outputs of batches of unlike sizes can't be joined"
            notes.append(f"not run: {note}")
            continue
        try:
            seen.append(_seen(context, x, name, owner_of))
        except RefusedError as error:
            if note := _no_fault(context, x, name, error):
                notes.append(f"not run: {note}")
            else:
                seen.append(_raising(context, name, error))
    if _can_evaluate(context):
        seen.append(_evaluated(context, owned))
    return Runs(seen, owner_of, owned, notes)


def _raising(context: CheckContext, name: str, error: RefusedError) -> Seen:
    raised = f"raises {type(error.refusal).__name__}: {brief_line(error)}"
    return Seen(name, Kind.of(context, name), [], True, (), raised)


def _can_evaluate(context: CheckContext) -> bool:
    """Whether there are targets for the model's own evaluation, for as many rows as it takes."""
    if context.data is None or context.data.y is None or not context.subject.evaluates:
        return False
    return context.data.rows >= (context.fixed_rows or 1)


def _joins(context: CheckContext, x: Nest) -> bool:
    """Whether outputs of batches as those of the data set have the rows first, and one shape."""
    entry_point = traced_entry(context, False)
    try:
        batches = [entry_point.run(WHOLE, x).outputs, *batches_of(context, entry_point, x)]
    except RefusedError:
        return True  # what the data set refuses is told by its own run
    shapes = [[output.shape[1:] for output in outputs] for outputs in batches]
    return has_rows(batches[0], x) and all(shape == shapes[0] for shape in shapes)


def _no_fault(context: CheckContext, x: Nest, name: str, error: RefusedError) -> str:
    """Why an entry point may raise what it does, "" if it should not.

    Raises:
        RefusedError: inference refuses the rows as well.
    """
    in_batches = Kind.of(context, name) is Kind.IN_BATCHES
    own = ("predict" if in_batches else name) in context.subject.own_inference()
    own |= Kind.of(context, name) is Kind.ENDPOINT
    refused = _refuses(context, x, name)
    if own or (refused and in_batches):
        return str(error)
    if refused:
        raise error
    if _runs_in_single_steps(context, x, name):
        return (
            f"{name}, which the library does not run with steps_per_execution="
            f"{context.subject.steps_at_once}; with 1 it runs"
        )
    return ""


def _runs_in_single_steps(context: CheckContext, x: Nest, name: str) -> bool:
    """Whether it is not the model that refuses, but its library, to run several steps at once."""
    if context.subject.steps_at_once == 1:
        return False
    try:
        with preserve_state(context.subject), context.subject.single_steps():
            context.subject.entries()[name](x)
    except RefusedError:
        return False
    return True


def _refuses(context: CheckContext, x: Nest, name: str) -> bool:
    """Whether inference refuses the batches that an entry point runs, too."""
    entry_point = traced_entry(context, False)
    in_batches = Kind.of(context, name) is Kind.IN_BATCHES
    try:
        batches_of(context, entry_point, x) if in_batches else entry_point.run(WHOLE, x)
    except RefusedError:
        return True
    return False


def _seen(context: CheckContext, x: Nest, name: str, owner_of: dict[int, str]) -> Seen:
    entry_point = entry(context, name)
    first = entry_point.run(WHOLE, x)
    moved = tuple(v for v in first.moved if id(v) in owner_of)
    kind = Kind.of(context, name)
    repeats = kind is Kind.IN_BATCHES or _repeats(context, x, entry_point)
    return Seen(name, kind, first.outputs, repeats, moved)


def _repeats(context: CheckContext, x: Nest, entry_point: Entry) -> bool:
    """Whether the same rows give the same bits a second time, through the entry point or another.

    Another one counts where nothing draws random numbers and no state moves that inference reads:
    a trace would hold layers still that draw, and each run begins with the same state.
    """
    traced = traced_entry(context, False)
    drawing, mine = not observed(context, False).deterministic, entry_point.run(WHOLE, x)
    if is_random(context, entry_point):
        return False
    # What the user's own Python keeps from one call to the next, no trace and no variable tells.
    keeping = entry_point.name in calls_of(context) and runs_own_code(context)
    if not (drawing or keeping or moves_layers(context, mine)):
        calls = calls_of(context)
        others = [traced]
        if entry_point.name in calls:
            others += [entry(context, name) for name in calls if name != entry_point.name]
        if any(same_outputs(mine.outputs, other.run(WHOLE, x).outputs) for other in others):
            return True
    first, second = entry_point.twice(WHOLE, x)
    return same_outputs(first.outputs, second.outputs)


def _evaluated(context: CheckContext, owned: list[Any]) -> Seen:
    before = Variables(owned)
    try:
        scores = _scores(context)
        return Seen(EVALUATE, Kind.EVALUATION, scores, True, tuple(before.moved()))
    finally:
        before.restore()


def runner_of(context: CheckContext, seen: Seen) -> Runner:
    """An entry point, to be run anew on the rows that it runs on here."""
    owned, name = changeable_variables(context), seen.name
    if seen.kind is Kind.EVALUATION:
        return Runner(
            lambda: _evaluated_recompiled(context), context.subject.own_evaluation(), owned
        )
    own = [] if seen.kind is Kind.CALL else context.subject.own_inference()
    return Runner(lambda: run_retraced(context, name, context.sample()), own, owned)


def _evaluated_recompiled(context: CheckContext) -> list[Array]:
    context.subject.recompile()
    return _scores(context)


def _scores(context: CheckContext) -> list[Array]:
    assert context.data is not None
    size = context.fixed_rows or EVALUATED
    scores = context.subject.evaluate(context.data.take(slice(0, size)), size)
    return [np.array(list(scores.values()))]


def batches_of(context: CheckContext, entry_point: Entry, x: Nest) -> list[list[Array]]:
    rows, size = rows_of(x), set_batch(context.subject, x)
    batches = [rows_between(x, start, min(start + size, rows)) for start in range(0, rows, size)]
    return [entry_point.run(*batch).outputs for batch in batches]
