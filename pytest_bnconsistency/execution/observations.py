"""What two runs have in common, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, rows_of
from pytest_bnconsistency.execution.forward_pass import Observation
from pytest_bnconsistency.execution.state import same_bits


def same_records(mine: Observation, its: Observation) -> bool:
    """Whether no state moved, and all outputs and all records of layers have the same bits."""
    return (
        not (mine.moved or its.moved)
        and same_outputs(mine.outputs, its.outputs)
        and same_in_layers(mine.records, its.records)
    )


def same_in_layers(mine: Sequence[list[Array] | None], its: Sequence[list[Array] | None]) -> bool:
    """Whether the records of two runs have the same bits in each layer."""
    return len(mine) == len(its) and all(
        a is b if a is None or b is None else same_outputs(a, b)
        for a, b in zip(mine, its, strict=True)
    )


def same_rows(x: Nest, other: Nest) -> bool:
    return same_outputs(flatten(x), flatten(other))


def same_outputs(mine: list[Array], its: list[Array]) -> bool:
    return len(mine) == len(its) and all(map(same_bits, mine, its))


def repeating(first: Observation, second: Observation) -> frozenset[int]:
    """The calls of which every record has the same bits in two runs of one batch."""
    return frozenset(
        index
        for index, (mine, its) in enumerate(zip(first.records, second.records, strict=True))
        if mine is not None and its is not None and same_outputs(mine, its)
    )


def has_rows(outputs: list[Array], x: Nest) -> bool:
    """Whether each output has its rows first, as many as `x` has."""
    return all(output.ndim and len(output) == rows_of(x) for output in outputs)
