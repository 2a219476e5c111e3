"""A model on which what its normalization layers get is changed: would that be what is stored?"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import (
    HALF,
    MOST,
    OF_LARGE,
    Cause,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.fitting import RESPONDS
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array, flatten, is_float, rebuild
from pytest_bnconsistency.data.rows import Data, some_rows
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.affine_layers import Affine, Rescaled
from pytest_bnconsistency.measurement.compared_outputs import Side, gap, number, uninformed
from pytest_bnconsistency.measurement.input_moments import Moments
from pytest_bnconsistency.measurement.tracked_variables import write_statistics
from pytest_bnconsistency.words import digits, listed

ROWS, MOST_ROWS = 256, 1024
"""Numbers are fitted on so many rows of small models, and what they explain is told of so many."""
BATCHES, MOST_BATCHES = 16, 64
"""The same in batches: of tiny ones, each costs what a large one costs."""
WIDER = 4
"""Times the rows of a batch in which numbers are fitted: the fewer, the less each fit costs."""
WORTH_A_TRY = 0.2
MOVED = 0.05
"""A statistic that a change moves by more tells whether it is what is stored."""

DECISIVE, NEARLY = 0.05, 0.2
"""So much of the gap may be left where nothing is left to explain, and where nearly nothing is."""
SHOWN = 3
LOSS = 0.1
"""So much of what the loss falls by may a change miss that is as good as the best."""

How = TypeVar("How")
Transform = Callable[[Array], Array]


@dataclass(frozen=True)
class Losses:
    """As given, changed, and as given under population statistics; and of a mean answer: what
    loses more knows nothing of its targets, however much more it is.
    """

    given: float
    changed: float
    aim: float
    uninformed: float

    @property
    def most(self) -> float:
        """What is given, as far as a model that may know something loses it: as much as a mean
        answer, or twice what it loses under population statistics.
        """
        return min(self.given, max(self.uninformed, self.aim + abs(self.aim)))

    @property
    def room(self) -> float:
        """By how much population statistics lower that."""
        return self.most - self.aim

    @property
    def limit(self) -> float:
        """Half of the way to where population statistics take it."""
        return (self.most + max(self.aim, 0.0)) / 2


@dataclass(frozen=True)
class Tried:
    """What came of a change: the `share` of what is stored that it explains, of those statistics
    that it moves, and how far evaluation is from that under population statistics, in standard
    deviations and by its loss, as given and changed.
    """

    share: float
    initial: float
    """The share that initial values left in the same statistics would explain."""
    before: float
    after: float
    losses: Losses | None

    @property
    def limit(self) -> float:
        """The gap; beyond a standard deviation all are alike."""
        return min(self.before, 1.0)

    @property
    def left(self) -> float:
        """What is left; less than is decisive is told by chance."""
        return max(self.after, DECISIVE * self.limit / 2)

    @property
    def closes(self) -> bool:
        """Whether evaluation then says what training says."""
        if not self.after < HALF * self.limit:
            return False
        return self.losses is None or self.losses.changed <= self.losses.limit

    @property
    def mends(self) -> bool:
        """Whether the loss falls far below what any statistics make of the data as given.

        No change that is not the right one does that, however alike the statistics are.
        """
        if self.losses is None or not self.closes:
            return False
        gained = self.losses.aim - self.losses.changed
        return gained > max(HALF * self.losses.aim, LOSS * self.losses.room)

    @property
    def restores(self) -> bool:
        """Whether the loss is about that under the population statistics of the data given."""
        if self.losses is None or not self.closes:
            return False
        return self.losses.changed - self.losses.aim < LOSS * self.losses.room

    @property
    def explains(self) -> bool:
        """Whether it tells most of what is stored, or half of it and nearly all of the gap."""
        enough = HALF if self.after < NEARLY * self.limit else MOST
        return self.mends or (self.share > enough and self.closes)

    @property
    def decides(self) -> bool:
        """Whether nothing is left to explain, neither of the outputs nor of the loss."""
        by_loss = self.losses is None or self.mends or self.restores
        return by_loss and self.closes and self.after < DECISIVE * self.limit

    @property
    def said(self) -> str:
        loss = ""
        if self.losses is not None:
            given, changed = number(self.losses.given), number(self.losses.changed)
            loss = f", at a loss of {changed} (as given {given}"
            aim = f", with the population statistics {number(self.losses.aim)}" * self.mends
            loss += f"{aim})"
        return (
            f"evaluation is then {digits(self.after, 2)} standard deviations from that under "
            f"population statistics, as given {digits(self.before, 2)}{loss}"
        )


@dataclass(frozen=True)
class Candidate:
    """A cause, and what came of undoing it; what is left of the gap counts `weight` times.

    `name` is what was done to the data, where that is all. One that is `doubted`, by the signs of
    its scales, counts if there is no other, and none with other signs.
    """

    cause: Cause
    tried: Tried
    weight: float = 1.0
    name: str = ""
    doubted: tuple[int, ...] = ()

    @property
    def left(self) -> float:
        return self.weight * self.tried.left

    @property
    def decides(self) -> bool:
        """Whether nothing is left to explain, and nothing else to try."""
        return self.tried.decides and not self.doubted


def best(found: Sequence[Candidate]) -> Cause | None:
    """The cause that leaves least of the gap, of those whose loss is about as good as any's.

    Others that leave no more are named beside it: the data does not tell them from each other.
    """
    left = _believed(_as_good(found))
    chosen = min(left, key=lambda c: c.left, default=None)
    if chosen is None:
        return None
    alike = [c.name for c in left if c is not chosen and c.left == chosen.left and c.name]
    return _beside(chosen.cause, alike) if chosen.name else chosen.cause


def _as_good(found: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those whose loss is about as good as any's, or not known."""
    known = [c.tried.losses for c in found if c.tried.losses is not None]
    if not known:
        return found
    lowest = min(losses.changed for losses in known)
    limit = lowest + LOSS * max(known[0].most - lowest, 0.0)
    return [c for c in found if c.tried.losses is None or c.tried.losses.changed <= limit]


