"""What a model reads its inputs as: numbers, or places in a table, as a trace tells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, Spec, flatten, map_nest, rebuild
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.models import Subject

CARRYING = (
    *("Cast", "Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "Transpose", "Tile"),
    *("Slice", "StridedSlice", "Split", "SplitV", "Pack", "Unpack", "ConcatV2", "BroadcastTo"),
    *("SelectV2", "Select", "Floor", "Round", "Rint", "Maximum", "Minimum", "StopGradient"),
)
BOUNDING = ("Minimum", "Maximum", "Cast", "Identity")
"""Operations whose results are numbers that they are given; and those that bound a number."""
FEW_INPUTS, IDS_AXES = 3, 2
"""Dtypes are tried for so many inputs; numbers with more inner axes are no ids."""


@dataclass
class Reading:
    """How many places a table has that an input is read by, and its keys where it has such."""

    places: int | None = None
    keys: tuple[int, ...] = ()

    def narrowed(self, places: int) -> None:
        if places > 0:
            self.places = places if self.places is None else min(self.places, places)


def as_read(subject: Subject, specs: Nest, *, dtypes_known: bool = True) -> Nest:
    """`specs` with the valid ids of each input that is read as such, whatever its dtype.

    Where the dtypes are not known, those are taken with which inference can be traced.
    """
    leaves = flatten(specs)
    if dtypes_known and not any(map(_may_be_ids, leaves)):
        return specs
    for candidate in _candidates(leaves, dtypes_known):
        tried = rebuild(specs, candidate)
        concrete = _traced(subject, tried)
        if concrete is not None:
            readings = _readings(concrete, len(leaves))
            return rebuild(specs, map(_narrowed, candidate, readings))
    return specs


def _may_be_ids(spec: Spec) -> bool:
    whole = spec.dtype.startswith(("int", "uint"))
    return whole or (spec.dtype.startswith("float") and len(spec.shape) <= IDS_AXES)


def _candidates(leaves: list[Spec], dtypes_known: bool) -> Iterator[list[Spec]]:
    yield leaves
    if not dtypes_known and len(leaves) <= FEW_INPUTS:
        for dtypes in itertools.product(("float32", "int32"), repeat=len(leaves)):
            yield [replace(spec, dtype=dtype) for spec, dtype in zip(leaves, dtypes, strict=True)]


def _traced(subject: Subject, specs: Nest) -> Any:
    """A trace of inference for any number of rows; None where there can't be one."""
    signature = map_nest(
        lambda spec: tf.TensorSpec((None, *spec.shape), tf.as_dtype(spec.dtype)), specs
    )
    try:
        with preserve_state(subject):
            function = tf.function(lambda x: subject.forward(x, False), autograph=False)
            return function.get_concrete_function(signature)
    except Exception:  # rows that fit it are the user's to give
        return None


def _narrowed(spec: Spec, reading: Reading) -> Spec:
    if reading.keys:
        return replace(spec, vocabulary=len(reading.keys), values=reading.keys)
    if reading.places is None:
        return spec
    whole = spec.dtype.startswith(("int", "uint"))
    return replace(spec, dtype=spec.dtype if whole else "int32", vocabulary=max(1, reading.places))


def _readings(concrete: Any, count: int) -> list[Reading]:
    readings = [Reading() for _ in range(count)]
    # Variables and tables of the model are inputs of its trace, too: behind those of x.
    carried = {tensor.name: {(index, 0)} for index, tensor in enumerate(concrete.inputs[:count])}
    for operation in concrete.graph.get_operations():
        given = [carried.get(tensor.name, set()) for tensor in operation.inputs]
        if not any(given):
            continue
        if operation.type in READERS:
            place, table = READERS[operation.type]
            _read(readings, given[place], table(operation, concrete))
        passed = _passed_on(operation, given)
        for tensor in operation.outputs if passed else ():
            carried[tensor.name] = passed
    return readings


def _read(
    readings: list[Reading], ids: set[tuple[int, int]], table: int | tuple[int, ...] | None
) -> None:
    """Note down that numbers are read as places in a table of that size, or as its keys."""
    for index, added in ids:
        if isinstance(table, int):
            readings[index].narrowed(table - added)
        elif table is not None:
            readings[index].keys = table


def _passed_on(operation: Any, given: list[set[tuple[int, int]]]) -> set[tuple[int, int]]:
    """The numbers of inputs that are in an operation's results."""
    if operation.type in CARRYING:
        return set().union(*given)
    if operation.type in ("AddV2", "Sub"):
        return _shifted(operation, given)
    if operation.type in ("GatherV2", "GatherNd"):  # a choice of columns
        return given[0]
    return set()


def _shifted(operation: Any, given: list[set[tuple[int, int]]]) -> set[tuple[int, int]]:
    dtype = operation.inputs[1].dtype
    added = tf.get_static_value(operation.inputs[1])
    if added is None or np.ndim(added) or not (dtype.is_integer or dtype.is_floating):
        return set()
    if not np.isfinite(added) or added != int(added):
        return set()
    sign = 1 if operation.type == "AddV2" else -1
    return {(index, before + sign * int(added)) for index, before in given[0]}


def _of_tensor(operation: Any, concrete: Any) -> int | None:
    """The size of the table that is an operation's first input, along its axis."""
    axis = 0
    if operation.type == "GatherV2":
        axis = int(tf.get_static_value(operation.inputs[2]) or 0)
    shape = operation.inputs[0].shape
    return None if shape.rank is None or shape[axis] is None else int(shape[axis])


def _of_number(operation: Any, concrete: Any) -> int | None:
    """The number that is an operation's second input; the bound of it, where it has one."""
    tensors, found = [operation.inputs[1]], list[int]()
    while tensors:
        tensor = tensors.pop()
        value = tf.get_static_value(tensor)
        if value is not None and np.ndim(value) == 0:
            found.append(int(value))
        elif tensor.op.type in BOUNDING:
            tensors += tensor.op.inputs
    return min((number for number in found if number > 0), default=None)


def _outer(operation: Any, concrete: Any) -> Any:
    """The resource outside of the graph that is an operation's first input; None where none is."""
    for outer, inner in concrete.graph.captures:
        if inner is operation.inputs[0]:
            return outer
    return None


def _of_variable(operation: Any, concrete: Any) -> int | None:
    outer = _outer(operation, concrete)
    found = [v.shape for v in concrete.graph.variables if v.handle is outer]
    return int(found[0][0]) if found and found[0].rank else None


def _of_lookup(operation: Any, concrete: Any) -> tuple[int, ...] | None:
    outer, keys = _outer(operation, concrete), operation.get_attr("Tin")
    if outer is None or not keys.is_integer:
        return None
    values = operation.get_attr("Tout")
    exported = tf.raw_ops.LookupTableExportV2(table_handle=outer, Tkeys=keys, Tvalues=values)
    return tuple(sorted(int(key) for key in exported.keys.numpy())) or None


READERS: dict[str, tuple[int, Callable[[Any, Any], Any]]] = {
    "GatherV2": (1, _of_tensor),
    "GatherNd": (1, _of_tensor),
    "ResourceGather": (1, _of_variable),
    "ResourceGatherNd": (1, _of_variable),
    "OneHot": (0, _of_number),
    "Bincount": (0, _of_number),
    "DenseBincount": (0, _of_number),
    "LookupTableFindV2": (1, _of_lookup),
}
"""Operations that read a table: at which input the ids are, and how large the table is."""
