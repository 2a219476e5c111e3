"""Batches whose sequences are padded further, as a longer other row would have it.

Which steps are padding is told by the user, by an input that is a mask, or by the model's own
masks; on which side they stand is told by the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    Spec,
    distance,
    flatten,
    rebuild,
    rows_of,
    take_rows,
)
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.models import Call

MORE = 3
"""So many steps are added, or the next multiple of what a model takes."""
MULTIPLES = (1, 2, 4, 8)
"""The numbers of steps of which models may take multiples only."""
SHORT = 3
"""So many lengths of short rows are tried, until a model takes one."""

Side = Literal["left", "right"]
Given = TypeVar("Given")


@dataclass(frozen=True)
class Sequences:
    """Inputs of one length: the time axis is the first inner axis of each.

    `places` are theirs among all inputs. `counted` tells of each row which steps count, and are no
    padding; `padding` holds what stands in a padded step, for each input. `side` is where the rows
    have their padding, None where none has any.
    """

    places: tuple[int, ...]
    counted: Array
    padding: tuple[Array, ...]
    side: Side | None

    def laid(self, x: Nest, side: Side) -> tuple[Nest, Sequences]:
        """`x` with all padding on a side, and its sequences."""
        if side == self.side:
            return x, self
        first = self.counted.argmax(axis=1)
        behind = self.counted[:, ::-1].argmax(axis=1)
        shifts = -first if side == "right" else behind

        def shifted(rows: Array) -> Array:
            return np.stack([np.roll(row, n, 0) for row, n in zip(rows, shifts, strict=True)])

        leaves = list(flatten(x))
        for place in self.places:
            leaves[place] = shifted(leaves[place])
        return rebuild(x, leaves), replace(self, counted=shifted(self.counted), side=side)

    def anywhere(self) -> Sequences:
        """The same of rows that do not show where padding stands."""
        return replace(self, side=None)

    def short(self) -> list[Array]:
        """Rows of few steps that count, and some, each as an array of one: the shortest first."""
        steps, first = np.unique(self.counted.sum(axis=1), return_index=True)
        return [np.array([row]) for row in first[steps > 0][:SHORT]] or [np.array([0])]


@dataclass(frozen=True)
class Padded:
    """Rows `rows` of a batch, and the same with `more` steps of padding on a side.

    `counted` tells which steps of the shorter one count, and `others` which steps of other
    sequences, which stay as they are. Only the rows `among` them are the same in both, if that is
    given.
    """

    short: Nest
    long: Nest
    counted: Array
    side: Side
    rows: Array
    more: int
    among: Array | None = None
    others: tuple[Array, ...] = ()

    def of_both(self, mine: Array, its: Array) -> tuple[Array, Array] | None:
        """What two runs, of the shorter batch and of the longer, have in common in the steps that
        count; None where it can't be told which these are.

        A layer may have turned its steps round.
        """
        pair, other = self._aligned(mine, its, turned=False), self._aligned(mine, its, turned=True)
        if pair is None or other is None:
            return pair
        turned = distance(*other).max(initial=0.0) < distance(*pair).max(initial=0.0)
        return other if turned else pair

    def with_steps_of(self, its: Array, mine: Array) -> Array:
        """`its`, of the longer batch, with the steps that count as the shorter one has them."""
        axes = _longer_axes(mine, its, self.more)
        if not axes:
            return mine
        changed: Array = its.copy()
        place, count = self._place(mine, axes), self._counts(mine, axes)
        if count is not None:
            changed[place] = np.where(count, mine, its[place])
        return changed

    def _aligned(self, mine: Array, its: Array, turned: bool) -> tuple[Array, Array] | None:
        axes = _longer_axes(mine, its, self.more)
        if mine.shape != its.shape and not axes:
            return None
        if not axes and self.among is not None and mine.shape[:1] == self.rows.shape:
            return mine[self.among], its[self.among]
        count = self._counts(mine, axes, turned)
        if count is None:
            return None
        its = its[self._place(mine, axes, turned)]
        nothing = np.zeros((), mine.dtype)
        return np.where(count, mine, nothing), np.where(count, its, nothing)

    def _place(self, mine: Array, axes: Sequence[int], turned: bool = False) -> tuple[slice, ...]:
        behind = (self.side == "left") != turned
        start = self.more if behind else 0
        return tuple(
            slice(start, start + length) if axis in axes else slice(None)
            for axis, length in enumerate(mine.shape)
        )

    def _counts(self, mine: Array, axes: Sequence[int], turned: bool = False) -> Array | None:
        """Which elements of `mine` are of steps that count along all axes of time: those that are
        longer in the other run, and those that are as long as other sequences.
        """
        counted = self.counted[:, ::-1] if turned else self.counted
        found = np.ones((1,) * mine.ndim, bool)
        for axis in axes:
            if _fits(counted, mine, axis):
                found = found & _along(counted, mine, axis)
            elif not counted.all():
                return None
        for axis, other in itertools.product(range(1, mine.ndim), self.others):
            if axis not in axes and _fits(other, mine, axis):
                found = found & _along(other, mine, axis)
        return found


def _fits(counted: Array, outputs: Array, axis: int) -> bool:
    """Whether the rows and their steps may lie along the first axis of outputs and this one."""
    return counted.shape == (len(outputs), outputs.shape[axis])


def _along(counted: Array, outputs: Array, axis: int) -> Array:
    return counted.reshape([n if a in (0, axis) else 1 for a, n in enumerate(outputs.shape)])


def padded(
    x: Nest, sequences: Sequences, side: Side, others: Sequence[Sequences] = ()
) -> Iterator[Iterator[Padded]]:
    """All rows, and a short one alone: a row that is padded already may not show more of it.

    Each in several lengths, the better ones first, of which the model may refuse some. The
    `others` are sequences of other lengths, which are not padded further.
    """
    x, sequences = sequences.laid(x, side)

    def longer(choices: Sequence[Array]) -> Iterator[Padded]:
        for multiple, rows in itertools.product(MULTIPLES, choices):
            found = _padded(take_rows(x, rows), sequences, side, rows, multiple)
            yield replace(found, others=tuple(other.counted[rows] for other in others))

    yield longer([np.arange(rows_of(x))])
    yield longer(sequences.short())


def padded_inside(x: Nest, other: Nest, kept: Array, mine: Array, its: Array) -> Padded | None:
    """The batches `x` and `other`, if code gives `mine` and `its` for them and these are the rows
    `kept` of both, one padded further than the other; else None.
    """
    if mine.ndim < 2 or mine.shape[1:2] == its.shape[1:2]:
        return None
    if mine.shape[:1] + mine.shape[2:] != its.shape[:1] + its.shape[2:]:
        return None
    if mine.shape[1] > its.shape[1]:
        x, other, mine, its = other, x, its, mine
    steps = mine.shape[1]
    more = its[kept, steps:]
    if not ((mine[kept] == its[kept, :steps]).all() and (more == more[0, 0]).all()):
        return None
    counts = (mine != more[0, 0]).reshape(len(mine), steps, -1).any(axis=2)
    # A step counts that stands before another one that does.
    counted = np.logical_or.accumulate(counts[:, ::-1], axis=1)[:, ::-1]
    counted[np.setdiff1d(np.arange(len(mine)), kept)] = False
    rows = np.arange(len(mine))
    return Padded(x, other, counted, "right", rows, its.shape[1] - steps, kept)


def _padded(x: Nest, sequences: Sequences, side: Side, rows: Array, multiple: int) -> Padded:
    """`x`, without steps that all rows have as padding, and longer: by at least `MORE`, and both
    of so many steps, if they are that many.
    """
    counted = sequences.counted[rows]
    along = counted if side == "right" else counted[:, ::-1]
    steps = max((np.flatnonzero(along.any(axis=0)) + 1).tolist(), default=1)
    steps, more = (-(-count // multiple) * multiple for count in (steps, MORE))
    kept = slice(0, steps) if side == "right" else slice(-steps, None)
    short, long = list(flatten(x)), list(flatten(x))
    for place, padding in zip(sequences.places, sequences.padding, strict=True):
        short[place] = short[place][:, kept]
        added = np.broadcast_to(padding, (len(rows), more, *padding.shape))
        parts = [short[place], added.astype(short[place].dtype)]
        long[place] = np.concatenate(parts if side == "right" else parts[::-1], 1)
    return Padded(rebuild(x, short), rebuild(x, long), counted[:, kept], side, rows, more)


def inputs_of_one_length(x: Nest, specs: Nest | None) -> list[tuple[int, ...]]:
    """The places of inputs with a time axis of any length, those of one length together."""
    leaves = list(flatten(x))
    known: Sequence[Spec | None] = [None] * len(leaves) if specs is None else list(flatten(specs))
    found: dict[int, list[int]] = {}
    for place, (leaf, spec) in enumerate(zip(leaves, known, strict=True)):
        if _is_sequence(leaf, spec):
            found.setdefault(leaf.shape[1], []).append(place)
    return [tuple(places) for places in found.values()]


def _is_sequence(leaf: Array, spec: Spec | None) -> bool:
    """Whether it is of ids `(rows, time)` or of vectors `(rows, time, features)`."""
    if leaf.dtype.kind in "OSU" or leaf.ndim not in (2, 3) or not leaf.shape[1]:
        return False
    if spec is None:  # the model does not tell
        return leaf.ndim == 3 or leaf.dtype.kind in "iub"
    return spec.shape[0] is None


def by_value(x: Nest, places: Sequence[int], value: float) -> Sequences:
    """The sequences, where a step is padding that holds this value in all inputs."""
    leaves = [flatten(x)[place] for place in places]
    counted = np.logical_or.reduce(
        [(leaf != value).reshape(*leaf.shape[:2], -1).any(axis=2) for leaf in leaves]
    )
    padding = tuple(np.full(leaf.shape[2:], value, leaf.dtype) for leaf in leaves)
    return Sequences(tuple(places), counted, padding, _side(counted))


def by_mask_input(x: Nest, places: Sequence[int]) -> Sequences | None:
    """The sequences, where one of the inputs is a mask of the others; None where none is.

    Such an input is 1 along each row's steps and 0 before or behind them, and where it is 0 the
    others hold the same in all rows.
    """
    leaves = [flatten(x)[place] for place in places]
    for mask in leaves if len(leaves) > 1 else []:
        counted = mask.astype(bool)
        if not _is_mask(mask) or not _in_one_piece(counted):
            continue
        steps = [leaf[~counted] for leaf in leaves]
        if all((step == step[0]).all() for step in steps):
            padding = tuple(step[0] for step in steps)
            return Sequences(tuple(places), counted, padding, _side(counted))
    return None


def _is_mask(leaf: Array) -> bool:
    """Whether it is 0 or 1 for each step, 1 somewhere in each row, and not everywhere."""
    if leaf.ndim != 2 or not np.isin(leaf, (0, 1)).all() or leaf.all():
        return False
    return bool(leaf.any(axis=1).all())


def by_own_mask(seen: Pass, x: Nest, places: Sequence[int]) -> Sequences | None:
    """The sequences, where the model itself takes steps for padding; None where it does not.

    Raises whatever the model raises on sequences of another length.
    """
    leaves = [flatten(x)[place] for place in places]
    mask = _first_mask(seen, x, leaves[0].shape[1])
    if mask is None or mask.shape[:1] != (rows_of(x),):
        return None
    padding = tuple(
        np.zeros(leaf.shape[2:], leaf.dtype) if mask.all() else leaf[~mask][0] for leaf in leaves
    )
    found = Sequences(tuple(places), mask, padding, _side(mask))
    whole = next(padded(x, found, "right"))
    longer, again = first_taken(
        whole, lambda batch: _first_mask(seen, batch.long, flatten(batch.long)[places[0]].shape[1])
    )
    return found if again is not None and not again[:, -longer.more :].any() else None


def first_taken(batches: Iterable[Padded], run: Callable[[Padded], Given]) -> tuple[Padded, Given]:
    """The first batch that `run` takes, and what it gives; raises the first refusal, if none."""
    refusals: list[Exception] = []
    for batch in batches:
        try:
            return batch, run(batch)
        except Exception as error:
            refusals.append(error)
    raise refusals[0]


class _Masks(Instrument):
    """Keeps the mask of each call's outputs that have one. For runs outside of a graph."""

    def begin(self) -> None:
        self.seen: list[Array] = []

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        masks = [getattr(leaf, "_keras_mask", None) for leaf in flatten(outputs)]
        self.seen += [np.asarray(mask) for mask in masks if mask is not None][:1]
        return outputs, None