def _believed(found: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those that are not doubted; else all, if their signs are the same."""
    certain = [candidate for candidate in found if not candidate.doubted]
    signs = {candidate.doubted for candidate in found}
    return certain or (found if len(signs) == 1 else [])


def _beside(cause: Cause, alike: Sequence[str]) -> Cause:
    """The cause with what else does the same to this data."""
    names = dict.fromkeys(alike)
    if not names:
        return cause
    said = cause.explanation
    return dataclasses.replace(
        cause,
        explanation=dataclasses.replace(
            said,
            cause=f"{said.cause} (or {listed(names, most=SHOWN)}, much the same on these rows)",
        ),
    )


class Trial(abc.ABC, Generic[How]):
    """Some of the rows, and a place where what the model is given can be changed.

    A change is judged by the statistics `among`.
    """

    def __init__(self, m: Measured) -> None:
        self.m = m
        self.among: Sequence[int] = range(len(m.tracked))
        self._size = m.size
        self.some = self._spread(ROWS if m.small else OF_LARGE, BATCHES)
        self._judged = self._spread(MOST_ROWS if m.small else OF_LARGE, MOST_BATCHES)

    def _spread(self, most: int, batches: int) -> Data:
        count = min(most, batches * self._size, self.m.data.rows)
        return self.m.data.take(some_rows(self.m.data.rows, count))

    @abc.abstractmethod
    def changed(self, change: How | None, rows: Data) -> tuple[Data, Pass, Pass]:
        """Rows, and passes in training and inference, under a change; None for none."""

    def values(self, change: How | None, rows: Data | None = None) -> list[Array] | None:
        """The population statistics under a change, of few rows in wider batches if of no others;
        None where the model can't take it.
        """
        some, size = (self.some, WIDER * self._size) if rows is None else (rows, self._size)
        try:
            data, training, _ = self.changed(change, some)
            found = self.m.statistics_of(data.batches(size), training).population
        except Exception:  # values that the model cannot take
            return None
        return found if all(np.isfinite(value).all() for value in found) else None

    def explained_by(self, change: How) -> float:
        """The share of what is stored that the statistics under a change tell; 0 for none."""
        values = self.values(change)
        return 0.0 if values is None else self.explained(values)

    def tried(self, change: How) -> Tried | None:
        """What comes of a change; None where it is far from explaining what is stored.

        None, too, where no time is left to try it.
        """
        if not Tries().may("other preprocessing"):
            return None
        m = self.m
        if not self.explained_by(change) > WORTH_A_TRY:
            return None
        values = self.values(change, self._judged)
        if values is None:
            return None
        (given, aim), changed = self._as_given, self._says(change, m.moving)
        own = self._says(change, values)
        sides = [self._loss(side) for side in (given, changed, aim, uninformed(aim))]
        losses = [loss for loss in sides if loss is not None]
        return Tried(
            self.explained(values),
            self.explained(values, m.with_initial(m.initial_share)),
            gap(given, aim, self._judged).outputs,
            gap(changed, own, self._judged).outputs,
            Losses(*losses) if len(losses) == len(sides) else None,
        )

    def explained(
        self,
        values: Sequence[Array],
        by: Sequence[Array] | None = None,
        stored: Sequence[Array] | None = None,
    ) -> float:
        """The share of what is stored that `by`, or `values`, tell better than the population's,
        over the statistics `among` in which `values` differ from these.
        """
        m = self.m
        stored = m.moving if stored is None else stored
        whole = left = 0.0
        for place in self.among:
            far, reference, value = m.far[place], m.reference[place], values[place]
            if float(np.mean(far(reference, value))) > MOVED:
                whole += float(np.sum(far(stored[place], reference)))
                left += float(np.sum(far(stored[place], value if by is None else by[place])))
        return 1 - left / whole if whole and math.isfinite(left) else 0.0

    @functools.cached_property
    def _as_given(self) -> tuple[Side, Side]:
        """What the model says with nothing changed, under stored and population statistics."""
        return self._says(None, self.m.moving), self._says(None, self.m.reference)

    def _says(self, change: How | None, values: Sequence[Array]) -> Side:
        data, _, inference = self.changed(change, self._judged)
        write_statistics(self.m.tracked, values)
        return Side(inference.over(data.batches(self._size)))

    def _loss(self, side: Side) -> float | None:
        subject = self.m.subject
        if self._judged.y is None or not subject.evaluates:
            return None
        return subject.loss(self._judged, side.predicted)


class EachInputTrial(Trial[Mapping[int, Transform]]):
    """The model's inputs, each changed in its own way: those at these places of the flat ones."""

    def changed(
        self, change: Mapping[int, Transform] | None, rows: Data
    ) -> tuple[Data, Pass, Pass]:
        return _with_inputs(rows, change or {}), self.m.training, self.m.inference


class InputTrial(Trial[Transform]):
    """The model's inputs `at` places of the flat ones, all changed in one way."""

    def __init__(self, m: Measured, at: Sequence[int]) -> None:
        super().__init__(m)
        self.at = at

    def changed(self, change: Transform | None, rows: Data) -> tuple[Data, Pass, Pass]:
        changes = {} if change is None else dict.fromkeys(self.at, change)
        return _with_inputs(rows, changes), self.m.training, self.m.inference

    def judged_by(self, among: Sequence[int]) -> InputTrial:
        """The same, where a change is judged by these statistics alone."""
        narrowed = copy.copy(self)
        narrowed.among = among
        return narrowed

    @property
    def leaves(self) -> list[Array]:
        """The inputs that it changes."""
        leaves = flatten(self.some.x)
        return [leaves[index] for index in self.at]

    @property
    def every_row(self) -> Array:
        """The first of the inputs that it changes, of all rows."""
        return np.asarray(flatten(self.m.data.x)[self.at[0]])

    @functools.cached_property
    def moves(self) -> list[int]:
        """The statistics of the layers that tell the scale of these inputs."""
        return self.m.of_layers(self.moved_by_scale(RESPONDS) or [])

    @property
    def first(self) -> list[int]:
        """Those of the first of these layers."""
        return self.m.of_layers(self.moves[:1])

    @property
    def contradicted(self) -> bool:
        """Whether the first layer whose statistics move with the scale of these inputs is right:
        other data would have moved it first.
        """
        return bool(self.first) and not set(self.first) & set(self.m.wrong)

    def moved_by_scale(self, least: float) -> list[int] | None:
        """The statistics that are so far off at least where the inputs are doubled; None where
        the model can't take that.
        """
        once, doubled = self.values(lambda x: x), self.values(lambda x: 2 * x)
        if once is None or doubled is None:
            return None
        pairs = enumerate(zip(self.m.far, once, doubled, strict=True))
        return [i for i, (far, one, two) in pairs if float(np.mean(far(two, one))) > least]


def _with_inputs(rows: Data, changes: Mapping[int, Transform]) -> Data:
    """The rows where the inputs at these places of the flat ones are changed."""
    if not changes:
        return rows
    leaves = flatten(rows.x)
    for index, transform in changes.items():
        leaves[index] = transform(leaves[index]).astype(leaves[index].dtype)
    return Data(rebuild(rows.x, leaves))


def float_inputs(m: Measured) -> list[int]:
    """The places of the inputs of floats among the flat ones."""
    return [index for index, leaf in enumerate(flatten(m.data.x)) if is_float(leaf)]


class LayerTrial(Trial[tuple[Array, Array]]):
    """What a layer that scales and shifts gives: scaled and shifted once more."""

    def __init__(self, m: Measured, place: Affine) -> None:
        super().__init__(m)
        label, like = place.call.label, place.scale
        self._instruments = [Rescaled(label, like, Moments(m.subject)), Rescaled(label, like)]
        traced = zip((m.training, m.inference), self._instruments, strict=True)
        self._passes = [run.again(self.some.x, instrument) for run, instrument in traced]

    def changed(self, change: tuple[Array, Array] | None, rows: Data) -> tuple[Data, Pass, Pass]:
        scale, offset = (1.0, 0.0) if change is None else change
        for instrument in self._instruments:
            for variable, value in ((instrument.scale, scale), (instrument.offset, offset)):
                variable.assign(np.broadcast_to(value, variable.shape).astype(np.float32))
        return rows, self._passes[0], self._passes[1]
