"""Operations that give what they gave before, in the graph that is being traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from pytest_bnconsistency.data.arrays import Array


@dataclass(frozen=True)
class Patch:
    """What an operation gives instead: `values`, an array for each of its tensors.

    With `kept` of `rows` rows, only these are held where rows lie along an axis: the others go on
    as they are, so that rows which meet further on are not hidden. With `when`, it gives that only
    where the tensor that `when` makes says so.
    """

    values: list[Array]
    kept: Array | None = None
    rows: int = 1
    when: Callable[[], Any] | None = None

    def instead_of(self, tensors: Sequence[Any]) -> list[Any]:
        return [self._patched(t, value) for t, value in zip(tensors, self.values, strict=True)]

    def _patched(self, tensor: Any, value: Array) -> Any:
        lengths = value.shape
        if not tensor.shape.is_compatible_with(lengths):
            return tensor  # the library is wrong about its shape: nothing goes on with it
        along = [a for a in open_axes(tensor) if lengths[a] and lengths[a] % self.rows == 0]
        given: Any = value
        if along and self.kept is not None:
            shape = [-1 if axis == along[0] else 1 for axis in range(value.ndim)]
            entries = of_kept_rows(lengths[along[0]], self.kept, self.rows)
            given = tf.where(entries.reshape(shape), value, tensor)
        if self.when is not None:
            given = tf.cond(self.when(), lambda: tf.convert_to_tensor(given), lambda: tensor)
        # The code that follows may read the static shape.
        return tf.compat.v1.placeholder_with_default(given, tensor.shape)


@dataclass(frozen=True)
class Operation:
    """One that runs, or is traced: its type, its name, and what it is given and gives.

    The graph is None outside of one, and the name is empty.
    """

    type: str
    name: str
    graph: Any
    inputs: Sequence[Any]
    outputs: Any


@contextlib.contextmanager
def replacing(replace: Callable[[Operation], Sequence[Any] | None]) -> Iterator[None]:
    """Within it, operations give what `replace` makes of them; None leaves them as they are."""

    def callback(
        op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
    ) -> list[Any] | None:
        name = op_type.decode() if isinstance(op_type, bytes) else op_type
        given = replace(Operation(name, op_name or "", graph, inputs, outputs))
        return None if given is None else list(given)

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


@contextlib.contextmanager
def patching(operations: Mapping[str, Patch]) -> Iterator[None]:
    """Within it, operations of these names in the graph of the moment give what is held.

    Raises:
        LookupError: there is no graph, or one of them was not met in it.
    """
    if not operations:
        yield
        return
    if tf.executing_eagerly():
        raise LookupError("operations have names in a graph only")
    own, met = tf.compat.v1.get_default_graph(), set()

    def replace(operation: Operation) -> Sequence[Any] | None:
        # Traces of functions that the code calls outlive this one, so they stay as they are.
        if operation.graph is not own or operation.name not in operations:
            return None
        met.add(operation.name)
        with tf.name_scope("patched/"):  # so that the code's own operations keep their names
            return operations[operation.name].instead_of(operation.outputs)

    with replacing(replace):
        yield
    if missing := set(operations) - met:
        raise LookupError(f"no operations of these names: {missing}")


def open_axes(tensor: Any) -> list[int]:
    """The axes of no fixed length: along one of them the rows lie."""
    return [axis for axis in range(tensor.shape.rank or 0) if tensor.shape[axis] is None]


def of_kept_rows(length: int, kept: Array, rows: int) -> Array:
    """Which of `length` entries of an axis, on which `rows` rows lie, may be of those in `kept`.

    The entries of a row lie side by side, or the rows again and again.
    """
    entries = np.arange(length)
    side_by_side: Array = np.isin(entries // (length // rows), kept)
    return side_by_side | np.isin(entries % rows, kept)
