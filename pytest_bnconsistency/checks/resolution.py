"""What a pass could have seen: the smallest leak between rows that the exact oracle flags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.hidden import laid_out
from pytest_bnconsistency.checks.passes import observed
from pytest_bnconsistency.data import Nest, flatten, is_float, map_nest, rows_of
from pytest_bnconsistency.diagnosis import localise
from pytest_bnconsistency.probes.exchanges import Exchange, exchanges
from pytest_bnconsistency.probes.noise import Leak, leak_into
from pytest_bnconsistency.probes.state import same_bits
from pytest_bnconsistency.probes.taps import Observation, Pass

LEAKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""The shares of the batch's mean that are tried."""


def resolution(case: Case, x: Nest, apart: Collection[int]) -> Mapping[str, float | None]:
    """The smallest leak that the exact oracle flags, at the input and inside."""
    traced = observed(case, x, False, apart)
    known = laid_out(case, traced)
    rows = _unlike_rows(x)
    kept = np.zeros(1, int)
    alike = Exchange("twins", map_nest(lambda leaf: leaf[[0, 0]], rows), kept, kept, 2)
    changing = [e for e in exchanges(rows, case.settings.seed) if 0 in e.kept]
    exchange = next((e for e in changing if not _same_rows(e.x, rows)), alike)
    seen: dict[str, float | None] = {}
    if any(is_float(leaf) for leaf in flatten(x)):
        batches = rows, exchange.x
        seen["the input"] = _smallest(
            exchange, lambda share, changed: traced.run(leak_into(batches[changed], share)), known
        )
    seen.update(_inside(traced, rows, exchange, known))
    if not seen:  # ids and no layers: there is nothing to leak a share into
        base, other = traced.run(rows), traced.run(map_nest(lambda leaf: leaf[::-1], rows))
        whole = Exchange("another row", rows, kept, kept, 2)
        differs = localise.outputs_differ(base.outputs, other.outputs, whole)
        seen["the input, a whole row of it"] = 1.0 if differs else None
    return seen


def _unlike_rows(x: Nest) -> Nest:
    """The first row, and the first of the others that is not the same."""

    def taken(*places: int) -> Nest:
        return map_nest(lambda leaf: leaf[list(places)], x)

    pairs = (taken(0, row) for row in range(1, rows_of(x)))
    return next((pair for pair in pairs if not _same_rows(pair, taken(0, 0))), taken(0, 1))


def _same_rows(x: Nest, other: Nest) -> bool:
    return all(map(same_bits, flatten(x), flatten(other)))


def _inside(
    traced: Pass, rows: Nest, exchange: Exchange, apart: Collection[int]
) -> dict[str, float | None]:
    """The same in a call that gives numbers: the one in the middle, if there is one."""
    leaking, leak = traced, traced.instrument
    if not isinstance(leak, Leak) or leak.index is None:
        # Fewer calls than the model has layers: the first one will do.
        leak = Leak(0)
        leaking = traced.again(rows, leak, traced=False)
        leaking.run(rows)
    if leak.index is None:
        return {}

    def run(share: float, changed: bool) -> Observation:
        leak.share.assign(share)
        try:
            return leaking.run(exchange.x if changed else rows)
        finally:
            leak.share.assign(0.0)

    return {traced.calls[leak.index].label: _smallest(exchange, run, apart)}


def _smallest(
    exchange: Exchange, run: Callable[[float, bool], Observation], apart: Collection[int]
) -> float | None:
    """The smallest share that shows; `run` leaks one into the rows, or into those exchanged.

    The calls `apart` differ without a leak.
    """
    for share in LEAKS:
        base, other = run(share, False), run(share, True)
        differing = set(localise.differing_calls(base, other, exchange)).difference(apart)
        if differing or localise.outputs_differ(base.outputs, other.outputs, exchange):
            return share
    return None
