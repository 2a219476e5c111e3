"""Batches of one shape in which some rows are kept and the others changed."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    flatten,
    is_float,
    is_text,
    map_nest,
    numbers_in,
    rows_of,
    take_rows,
)

COPIED = 8
"""Other rows, at most, of which a batch is made full."""


@dataclass(frozen=True)
class BatchVariant:
    """A second batch of `rows` rows: row `kept[k]` of the first is row `now[k]` of this one.

    Variants of one batch have names of their own.
    """

    name: str
    x: Nest
    kept: Array
    now: Array
    rows: int

    @property
    def moves(self) -> bool:
        """Whether kept rows change places, where a kernel may round otherwise."""
        return bool((self.kept != self.now).any())


def batch_variants(x: Nest, seed: int) -> list[BatchVariant]:
    """Batches in which every row serves as a kept row while others change.

    Batches follow in which other rows are alike, rows change places, or one is NaN or Inf.
    """
    rows = rows_of(x)
    found = [*_designed(x, seed), moved_on(x)]
    for value in (np.nan, np.inf) if _has_floats(x) else ():
        non_finite, row = map_nest(np.copy, x), rows // 2
        _make_non_finite(non_finite, row, value)
        kept = np.delete(np.arange(rows), row)
        name = f"one other row with {value}".replace("nan", "a NaN").replace("inf", "an Inf")
        found.append(BatchVariant(name, non_finite, kept, kept, rows))
    return found


def with_kept_changed(x: Nest, kept: Array) -> Nest:
    """The same batch, with those of other rows in place of the rows `kept`, and nothing else."""
    return map_nest(lambda leaf: _replaced(leaf, kept, np.roll(leaf, 1, axis=0)), x)


def _replaced(leaf: Array, kept: Array, by: Array) -> Array:
    changed: Array = leaf.copy()
    changed[kept] = by[kept]
    return changed


def joint_batch_variants(x: Nest, seed: int) -> list[BatchVariant]:
    """The same changes of other rows in fewer batches: a NaN and an Inf along with others.

    Both are in the first batch: what they would hide shows in the others.
    """
    first, *others = _designed(x, seed)
    if not _has_floats(x):
        return [first, *others]
    changed = np.setdiff1d(np.arange(first.rows), first.kept)
    _make_non_finite(first.x, changed[-1], np.inf)
    _make_non_finite(first.x, changed[0], np.nan)
    and_more = ", one of them with a NaN" + ", one with an Inf" * (len(changed) > 1)
    return [replace(first, name=first.name + and_more), *others]


def _designed(x: Nest, seed: int) -> list[BatchVariant]:
    """Every second row kept, the others kept, until each kind was tried; the last row by itself.

    So a row stands apart from its neighbours, and the last one from all others both ways: what
    treats rows alike, whichever of them it has meet, shows on it.
    """
    rows, rng = rows_of(x), np.random.default_rng(seed)
    every = (_redrawn, _hundredfold, _constant, _duplicated, _shortened, _emptied)
    kinds, changed = itertools.cycle(every), 0
    found: list[BatchVariant] = []
    while len(found) < 2 or changed < len(every):  # few rows take more batches
        kept = np.arange(len(found) % 2, rows - (rows > 2), 2)
        names, other = [], map_nest(np.copy, x)
        for row in np.setdiff1d(np.arange(rows), kept):
            kind = next(kinds)
            names.append(kind.__name__.strip("_"))
            for leaf, original in zip(flatten(other), flatten(x), strict=True):
                leaf[row : row + 1] = kind(original, row, rng)
        kinds_seen = ", ".join(dict.fromkeys(names))
        changed += len(names)
        name = f"batch {len(found) + 1}: {len(names)} other rows {kinds_seen}"
        found.append(BatchVariant(name, other, kept, kept, rows))
    return [*found, *_at_the_ends(x), _crowded(x)]


def _at_the_ends(x: Nest) -> Iterator[BatchVariant]:
    """The row nearest to an end of the range of whole numbers, beside other rows at that end.

    Whole numbers may be ids, so none beyond their range are tried; and where a kept row holds the
    largest number itself, no other row tells that rows are divided by it.
    """
    rows = rows_of(x)
    whole = [leaf for leaf in flatten(x) if leaf.dtype.kind in "iu" and leaf.size]
    if not whole:
        return
    for end, far in ((np.min, np.max), (np.max, np.min)):
        leaf = whole[0].reshape(rows, -1).astype(np.int64)
        reach = np.abs(far(leaf, axis=1) - end(leaf))
        kept, other = np.array([reach.argmin()]), map_nest(np.copy, x)
        for changed in flatten(other):
            if changed.dtype.kind in "iu" and changed.size:
                own = changed[kept]
                changed[...] = end(changed)
                changed[kept] = own
        name = f"other rows at the {'smallest' if end is np.min else 'largest'} number"
        yield BatchVariant(name, other, kept, kept, rows)


def _crowded(x: Nest) -> BatchVariant:
    """The last row beside copies of itself: some dependences need several other rows of a kind."""
    rows = rows_of(x)
    last, other = np.array([rows - 1]), map_nest(lambda leaf: np.repeat(leaf[-1:], rows, 0), x)
    for leaf in flatten(other):
        if is_float(leaf):
            leaf[-3::-2] *= leaf.dtype.type(100)  # the nearest one stays a copy
    name = "copies of the last row" + ", every second one hundredfold" * _has_floats(x)
    return BatchVariant(name, other, last, last, rows)


def copied(x: Nest, start: int, stop: int) -> BatchVariant:
    """Some rows in their places, and copies of them in all others: as if they stood alone."""
    rows, kept = rows_of(x), np.arange(start, stop)
    places = start + (np.arange(rows) - start) % len(kept)
    batch = take_rows(x, places)
    return BatchVariant(f"copies of rows {start} to {stop - 1} alone", batch, kept, kept, rows)


def beside_copies(x: Nest, row: int) -> Iterator[BatchVariant]:
    """A row in its place, and copies of one row in all others: of itself, then of each other one.

    What takes so many rows of a kind, the first ones first, is full or empty in one of them.
    """
    rows, kept = rows_of(x), np.array([row])
    for other in [row, *np.delete(np.arange(rows), row)[:COPIED]]:
        places = np.where(np.arange(rows) == row, row, other)
        batch = map_nest(operator.itemgetter(places), x)
        yield BatchVariant(f"row {row} beside copies of row {other}", batch, kept, kept, rows)


def moved_on(x: Nest) -> BatchVariant:
    """Every row one place further on, the last one first."""
    places = np.arange(rows_of(x))
    rolled = map_nest(lambda leaf: np.roll(leaf, 1, axis=0), x)
    name = "the rows moved on by a place"
    return BatchVariant(name, rolled, places, np.roll(places, -1), len(places))


def _has_floats(x: Nest) -> bool:
    return any(is_float(leaf) for leaf in flatten(x))


def _make_non_finite(x: Nest, row: int, value: float) -> None:
    for leaf in flatten(x):
        if is_float(leaf):
            leaf[row].flat[0] = value


def _redrawn(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    if is_float(leaf):
        numbers = numbers_in(leaf)
        normal = rng.standard_normal(leaf.shape[1:]) * (numbers.std() or 1.0) + numbers.mean()
        return np.asarray(normal, leaf.dtype)
    if is_text(leaf):
        return np.asarray(rng.choice(leaf.ravel(), leaf.shape[1:]), object)
    # Whole numbers may be ids, of which not all between the smallest and the largest are valid.
    return np.asarray(rng.choice(np.unique(leaf), leaf.shape[1:]), leaf.dtype)


def _hundredfold(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    if is_float(leaf):
        changed: Array = leaf[row] * leaf.dtype.type(100)
        return changed
    return _redrawn(leaf, row, rng)


def _constant(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    if is_text(leaf):
        return np.full_like(leaf[row], max(leaf.flat))
    return np.full_like(leaf[row], (numbers_in(leaf) if is_float(leaf) else leaf).max())


def _duplicated(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    if is_text(leaf):
        texts = [t.decode(errors="replace") if isinstance(t, bytes) else t for t in leaf.flat]
        if any(" " in text for text in texts):
            # Of sentences, all in one: others may be padded to the longest.
            return np.full(leaf.shape[1:], " ".join(texts), object)
    copied: Array = leaf[(row + 1) % len(leaf)]
    return copied


def _shortened(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    """A sequence of another length: zeros, which mostly pad, from some step on."""
    changed: Array = leaf[row : row + 1].copy()[0]
    if leaf.ndim > 1 and len(changed) > 1:
        changed[rng.integers(1, len(changed)) :] = "" if is_text(leaf) else 0
    return changed


def _emptied(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    return np.full_like(leaf[row], "" if is_text(leaf) else 0)