def _first_mask(seen: Pass, x: Nest, length: int) -> Array | None:
    """The model's first mask of steps of that length."""
    masks = _Masks()
    seen.again(x, masks, traced=False).run(x)
    found = (mask.astype(bool) for mask in masks.seen if mask.ndim == 2)
    return next((mask for mask in found if mask.shape[1] == length), None)


def _side(counted: Array) -> Side | None:
    """The side on which most padding stands, None where there is none."""
    rows = counted[counted.any(axis=1)]
    before = rows.argmax(axis=1).sum()
    behind = rows[:, ::-1].argmax(axis=1).sum()
    if before == behind == 0:
        return None
    return "left" if before > behind else "right"


def _in_one_piece(counted: Array) -> bool:
    starts = np.diff(counted.astype(int), axis=1, prepend=0) == 1
    return bool((starts.sum(axis=1) <= 1).all())


def _longer_axes(mine: Array, its: Array, more: int) -> list[int]:
    """The inner axes along which `its` is longer by what was added; none if others differ, too."""
    if mine.ndim != its.ndim:
        return []
    pairs = list(enumerate(zip(mine.shape, its.shape, strict=True)))
    axes = [axis for axis, (a, b) in pairs if axis and b == a + more]
    return axes if all(a == b or axis in axes for axis, (a, b) in pairs) else []
