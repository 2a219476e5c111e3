"""Rows in batches, in one order or another, each batch copied when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data


@dataclass(frozen=True)
class Batches(Sequence[Data]):
    """The rows of `data` in batches: `rows` holds the indices of each."""

    data: Data
    rows: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.data.take(self.rows[index])

    def __iter__(self) -> Iterator[Data]:
        return (self.data.take(rows) for rows in self.rows)

    @property
    def order(self) -> Array:
        return np.concatenate(self.rows)


def in_batches(data: Data, order: Array, size: int, *, ragged: bool = False) -> Batches:
    """The rows `order` in batches of `size`.

    A last batch of one row, which has no variance of its own, is joined to the one before it,
    unless it is to be `ragged`.
    """
    size = min(size, len(order))
    starts = list(range(0, len(order), size))
    if not ragged and len(order) - starts[-1] == 1 and len(starts) > 1 and size > 1:
        starts.pop()
    ends = [*starts[1:], len(order)]
    return Batches(data, tuple(order[a:b] for a, b in zip(starts, ends, strict=True)))
