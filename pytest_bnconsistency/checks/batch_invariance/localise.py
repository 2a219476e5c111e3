"""Where rows begin to depend on one another, and what makes them stop."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.batch_invariance.kept_rows import (
    any_hashes_differ,
    compare_kept_rows,
    hashes_differ,
    reordered,
)
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.data.arrays import Array, Nest, distance, rows_of
from pytest_bnconsistency.execution.activation_patching import Patch
from pytest_bnconsistency.execution.batch_variants import (
    BatchVariant,
    joint_batch_variants,
    with_kept_changed,
)
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument
from pytest_bnconsistency.execution.layer_values import results_of
from pytest_bnconsistency.execution.row_hashes import (
    Fingerprints,
    Operations,
    Result,
    Values,
    WithInputs,
    of_elements,
)
from pytest_bnconsistency.execution.state import same_bits
from pytest_bnconsistency.models import Call

ROUNDS = 4
"""How often operations are held before it is looked for more of them further on."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far a row moves in what a call gives, and how large that is there at most."""

    label: str
    change: float
    size: float


@dataclass(frozen=True)
class Origin:
    """The first place, in execution order, whose output differs for a kept row.

    `call` is None where only the model's outputs differ. `replayed` says that the layer's own
    input is the same to the bit, so that the layer itself mixes the rows; otherwise the rows
    mix between `before` and this place, in code that is no layer.
    """

    call: Call | None
    before: str
    replayed: bool
    calls: tuple[Call, ...]

    @property
    def label(self) -> str:
        if self.call is None:
            return f"between {self.before} and the model's output"
        if self.replayed:
            return self.call.label
        return f"between {self.before} and {self.call.label}"

    @property
    def where(self) -> str:
        return f"in {self.label}" if self.replayed else self.label


def with_inputs(seen: Pass, x: Nest, row: int = 0) -> Pass:
    """The same pass with what each layer is given recorded as well, and the values of a row."""
    return seen.again(x, WithInputs(rows_of(x), row))


def first_origin(watched: Pass, x: Nest, variant: BatchVariant, among: set[int]) -> Origin:
    """Where, in a pass `with_inputs`, a kept row changes first.

    `among` are the indices of the calls that count.
    """
    base, other = watched.run(x), watched.run(variant.x)
    calls = tuple(watched.calls)
    for index, (mine, its) in enumerate(zip(base.records, other.records, strict=True)):
        if mine is None or its is None or index not in among:
            continue
        given = 2 + int(mine[0][0])
        if not any_hashes_differ(mine[given:], its[given:], variant):
            continue
        replayed = not any_hashes_differ(mine[2:given], its[2:given], variant)
        call = calls[index]
        outside = [c for c in calls[:index] if not c.path.startswith(call.path + "/")]
        before = outside[-1].label if outside else "the input"
        return Origin(call, before, replayed, calls)
    return Origin(None, calls[-1].label if calls else "the input", False, calls)


def moved_along(watched: Pass, x: Nest, variant: BatchVariant, among: set[int]) -> list[Moved]:
    """How far the row whose values a pass `with_inputs` records moves in each of these calls."""
    base, other = watched.run(x), watched.run(variant.x)
    records = enumerate(zip(watched.calls, base.records, other.records, strict=True))
    return [
        _moved(call, mine[1], its[1])
        for index, (call, mine, its) in records
        if mine is not None and its is not None and index in among
    ]


def _moved(call: Call, mine: Array, its: Array) -> Moved:
    """How far values of a row moved; infinitely where there are others, or none at all."""
    if mine.shape != its.shape:
        return Moved(label=call.label, change=float("inf"), size=float("nan"))
    change = float(distance(mine, its).max(initial=0.0))
    return Moved(label=call.label, change=change, size=float(np.abs(mine).max(initial=0.0)))


def first_known(seen: Pass, places: Sequence[int]) -> Origin:
    """The first of the calls at `places`, whose rows change; nothing was run to look closer."""
    calls = tuple(seen.calls)
    if not places:
        return Origin(None, calls[-1].label if calls else "the input", False, calls)
    return Origin(calls[min(places)], "", True, calls)


