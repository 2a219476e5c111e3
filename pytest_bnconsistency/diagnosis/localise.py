"""Where rows begin to depend on one another, and what makes them stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data import Array, Nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints, by_row
from pytest_bnconsistency.probes.taps import Observation, Pass
from pytest_bnconsistency.subjects import Call


@dataclass(frozen=True)
class Exchange:
    """A second batch of `rows` rows: row `kept[k]` of the first is row `now[k]` of this one."""

    name: str
    x: Nest
    kept: Array
    now: Array
    rows: int


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


def differing_calls(base: Observation, other: Observation, exchange: Exchange) -> list[int]:
    """The indices of the calls of which some output differs for a kept row."""
    return [
        index
        for index, (mine, its) in enumerate(zip(base.records, other.records, strict=True))
        if mine is not None and its is not None and _any_differs(mine, its, exchange)
    ]


def first_origin(seen: Pass, x: Nest, exchange: Exchange, among: set[int]) -> Origin:
    """Run both batches as `seen` did, with what each layer is given recorded as well.

    `among` are the indices of the calls that count.
    """
    watched = Pass(
        seen.subject,
        x,
        training=seen.training,
        instrument=Fingerprints(inputs=True),
        still=seen.still,
    )
    base, other = watched.run(x), watched.run(exchange.x)
    calls = tuple(watched.calls)
    for index, (mine, its) in enumerate(zip(base.records, other.records, strict=True)):
        if mine is None or its is None or index not in among:
            continue
        given = int(mine[0][0])
        if not _any_differs(mine[1 + given :], its[1 + given :], exchange):
            continue
        replayed = not _any_differs(mine[1 : 1 + given], its[1 : 1 + given], exchange)
        call = calls[index]
        outside = [c for c in calls[:index] if not c.path.startswith(call.path + "/")]
        before = outside[-1].label if outside else "the input"
        return Origin(call, before, replayed, calls)
    return Origin(None, calls[-1].label if calls else "the input", False, calls)


def independent_with(seen: Pass, x: Nest, exchange: Exchange, modes: dict[int, bool]) -> bool:
    """Whether the kept rows are the same in every layer and output under other modes."""
    forced = Pass(
        seen.subject,
        x,
        training=seen.training,
        instrument=Fingerprints(),
        modes=modes,
        still=seen.still,
    )
    base, other = forced.run(x), forced.run(exchange.x)
    return not differing_calls(base, other, exchange) and not outputs_differ(
        base.outputs, other.outputs, exchange
    )


def outputs_differ(mine: list[Array], its: list[Array], exchange: Exchange) -> bool:
    return any(
        row_bits_differ(a, b, exchange).any()
        for a, b in zip(mine, its, strict=True)
        if a.ndim and len(a) == len(b) == exchange.rows
    )


def row_bits_differ(mine: Array, its: Array, exchange: Exchange) -> Array:
    a = np.ascontiguousarray(mine[exchange.kept]).reshape(len(exchange.kept), -1)
    b = np.ascontiguousarray(its[exchange.now]).reshape(len(exchange.kept), -1)
    different: Array = (a.view(np.uint8) != b.view(np.uint8)).any(axis=1)
    return different


def _any_differs(mine: list[Array], its: list[Array], exchange: Exchange) -> bool:
    for a, b in zip(mine, its, strict=True):
        rows, other = by_row(a, exchange.rows), by_row(b, exchange.rows)
        if rows is None or other is None or rows.shape != other.shape:
            continue
        if (rows[exchange.kept] != other[exchange.now]).any():
            return True
    return False
