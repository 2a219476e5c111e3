"""Where rows begin to depend on one another, and what makes them stop."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.data import Array, Nest
from pytest_bnconsistency.probes.exchanges import Exchange
from pytest_bnconsistency.probes.fingerprints import Fingerprints, Operations, Values, by_row
from pytest_bnconsistency.probes.state import same_bits
from pytest_bnconsistency.probes.taps import Observation, Pass
from pytest_bnconsistency.subjects import Call


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


def with_inputs(seen: Pass, x: Nest) -> Pass:
    """The same pass with what each layer is given recorded as well."""
    return seen.again(x, Fingerprints(inputs=True))


def first_origin(watched: Pass, x: Nest, exchange: Exchange, among: set[int]) -> Origin:
    """Where, in a pass `with_inputs`, a kept row changes first.

    `among` are the indices of the calls that count.
    """
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


def independent_with(
    seen: Pass,
    x: Nest,
    exchange: Exchange,
    *,
    modes: Mapping[int, bool] | None = None,
    apart: Collection[int] = (),
    held: Mapping[str, list[Array]] | None = None,
) -> bool:
    """Whether kept rows are the same in every layer and output with this intervention.

    `modes` are other modes for layers, by identity; layers `apart` get one row at a time; calls
    that are `held` return what is given for them.
    """
    try:
        forced = seen.again(x, Fingerprints(), modes=modes, apart=apart, held=held)
        base, other = forced.run(x), forced.run(exchange.x)
    except Exception:
        # An intervention that the code does not take proves nothing.
        return False
    return not differing_calls(base, other, exchange) and not outputs_differ(
        base.outputs, other.outputs, exchange
    )


def reduced(seen: Pass, x: Nest, exchange: Exchange) -> dict[str, list[Array]]:
    """Calls whose result has no batch axis and changes with the companions: what they gave."""
    watched = seen.again(x, Values())
    base, other = watched.run(x), watched.run(exchange.x)
    return {
        call.label: mine
        for call, mine, its in zip(watched.calls, base.records, other.records, strict=True)
        if mine and its and not all(map(same_bits, mine, its))
    }


def first_operation(seen: Pass, x: Nest, exchange: Exchange) -> str:
    """The TensorFlow operation in which the rows meet, or "" where it can't be told.

    It is the first one, in the order of execution, of which a kept row or a result without a
    batch axis changes with the companions; one that only turns the axes, where none follows.
    """
    operations = Operations()
    watched = seen.again(x, operations)
    base, other = watched.run(x), watched.run(exchange.x)
    differing = [
        name
        for names, mine, its in zip(operations.labels, base.records, other.records, strict=False)
        if mine is not None and its is not None
        for name, a, b in zip(names, mine, its, strict=True)
        if (
            _any_differs([a], [b], exchange)
            if len(a) > 1
            # How many elements an operation picks may depend on the batch: nothing to compare.
            else a.shape == b.shape and (a != b).any()
        )
    ]
    turning = [name for name in differing if not name.startswith("Transpose")]
    return next(iter(turning or differing), "")


def outputs_differ(mine: list[Array], its: list[Array], exchange: Exchange) -> bool:
    return any(
        row_bits_differ(a, b, exchange).any()
        for a, b in zip(mine, its, strict=True)
        if a.ndim and len(a) == len(b) == exchange.rows
    )


def row_bits_differ(mine: Array, its: Array, exchange: Exchange) -> Array:
    a = np.ascontiguousarray(mine[exchange.kept]).reshape(len(exchange.kept), -1)
    b = np.ascontiguousarray(its[exchange.now]).reshape(len(exchange.kept), -1)
    if a.dtype == object:  # texts
        return np.asarray((a != b).any(axis=1), bool)
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
