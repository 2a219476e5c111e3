"""What becomes of kept rows when the other rows of their batch change: the one comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data.arrays import Array, distance
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Observation
from pytest_bnconsistency.execution.row_hashes import by_row
from pytest_bnconsistency.measurement.rounding_noise import Noise

ONLY_BITS = 1e-300
"""By how much a row moves of which only bits change, such as the sign of a zero."""


@dataclass(frozen=True)
class Difference:
    """Kept rows that changed in a batch variant: in which calls, by how much in the outputs.

    `row` is the one that moves farthest; `moved` is infinite where an output has another shape.
    """

    variant: BatchVariant
    places: tuple[int, ...]
    moved: float
    row: int = 0


def compare_kept_rows(
    base: Observation,
    other: Observation,
    variant: BatchVariant,
    among: Collection[int] | None = None,
) -> Difference | None:
    """How kept rows differ, in the outputs and in the calls `among`, by default all.

    None where they have the same bits.
    """
    moved, row = largest_move(base.outputs, other.outputs, variant)
    places = tuple(
        index
        for index, (mine, its) in enumerate(zip(base.records, other.records, strict=True))
        if (among is None or index in among)
        and mine is not None
        and its is not None
        and any_hashes_differ(mine, its, variant)
    )
    return Difference(variant, places, moved, row) if moved or places else None


def largest_move(mine: list[Array], its: list[Array], variant: BatchVariant) -> tuple[float, int]:
    """By how much a kept row of the outputs moves, at most, and which one; 0 for the same bits."""
    largest, row = 0.0, int(variant.kept[0])
    for a, b in zip(mine, its, strict=True):
        if not (a.ndim and b.ndim and len(a) == len(b) == variant.rows):
            continue
        if a.shape != b.shape:
            return np.inf, row
        different = _rows_that_differ(a, b, variant)
        if not different.any():
            continue
        kept, now = variant.kept[different], variant.now[different]
        change = distance(b[now], a[kept]).reshape(len(kept), -1).max(axis=1)
        if max(float(change.max()), ONLY_BITS) > largest:
            largest = max(float(change.max()), ONLY_BITS)
            row = int(kept[change.argmax()])
    return largest, row


def beyond_noise(
    base: Observation, other: Observation, variant: BatchVariant, noise: Noise
) -> float:
    """The largest change of a kept row of the outputs that noise does not explain."""
    moves = [
        noise.compare(index, mine, its, variant.kept)
        for index, mine, its in _kept_outputs(base, other, variant)
    ]
    # In the same place next to no noise is to be expected, however much the network has.
    beyond = [m for m in moves if m is not None and (m.beyond if variant.moves else m.large)]
    return max((moved.change for moved in beyond), default=0.0)


def moves_farther(
    base: Observation, other: Observation, variant: BatchVariant, noise: Noise
) -> bool:
    """Whether a kept row of the outputs moves farther than noise may, without measuring it."""
    return not variant.moves and any(
        noise.noise_dominates(index, mine, its, variant.kept)
        for index, mine, its in _kept_outputs(base, other, variant)
    )


def _kept_outputs(
    base: Observation, other: Observation, variant: BatchVariant
) -> Iterator[tuple[int, Array, Array]]:
    """The kept rows of each output whose rows can be compared, with its index."""
    for index, (mine, its) in enumerate(zip(base.outputs, other.outputs, strict=True)):
        if mine.ndim and mine.shape == its.shape and len(mine) == variant.rows:
            yield index, mine[variant.kept], its[variant.now]


def any_hashes_differ(mine: list[Array], its: list[Array], variant: BatchVariant) -> bool:
    return any(hashes_differ(a, b, variant) for a, b in zip(mine, its, strict=True))


def hashes_differ(mine: Array, its: Array, variant: BatchVariant) -> bool | None:
    """Whether hashes differ for a kept row; None where the first axis is not the batch.

    They do only if they do however the rows may lie along it.
    """
    alignments = list(zip(by_row(mine, variant.rows), by_row(its, variant.rows), strict=False))
    # How many elements an operation picks may depend on the batch: nothing to compare.
    if not alignments or mine.shape != its.shape:
        return None
    return all(bool((a[variant.kept] != b[variant.now]).any()) for a, b in alignments)


def reordered(mine: Array, its: Array, variant: BatchVariant) -> bool:
    """Whether hashes tell that the kept rows are all there beside other rows, in other places."""
    if variant.moves or len(mine) != variant.rows or mine.shape != its.shape:
        return False
    before, after = (_places_of_single(hashes) for hashes in (mine, its))
    common = before.keys() & after.keys()
    moved = any(before[entry] != after[entry] for entry in common)
    return moved and len(common) >= len(variant.kept)


def _places_of_single(hashes: Array) -> dict[bytes, int]:
    """The places of entries that are no copies, by their hash."""
    entries = [entry.tobytes() for entry in hashes]
    counted = Counter(entries)
    return {entry: place for place, entry in enumerate(entries) if counted[entry] == 1}


def _rows_that_differ(mine: Array, its: Array, variant: BatchVariant) -> Array:
    a = np.ascontiguousarray(mine[variant.kept]).reshape(len(variant.kept), -1)
    b = np.ascontiguousarray(its[variant.now]).reshape(len(variant.kept), -1)
    if a.dtype == object:  # texts
        return np.asarray((a != b).any(axis=1), bool)
    different: Array = (a.view(np.uint8) != b.view(np.uint8)).any(axis=1)
    return different
