"""Which layer it is whose result depends on the number of rows, or on their places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data import Array, Nest, distance, map_nest, rows_of
from pytest_bnconsistency.probes.exchanges import Exchange
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.probes.values import (
    differ,
    given_and_returned,
    outputs_with,
    values_of,
)


@dataclass(frozen=True)
class Place:
    """A layer, and whether undoing what it does to the batch mends the outputs."""

    label: str
    tested: bool


def loses_axis(seen: Pass, x: Nest, start: int, stop: int) -> Place | None:
    """The first call that gives some rows another shape than it gives them among all."""
    rows, among = stop - start, rows_of(x)
    some = map_nest(lambda leaf: leaf[start:stop], x)
    found = values_of(seen, some)
    for label, wholes in values_of(seen, x).items():
        parts = found.get(label)
        if parts is None:
            return Place(label, False)  # it raises
        wanted = [_shape_of(rows, whole, among) for whole in wholes]
        if [part.shape for part in parts] == wanted:
            continue
        if [part.size for part in parts] != [math.prod(shape) for shape in wanted]:
            return Place(label, False)
        held = [part.reshape(shape) for part, shape in zip(parts, wanted, strict=True)]
        mended = outputs_with(seen, some, {label: held})
        expected = [_shape_of(rows, output, among) for output in outputs_with(seen, x, {}) or []]
        return Place(label, mended is not None and [m.shape for m in mended] == expected)
    return None


def depends_on_size(seen: Pass, x: Nest, start: int, stop: int, bound: float) -> Place | None:
    """The first call that gives some rows other values than it gives them among all."""
    among = rows_of(x)
    some = map_nest(lambda leaf: leaf[start:stop], x)

    def own(values: list[Array]) -> list[Array]:
        return [v[start:stop] if v.ndim and len(v) == among else v for v in values]

    whole_given, base = given_and_returned(seen, x)
    given, found = given_and_returned(seen, some)
    for label in _in_order(list(base), list(found)):
        # A call that is not seen in a run hands its inputs on there.
        mine = own(base[label]) if label in base else given[label]
        parts = found[label] if label in found else own(whole_given[label])
        if len(parts) == len(mine) and any(map(differ, mine, parts)):
            mended, whole = outputs_with(seen, some, {label: mine}), outputs_with(seen, x, {})
            tested = mended is not None and all(
                a.shape == b.shape and distance(a, b).max(initial=0.0) <= bound
                for a, b in zip(mended, own(whole or []), strict=True)
            )
            return Place(label, tested)
    return None


def depends_on_place(seen: Pass, x: Nest, exchange: Exchange) -> Place | None:
    """The first call, or two of them, between which rows begin to depend on their places."""

    def differing(mine: list[Array], its: list[Array]) -> bool:
        pairs = list(zip(mine, its, strict=False))
        return any(
            differ(a[exchange.kept], b[exchange.now])
            for a, b in pairs
            if a.ndim and len(a) == len(b) == exchange.rows
        )

    given, base = given_and_returned(seen, x)
    other_given, other = given_and_returned(seen, exchange.x)
    before = "the input"
    for label, mine in base.items():
        if not differing(mine, other.get(label, [])):
            before = label
            continue
        moved = [m[np.argsort(exchange.now)] if len(m) == exchange.rows else m for m in mine]
        mended = outputs_with(seen, exchange.x, {label: moved})
        tested = mended is not None and not differing(outputs_with(seen, x, {}) or [], mended)
        between = differing(given[label], other_given.get(label, []))
        return Place(f"between {before} and {label}" if between else label, tested)
    return None


def _in_order(labels: list[str], others: list[str]) -> list[str]:
    """The labels of both, each in its order: a call of one run alone behind the one before it."""
    merged, place = list(labels), 0
    for label in others:
        if label not in labels:
            merged.insert(place, label)
        place = merged.index(label) + 1
    return merged


def _shape_of(rows: int, whole: Array, among: int) -> tuple[int, ...]:
    """The shape that an array of values for `among` rows has for some of them."""
    return (rows, *whole.shape[1:]) if whole.ndim and len(whole) == among else whole.shape
