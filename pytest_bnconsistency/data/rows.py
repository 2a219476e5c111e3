"""Rows as one bounded, validated set, and those that are not kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import (
    Array,
    Kind,
    Nest,
    flatten,
    join,
    rows_of,
    take_rows,
)


@dataclass
class Rest:
    """Rows that are not kept in memory, in batches that are read and checked one by one.

    `total` is the number of all rows, those that are kept included, where it is known. A data
    set is read once: a second loop finds nothing of a generator.
    """

    batches: Iterable[Data]
    total: int | None = None

    def __iter__(self) -> Iterator[Data]:
        return iter(self.batches)

    def of(self, size: int) -> Iterator[Data]:
        """The rows' x in batches of `size` at most; smaller ones of one shape are joined."""

        def shapes(x: Nest) -> list[tuple[int, ...]]:
            return [leaf.shape[1:] for leaf in flatten(x)]

        waiting: list[Nest] = []
        for batch in self:
            fits = sum(map(rows_of, waiting)) + batch.rows <= size
            if waiting and not (fits and shapes(batch.x) == shapes(waiting[0])):
                yield from Data(join(waiting, "x")).batches(size)
                waiting = []
            waiting.append(batch.x)
        if waiting:
            yield from Data(join(waiting, "x")).batches(size)


@dataclass(frozen=True)
class Given:
    """An array of x as a user gives it: its place among those of the model, dtype and kind."""

    place: int
    dtype: Any
    kind: Kind = ""


@dataclass(frozen=True)
class Form:
    """How a user gives rows, where the model gets them otherwise.

    `x` is the user's nest, of `Given`. `only_x` says that a batch of a data set is x without a
    tuple around it, `tensors` that its parts are tensors.
    """

    x: Nest
    streamed: bool = False
    only_x: bool = False
    tensors: bool = False

    def applied(self, x: Nest) -> Nest:
        """Arrays in the model's nest as the user gives them."""
        leaves = flatten(x)

        def fill(part: Nest) -> Nest:
            if isinstance(part, Given):
                return leaves[part.place].astype(part.dtype, copy=False)
            if isinstance(part, Mapping):
                return {key: fill(item) for key, item in part.items()}
            return [fill(item) for item in part]

        return fill(self.x)


@dataclass(frozen=True)
class Data:
    """Rows for a model: arrays of shape `(rows, ...)` in the nest that the model takes."""

    x: Nest
    y: Nest | None = None
    sample_weight: Array | None = None
    notes: tuple[str, ...] = field(default=())
    batch_size: int | None = None
    """The size of the batches of a data set that comes in batches."""
    rest: Rest | None = None
    """What was given beyond these rows."""
    empty_batches: int = 0
    form: Form | None = None
    boundary: float | None = None
    """The score from which on an output of one number a row says "yes", where it is known."""

    @property
    def rows(self) -> int:
        return rows_of(self.x)

    @property
    def total(self) -> int:
        """How many rows there are with the rest, as far as that is known."""
        return (self.rest and self.rest.total) or self.rows

    def take(self, rows: Sequence[int] | slice | Array) -> Data:
        """The rows `rows`, in that order; a copy, never a view of the user's arrays."""
        index = np.arange(self.rows)[rows] if isinstance(rows, slice) else np.asarray(rows, int)
        weight = self.sample_weight
        return Data(
            take_rows(self.x, index),
            None if self.y is None else take_rows(self.y, index),
            None if weight is None else weight[index],
            self.notes,
            form=self.form,
            boundary=self.boundary,
        )

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of the arrays of x, in the order of `flatten`; none where all are arrays."""
        given = [] if self.form is None else flatten(self.form.x)
        kinds = [leaf.kind for leaf in sorted(given, key=lambda leaf: leaf.place)]
        return kinds if any(kinds) else []

    def as_given(self) -> Nest:
        """x in the nest and in the dtypes in which the user gives it."""
        return self.x if self.form is None else self.form.applied(self.x)

    def batches(self, size: int) -> Iterator[Data]:
        for start in range(0, self.rows, size):
            yield self.take(slice(start, start + size))


def some_rows(total: int, count: int) -> Array:
    """`count` of `total` rows as indices, in their order; all where there are no more.

    They are drawn, always the same: of rows whose kinds take turns, every so-many-th is of one
    kind.
    """
    drawn = np.random.default_rng(0).permutation(total)[:count]
    return np.sort(drawn)
