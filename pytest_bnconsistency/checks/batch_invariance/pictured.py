"""Numbers that a picture shows: where a row's difference begins and grows, and in which batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.batch_invariance.judged import Judged
from pytest_bnconsistency.checks.batch_invariance.kept_rows import Difference
from pytest_bnconsistency.checks.batch_invariance.localise import Moved
from pytest_bnconsistency.data.arrays import Array, Nest, all_finite, distance, flatten, is_float
from pytest_bnconsistency.execution.batch_variants import BatchVariant

MOST = 24
"""Calls of layers that are kept, all over what comes after the difference begins."""
MOST_ROWS = 16
"""Rows of a batch that are kept."""


def along_layers(along: Sequence[Moved], row: int) -> dict[str, Any]:
    """How far the row moves in each call, against how large what it gives is there."""
    moved = [one.change > 0 for one in along]
    first = moved.index(True) if any(moved) else len(moved)
    rest = along[first:]
    picked = np.linspace(0, len(rest) - 1, min(len(rest), MOST)).round().astype(int)
    shown = [*along[max(first - 1, 0) : first], *(rest[i] for i in picked)]
    layers = [
        {"layer": one.label, "change": one.change, "share": one.change / one.size}
        for one in shown
        if one.size > 0
    ]
    return {"row": row, "layers": layers, "calls": len(along)}


def mildest(found: Sequence[Difference]) -> Difference:
    """The batch variant whose numbers say most: without NaN and infinity, where there is one."""
    finite = [one for one in found if all_finite(flatten(one.variant.x))]
    return max(finite or found, key=lambda one: np.nan_to_num(one.moved, posinf=0.0))


def of_batch(x: Nest, variant: BatchVariant) -> dict[str, Any]:
    """How far each row of the batch that fails is from what it was, and which ones are kept."""
    moved = np.zeros(variant.rows)
    for mine, its in zip(flatten(x), flatten(variant.x), strict=True):
        if is_float(mine) and mine.shape == its.shape:
            moved = np.maximum(moved, _by_row(mine, its))
    shown = moved[:MOST_ROWS].tolist()
    kept = [int(row) for row in variant.kept if row < MOST_ROWS]
    return {"variant": variant.name, "rows": variant.rows, "kept": kept, "moved": shown}


def by_size(judged: Sequence[Judged]) -> list[dict[str, float]]:
    """The largest change in batches of each size, and the bound that it is compared with."""
    found: dict[int, tuple[float, float]] = {}
    for one in judged:
        for size, seen in one.by_size.items():
            found[size] = max(found.get(size, seen), seen)
    return [{"rows": size, "change": c, "bound": b} for size, (c, b) in sorted(found.items())]


def _by_row(mine: Array, its: Array) -> Array:
    return np.asarray(distance(its, mine).reshape(len(mine), -1).max(axis=1, initial=0.0))
