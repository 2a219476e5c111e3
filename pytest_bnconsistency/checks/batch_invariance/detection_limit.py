"""What a pass could have seen: the smallest leak between rows that the exact oracle flags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from pytest_bnconsistency.checks.batch_invariance.hidden_changes import laid_out
from pytest_bnconsistency.checks.batch_invariance.kept_rows import (
    beyond_noise,
    compare_kept_rows,
    largest_move,
)
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import rows_between, traced_entry
from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    flatten,
    is_float,
    rows_of,
    take_rows,
)
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.batch_variants import BatchVariant, batch_variants
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.observations import same_rows
from pytest_bnconsistency.measurement.injected_faults import InjectedFault, inject_into
from pytest_bnconsistency.measurement.rounding_noise import Noise

FIRST = 4
"""Rows into which is leaked, one after the other, until one of them shows it."""
PLACES = 3
"""Calls into which is leaked where nothing shows at the usual place."""
TRIED_SHARES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""The shares of the batch's mean that are tried."""


def detection_limit(
    context: CheckContext, x: Nest, row_by_row: Collection[int], noise: Noise | None = None
) -> Mapping[str, float | None]:
    """The smallest leak that is flagged at the input and inside, bit by bit or beyond `noise`.

    A row stands beside another row, and then beside another one, with a share of their mean in
    it. It is the first row, unless nothing of that row reaches the outputs.
    """
    seen: Mapping[str, float | None] = {}
    for first in range(min(FIRST, rows_of(x))):
        seen = _InjectedFaults(context, x, row_by_row, first, noise).seen()
        if any(share is not None for share in seen.values()):
            break
    return seen


class _InjectedFaults:
    """A row beside another one and beside a third, with a share of their mean in it."""

    def __init__(
        self,
        context: CheckContext,
        x: Nest,
        row_by_row: Collection[int],
        first: int,
        noise: Noise | None,
    ) -> None:
        entry_point = traced_entry(context, False, row_by_row)
        assert entry_point.observed is not None
        self.traced = entry_point.observed
        self.noise, self.known = noise, laid_out(self.traced)
        batch, self.rows = _unlike_rows(x, first, all_rows=context.fixed_rows is not None)
        kept, rows = np.zeros(1, int), rows_of(self.rows)
        twins = take_rows(self.rows, [0] * rows)
        alike = BatchVariant("twins", twins, kept, kept, rows)
        changing = [e for e in batch_variants(self.rows, context.settings.seed) if 0 in e.kept]
        self.variant = next((e for e in changing if _tells(self.traced, e, self.rows)), alike)
        self.base = entry_point.run(batch, self.rows)

    def seen(self) -> Mapping[str, float | None]:
        """The smallest share that shows, by place; at other places where it shows at none."""
        seen = {**self._at_the_input(), **self._inside()}
        if not any(seen.values()):
            seen |= self._elsewhere()
        return seen or self._whole_row()

    def _smallest(
        self, base: Observation, run: Callable[[float], Observation], place: int | None = None
    ) -> float | None:
        """The smallest share that shows in a run: with noise, in the outputs beyond it.

        None, too, where the call at `place` gives both other rows the same: nothing to leak.
        """
        for share in TRIED_SHARES:
            other = run(share)
            if place is not None and not _varies(base.records[place], other.records[place]):
                return None
            if self._shows(base, other):
                return share
        return None

    def _shows(self, base: Observation, other: Observation) -> bool:
        """Whether a run differs in more than the calls `known` to do so without a leak."""
        if self.noise is not None:
            return bool(beyond_noise(base, other, self.variant, self.noise))
        found = compare_kept_rows(base, other, self.variant)
        return found is not None and bool(found.moved or set(found.places) - self.known)

    def _at_the_input(self) -> dict[str, float | None]:
        if not any(is_float(leaf) for leaf in flatten(self.rows)):
            return {}

        def injected(share: float) -> Observation:
            return self.traced.run(inject_into(self.variant.x, share))

        return {"the input": self._smallest(self.base, injected)}

    def _inside(self) -> dict[str, float | None]:
        fault = self.traced.instrument
        if not isinstance(fault, InjectedFault) or fault.index is None:
            return {}
        run = _with_fault(self.traced, fault, self.variant.x)
        inside = self.traced.calls[fault.index].label
        return {inside: self._smallest(self.base, run, fault.index)}

    def _elsewhere(self) -> dict[str, float | None]:
        seen = dict[str, float | None]()
        for place in _distinguishing_calls(self.base):
            fault = InjectedFault(place)
            faulty = self.traced.again(self.rows, fault, traced=False)
            untouched = faulty.run(self.rows)
            if fault.index is None:
                break
            inside = self.traced.calls[fault.index].label
            run = _with_fault(faulty, fault, self.variant.x)
            seen[inside] = self._smallest(untouched, run, fault.index)
            if seen[inside] is not None:
                break
        return seen

    def _whole_row(self) -> dict[str, float | None]:
        """Ids and no layers: there is nothing to leak a share into."""
        other = self.traced.run(take_rows(self.rows, slice(None, None, -1)))
        kept = np.zeros(1, int)
        whole = BatchVariant("another row", self.rows, kept, kept, rows_of(self.rows))
        differs, _ = largest_move(self.base.outputs, other.outputs, whole)
        return {"the input, a whole row of it": 1.0 if differs else None}


def _distinguishing_calls(base: Observation) -> list[int]:
    """Calls, a few from the middle on and the first, that give two rows different values.

    What is the same for all rows, such as a mask without padding, has nothing to leak.
    """
    records = enumerate(base.records)
    distinct = [i for i, found in records if any((a[:1] != a[1:]).any() for a in found or ())]
    middle = len(distinct) // 2
    return list(dict.fromkeys([*distinct[middle : middle + PLACES], *distinct[:1]]))


def _tells(traced: Pass, variant: BatchVariant, rows: Nest) -> bool:
    """Whether the batch variant is another batch than `rows`, and the model takes it."""
    if same_rows(variant.x, rows):
        return False
    try:
        traced.run(variant.x)
    except DataError:
        return False
    return True


def _with_fault(traced: Pass, fault: InjectedFault, x: Nest) -> Callable[[float], Observation]:
    def run(share: float) -> Observation:
        fault.share.assign(share)
        try:
            return traced.run(x)
        finally:
            fault.share.assign(0.0)

    return run


def _varies(mine: list[Array] | None, its: list[Array] | None) -> bool:
    """Whether records differ in another entry than the first, into which is leaked."""
    pairs = zip(mine or [], its or [], strict=True)
    return any(a.shape != b.shape or bool((a[1:] != b[1:]).any()) for a, b in pairs)


def _unlike_rows(x: Nest, first: int, *, all_rows: bool) -> tuple[str, Nest]:
    """A row and the first of the others that is not the same, as a batch with its name; the rest
    behind them, where it is to be `all_rows`.
    """
    rows = [rows_between(x, row, row + 1)[1] for row in range(rows_of(x))]
    others = [row for row in range(len(rows)) if row != first]
    other = next((row for row in others if not same_rows(rows[row], rows[first])), others[0])
    places = [first, other, *(row for row in others if row != other and all_rows)]
    if places == list(range(len(places))):
        return rows_between(x, 0, len(places))
    return f"rows {first} and {other}", take_rows(x, places)