def intervened(
    seen: Pass,
    x: Nest,
    *,
    modes: Mapping[int, bool] | None = None,
    row_by_row: Collection[int] = (),
    patched: Mapping[str, list[Array]] | None = None,
    operations: Mapping[str, Patch] | None = None,
) -> Pass | None:
    """The pass with an intervention, None where the code does not take it.

    `modes` are other modes for layers, by identity; layers `row_by_row` get one row at a time;
    calls that are `patched` return what is given for them, and so do single `operations`, by name.
    """
    try:
        forced = seen.again(
            x,
            Fingerprints(),
            modes=modes,
            row_by_row=row_by_row,
            patched=patched,
            operations=operations,
        )
        if not forced.is_traced:
            forced.run(x)
    except Exception:
        return None
    return forced


def independent(forced: Pass | None, x: Nest, variant: BatchVariant) -> bool:
    """Whether kept rows are the same in every layer and output of a pass that is `intervened`."""
    if forced is None:
        return False
    try:
        base, other = forced.run(x), forced.run(variant.x)
    except Exception:
        return False  # an intervention that the code does not take proves nothing
    return compare_kept_rows(base, other, variant, forced.reaching_outputs()) is None


def independent_with(
    seen: Pass, x: Nest, variant: BatchVariant, *, modes: Mapping[int, bool]
) -> bool:
    """Whether kept rows are the same with other modes for layers, by identity."""
    return independent(intervened(seen, x, modes=modes), x, variant)


def cross_row_layers(
    seen: Pass, x: Nest, variant: BatchVariant, first: Call, among: set[int]
) -> list[Call]:
    """The layers that have to get one row at a time for kept rows to stay.

    Those of the class of the `first` are tried at once: a net has the same layer many times. It is
    empty if they don't stay so. `among` are the indices of the calls that count.
    """
    alike = {id(call.layer): call for call in seen.calls if type(call.layer) is type(first.layer)}
    found = list(alike.values())
    for _ in range(ROUNDS):
        forced = intervened(seen, x, row_by_row=[id(call.layer) for call in found])
        if forced is None:
            return []
        if independent(forced, x, variant):
            return found
        further = first_origin(with_inputs(forced, x), x, variant, among)
        if further.call is None or not further.replayed:
            return []
        if any(call.layer is further.call.layer for call in found):
            return []
        found.append(further.call)
    return []


def runs_row_by_row(forced: Pass | None, x: Nest) -> bool:
    """Whether layers can be given one row at a time as in `forced`, also outside of a trace."""
    if forced is None:
        return False
    try:
        for run in (forced, forced.again(x, Instrument(), traced=False)):
            run.run(x)
    except Exception:
        return False
    return True


def reduced(seen: Pass, x: Nest, variant: BatchVariant) -> dict[str, list[Array]]:
    """What calls gave whose result has no axis for the batch and changes with the other rows."""
    watched = seen.again(x, Values())
    base, other = watched.run(x), watched.run(variant.x)
    return {
        call.label: mine
        for call, mine, its in zip(watched.calls, base.records, other.records, strict=True)
        if mine and its and not all(map(same_bits, mine, its))
    }


def row_routing(context: CheckContext, seen: Pass) -> bool:
    """Whether other numbers of rows, or rows in another order, meet somewhere in a pass when other
    rows of the sample do.
    """
    x = context.sample()

    def routing() -> bool:
        others = joint_batch_variants(x, context.settings.seed)
        return dynamic_routing(context, seen, x, others)

    return seen.once("row routing", routing)


def dynamic_routing(
    context: CheckContext, seen: Pass, x: Nest, others: Iterable[BatchVariant]
) -> bool:
    """Whether some operation gives other numbers of entries for other rows in the same places, or
    the kept rows in another order.

    So does one that picks the rows that an expert takes, or sorts rows by their length.
    """
    _, watched = _operations_of(seen, context.sample())
    if not watched.is_traced:
        return False
    base = watched.run(x).records[-1] or []
    for variant in others:
        with contextlib.suppress(Exception):  # it refuses these rows
            other = watched.run(variant.x).records[-1] or []
            if [hashes.shape for hashes in base] != [hashes.shape for hashes in other]:
                return True
            if any(reordered(mine, its, variant) for mine, its in zip(base, other, strict=True)):
                return True
    return False


