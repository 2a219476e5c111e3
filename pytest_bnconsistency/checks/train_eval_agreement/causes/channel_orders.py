"""Orders of channels in which stored vectors may stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pytest_bnconsistency.data.arrays import Array

MANY, MOST, MOST_MIXED = 4, 1024, 256
"""In fewer channels an order fits by chance, unless closely; in more, only a shift by a few is
tried, and no order that has no rule.
"""
SHIFTS = 8
SURE = 0.9
"""So many channels must find their nearest, each another one."""


def orders(stored: Sequence[Array], right: Sequence[Array]) -> Iterator[tuple[str, Array]]:
    """How the stored vectors may be read, in words and as indices, to give the right ones."""
    sizes = {value.size for value in stored}
    if len(sizes) != 1:
        return
    size = max(sizes)
    index = np.arange(size)
    for shift in range(1, size) if size <= MOST else (*range(1, SHIFTS), *range(-SHIFTS, 0)):
        by = shift if shift <= size // 2 else shift - size
        yield f"shifted by {abs(by)}", np.roll(index, -by)
    yield "in reverse order", index[::-1]
    for groups in range(2, size // 2 + 1) if size <= MOST else (2, 4):
        if size % groups == 0:
            yield (
                f"interleaved, as of {groups} groups that were transposed",
                index.reshape(-1, groups).T.ravel(),
            )
    nearest = _nearest(stored, right) if size <= MOST_MIXED else None
    if nearest is not None:
        yield "in another order", nearest


def _nearest(stored: Sequence[Array], right: Sequence[Array]) -> Array | None:
    """Where each right channel is stored, by the nearest; None where that is no order."""
    deviation = np.zeros((right[0].size, stored[0].size))
    for mine, its in zip(stored, right, strict=True):
        unit = max(float(its.std()), 1e-12)
        deviation += np.abs(its.reshape(-1, 1) - mine.reshape(1, -1)) / unit
    found = one_each(deviation)
    own = deviation.argmin(axis=1)
    return found if float(np.mean(found == own)) >= SURE else None


def one_each(deviation: Array) -> Array:
    """For each row of a square of distances a column of its own, the nearest pairs first."""
    found, taken = np.full(len(deviation), -1), set[int]()
    for flat in np.argsort(deviation, axis=None):
        row, column = divmod(int(flat), deviation.shape[1])
        if found[row] < 0 and column not in taken:
            found[row] = column
            taken.add(column)
    return found
