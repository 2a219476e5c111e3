"""Which layer or code it is whose result depends on the number of rows, or on their places."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.data.arrays import Array, Nest, distance, rows_of, take_rows
from pytest_bnconsistency.execution.activation_patching import Patch
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import (
    differ,
    given_and_returned,
    outputs_with,
    outputs_with_each,
    results_in,
)
from pytest_bnconsistency.execution.row_hashes import Operations, Result

END = "the model's output"
ANY_NUMBER = (
    "let the code take any number of rows: tf.shape(x)[0] instead of x.shape[0]; reshape to "
    "(-1, ...)"
)
BRANCHING = (
    "look for code that reads the batch size, such as x.shape[0]: in a trace for any number of "
    "rows it is None, and the code takes another branch"
)
"""Remedies for a batch that is refused, and for one that only fails outside of a trace."""
TRIED = 16
"""Operations that are undone, one by one, at most."""


@dataclass(frozen=True)
class Place:
    """A layer, or code `between` two, and whether undoing what it does to the batch mends it all.

    `operation` is the one in that code that was undone, if it was one; `width` says that it is not
    the batch axis that depends on the batch, but another one.
    """

    label: str
    tested: bool
    operation: str = ""
    width: bool = False
    between: bool = False

    def that(self, does: str) -> str:
        """A sentence of what it `does`."""
        if self.operation:
            return f"{self.operation} {does}, {self.label}"
        return f"{'the code ' * self.between}{self.label} {does}"


@dataclass(frozen=True)
class _First:
    """The first call whose result differs, the one before it, and whether it does so by itself.

    Otherwise its input differs already, or no call's result differs at all.
    """

    before: str
    label: str = END
    found: bool = False
    by_itself: bool = False

    @property
    def between(self) -> str:
        return f"between {self.before} and {self.label}"


def _first(
    labels: Iterable[str], same: Callable[[str], bool], same_input: Callable[[str], bool]
) -> _First:
    before = "the input"
    for label in labels:
        if not same(label):
            return _First(before, label, True, same_input(label))
        before = label
    return _First(before)


def loses_axis(seen: Pass, x: Nest, start: int, stop: int) -> Place:
    """The first call, or code between two, that gives some rows another shape than among all."""
    rows, among = stop - start, rows_of(x)
    some = take_rows(x, slice(start, stop))

    def wanted(wholes: list[Array]) -> list[tuple[int, ...]]:
        return [_shape_of(rows, whole, among) for whole in wholes]

    def keep(parts: list[Array] | None, wholes: list[Array]) -> bool:
        return parts is not None and [part.shape for part in parts] == wanted(wholes)

    def put_back(wholes: list[Array], parts: list[Array]) -> list[Array]:
        return [part.reshape(s) for part, s in zip(parts, wanted(wholes), strict=True)]

    whole_given, base = given_and_returned(seen, x)
    given, found = given_and_returned(seen, some)
    expected = outputs_with(seen, x) or []
    first = _first(
        base,
        lambda label: label in found and keep(found[label], base[label]),
        lambda label: label not in found or keep(given[label], whole_given[label]),
    )
    if first.by_itself:
        parts, wholes = found.get(first.label), base[first.label]
        if parts is None:
            return Place(first.label, False)  # it raises
        whole = [part.size for part in parts] == [math.prod(shape) for shape in wanted(wholes)]
        patched = put_back(wholes, parts) if whole else _widened(parts, wanted(wholes))
        if patched is None:
            return Place(first.label, False)
        mended = keep(outputs_with(seen, some, {first.label: patched}), expected)
        return Place(first.label, mended, width=not whole)

    operations, _ = _operations(seen, x, some)
    # Only what may lose an axis has no known number of them.
    losing = [o for o in operations if not o.ranked and all(operations[i].ranked for i in o.given)]
    described = _mending(seen, x, some, losing, put_back, lambda outputs: keep(outputs, expected))
    return Place(first.between, bool(described), described, between=True)


def _widened(parts: list[Array], shapes: list[tuple[int, ...]]) -> list[Array] | None:
    """Arrays padded to wider shapes; None where a shape has other axes, or is narrower."""
    made = []
    for part, shape in zip(parts, shapes, strict=True):
        if part.ndim != len(shape) or any(a > b for a, b in zip(part.shape, shape, strict=True)):
            return None
        more = [(0, b - a) for a, b in zip(part.shape, shape, strict=True)]
        made.append(np.pad(part, more) if part.dtype.kind != "O" else _padded(part, shape))
    return made


def _padded(texts: Array, shape: tuple[int, ...]) -> Array:
    padded: Array = np.full(shape, b"", object)
    padded[tuple(slice(size) for size in texts.shape)] = texts
    return padded


def depends_on_size(seen: Pass, x: Nest, start: int, stop: int, bound: float) -> Place | None:
    """The first call, or code between two, that gives some rows other values than among all."""
    among = rows_of(x)
    some = take_rows(x, slice(start, stop))

    def own(values: list[Array]) -> list[Array]:
        return [v[start:stop] if v.ndim and len(v) == among else v for v in values]

    def unlike(parts: list[Array], mine: list[Array]) -> bool:
        return len(parts) == len(mine) and any(map(differ, mine, parts))

    expected = own(outputs_with(seen, x) or [])

    def mends(outputs: list[Array] | None) -> bool:
        return outputs is not None and _within(outputs, expected, bound)

    whole_given, base = given_and_returned(seen, x)
    given, found = given_and_returned(seen, some)

    # A call that is not seen in a run hands its inputs on there.
    def among_all(label: str) -> list[Array]:
        return own(base[label]) if label in base else given[label]

    def in_its_size(label: str) -> list[Array]:
        return found[label] if label in found else own(whole_given[label])

    first = _first(
        in_order(list(base), list(found)),
        lambda label: not unlike(in_its_size(label), among_all(label)),
        lambda label: not unlike(given.get(label, []), own(whole_given.get(label, []))),
    )
    if first.by_itself:
        patched = {first.label: among_all(first.label)}
        return Place(first.label, mends(outputs_with(seen, some, patched)))
    operations, differing = _operations(seen, x, some)
    reading = [operations[i] for i in sorted(differing)]
    reading = [o for o in reading if differing.isdisjoint(o.given)]

    as_among_all = functools.partial(_as_among_all, stop - start, among)
    described = _mending(seen, x, some, reading, as_among_all, mends)
    located = described or first.found or unlike(outputs_with(seen, some) or [], expected)
    if not located:
        return None
    return Place(first.between, bool(described), described, between=True)


def _as_among_all(rows: int, among: int, wholes: list[Array], parts: list[Array]) -> list[Array]:
    """What numbers of rows are among all rows.

    Raises:
        ValueError: they are no numbers of rows.
    """
    for whole, part in zip(wholes, parts, strict=True):
        if ((whole != part) & (whole * rows != part * among)).any():
            raise ValueError("this is no number of rows")
    return wholes


def _within(outputs: list[Array], expected: list[Array], bound: float) -> bool:
    return all(
        a.shape == b.shape and distance(a, b).max(initial=0.0) <= bound
        for a, b in zip(outputs, expected, strict=True)
    )


def _operations(seen: Pass, x: Nest, some: Nest) -> tuple[list[Result], set[int]]:
    """What operations give, and the indices of what has no rows and is another for some rows."""
    operations = Operations(rows_of(x))
    try:
        watched = seen.again(x, operations)
        pairs = zip(*(watched.run(batch).records[-1] or () for batch in (x, some)), strict=True)
        differing = {
            i for i, (a, b) in enumerate(pairs) if a.shape == b.shape == (1, 8) and (a != b).any()
        }
    except Exception:
        return [], set()  # what can't be run can't be undone
    return operations.results, differing


def _mending(
    seen: Pass,
    x: Nest,
    some: Nest,
    candidates: list[Result],
    undone: Callable[[list[Array], list[Array]], list[Array]],
    mends: Callable[[list[Array] | None], bool],
) -> str:
    """The first of some operations that mends the outputs of some rows if it is undone, or "".

    `undone` makes what it gives instead, out of what it gives among all rows and for some, and
    raises ValueError where it can't.
    """
    described = {result.operation: result.description for result in candidates[:TRIED]}
    if not described or not Tries().may("the operations in between, undone one by one"):
        return ""
    try:
        wholes, parts = results_in(seen, [x, some], described)
    except Exception:
        return ""  # what can't be run can't be undone
    patched: dict[str, Patch] = {}
    for name in described:
        with contextlib.suppress(ValueError):
            patched[name] = Patch(undone(wholes[name], parts[name]))
    each = outputs_with_each(seen, some, patched)
    return next(
        (described[name] for name, outputs in zip(patched, each, strict=False) if mends(outputs)),
        "",
    )


def depends_on_place(seen: Pass, x: Nest, variant: BatchVariant) -> Place | None:
    """The first call, or two of them, between which rows begin to depend on their places."""

    def differing(mine: list[Array], its: list[Array]) -> bool:
        pairs = list(zip(mine, its, strict=False))
        return any(
            differ(a[variant.kept], b[variant.now])
            for a, b in pairs
            if a.ndim and len(a) == len(b) == variant.rows
        )

    given, base = given_and_returned(seen, x)
    other_given, other = given_and_returned(seen, variant.x)
    first = _first(
        base,
        lambda label: not differing(base[label], other.get(label, [])),
        lambda label: not differing(given[label], other_given.get(label, [])),
    )
    if not first.found:
        return None
    back = np.argsort(variant.now)
    moved = [m[back] if m.ndim and len(m) == variant.rows else m for m in base[first.label]]
    mended = outputs_with(seen, variant.x, {first.label: moved})
    tested = mended is not None and not differing(outputs_with(seen, x) or [], mended)
    place = first.label if first.by_itself else first.between
    return Place(place, tested, between=not first.by_itself)


def in_order(labels: list[str], others: list[str]) -> list[str]:
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