def meeting_operations(
    seen: Pass, x: Nest, variant: BatchVariant, patched: Mapping[str, Patch] | None = None
) -> dict[str, str]:
    """The TensorFlow operations in which rows meet, by name: their types, names and axes.

    They give a kept row, or give as a whole, what changes with the other rows, while all that
    they are given is the same; and by way of what changes it reaches a kept row.
    """
    operations, watched = _operations_of(seen, x, patched)
    if not watched.is_traced:
        return {}
    batches = x, x, variant.x, with_kept_changed(x, variant.kept)
    base, again, other, own = (watched.run(rows).records[-1] or [] for rows in batches)
    changed = [
        _result_differs(a, c, d, variant) if np.array_equal(a, b) else None
        for a, b, c, d in zip(base, again, other, own, strict=True)
    ]
    of_rows = {i for i, hashes in enumerate(base) if changed[i] and len(hashes) > 1}
    return _meeting(operations.results, _reaching(operations.results, of_rows, changed), changed)


def _meeting(
    results: Sequence[Result], reaching: set[int], changed: Sequence[bool | None]
) -> dict[str, str]:
    """Of the results at these indices, those that change while what they are given does not."""
    return {
        result.operation: result.description
        for result in (results[i] for i in sorted(reaching) if changed[i])
        if not result.turned and all(changed[i] is False for i in result.given)
    }


def _reaching(
    results: Sequence[Result], reaching: set[int], changed: Sequence[bool | None]
) -> set[int]:
    """The indices of these results, and of all by way of which a change may reach them."""
    found = set(reaching)
    for index in reversed(range(len(results))):
        if index in found:
            found |= {i for i in results[index].given if changed[i] is not False}
    return found


def _operations_of(
    seen: Pass, x: Nest, patched: Mapping[str, Patch] | None = None
) -> tuple[Operations, Pass]:
    """A pass that hashes what each operation gives, traced once for all who ask."""

    def traced() -> tuple[Operations, Pass]:
        operations = Operations(rows_of(x))
        watched = seen.again(x, operations)
        hashes = watched.run(x).records[-1] if watched.is_traced else None
        if hashes and (unknown := operations.without_rows(hashes)):
            operations = Operations(rows_of(x), unknown)
            watched = seen.again(x, operations)
        return operations, watched

    known = seen.once(("operations", rows_of(x)), traced)
    if not patched:
        return known
    operations = Operations(rows_of(x), known[0].by_element)
    return operations, seen.again(x, operations, operations=patched)


def tested_operations(
    seen: Pass, x: Nest, variant: BatchVariant, found: Mapping[str, str]
) -> list[str]:
    """Operations in which rows meet, as a reader knows them, if they are all of them; else none.

    Those `found` are held at what they gave the kept rows of the first batch; if rows still meet,
    those in which they do so further on as well, and so on.
    """
    descriptions = dict[str, str]()
    try:
        for _ in range(ROUNDS):
            if descriptions.keys() >= found.keys():
                break
            descriptions |= found
            patched = {
                name: Patch(values, variant.kept, variant.rows)
                for name, values in results_of(seen, x, descriptions).items()
            }
            if independent(intervened(seen, x, operations=patched), x, variant):
                return list(descriptions.values())
            found = meeting_operations(seen, x, variant, patched)
    except Exception:
        pass  # an intervention that the code does not take proves nothing
    return []


def _result_differs(mine: Array, its: Array, own: Array, variant: BatchVariant) -> bool | None:
    """Whether hashes of a result differ, for a kept row or, of a single entry, as a whole.

    Where nobody knows which elements are of which row, whether one changes with the other rows
    that also changes in `own`, with the kept ones alone.
    """
    if not len(mine) == len(its) == len(own) == 1:
        return hashes_differ(mine, its, variant)
    if not mine.shape == its.shape == own.shape:
        return None
    if mine.shape == (1, 8):
        return bool((mine != its).any())
    a, b, c = map(of_elements, (mine, its, own))
    return bool(((a != b).any(axis=1) & (a != c).any(axis=1)).any())
