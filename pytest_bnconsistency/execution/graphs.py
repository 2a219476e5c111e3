"""What a graph that is being traced, or was, tells about tensors, operations and variables."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from pytest_bnconsistency.data.arrays import flatten

SHAPES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
"""Operations for which only the shape of what they are given counts."""


def is_batch(leaf: Any) -> bool:
    """Whether the first axis of a tensor can be the batch: an axis of no fixed size."""
    return (
        isinstance(leaf, tf.Tensor)
        and leaf.dtype not in (tf.variant, tf.resource)
        and leaf.shape.rank not in (None, 0)
        and (leaf.shape[0] is None or tf.executing_eagerly())
    )


def names_behind(tensors: Iterable[Any]) -> set[str]:
    """The names of the operations whose values have a part in tensors of a graph."""
    stack = [tensor.op for tensor in tensors]
    behind = {operation.name for operation in stack}
    while stack:
        operation = stack.pop()
        for tensor in () if operation.type in SHAPES else operation.inputs:
            if tensor.op.name not in behind:
                behind.add(tensor.op.name)
                stack.append(tensor.op)
    return behind


def behind_writes(
    graph: Any, variables: Iterable[Any], given: Iterable[Any], most: int, after: int = 0
) -> list[Any]:
    """The batches between `given` and what is written to variables, in the order of a graph.

    They are the nearest ones to the writes, at most so many; only writes behind the graph's
    operation of that number count.
    """
    operations = graph.get_operations()
    written = {id(variable.handle) for variable in variables}
    handles = {id(inner) for outer, inner in graph.captures if id(outer) in written}
    queue = deque(
        operation.inputs[1]
        for operation in operations[after:]
        if operation.type.startswith("Assign") and id(operation.inputs[0]) in handles
    )
    seen, found = {tensor.name for tensor in (*queue, *given)}, dict[str, Any]()
    while queue and len(found) < most:
        tensor = queue.popleft()
        if is_batch(tensor):
            found[tensor.op.name] = tensor
        for source in () if tensor.op.type in SHAPES else tensor.op.inputs:
            if source.name not in seen:
                seen.add(source.name)
                queue.append(source)
    return [found[operation.name] for operation in operations if operation.name in found]


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Within it, a graph runs operation by operation as it was traced.

    TensorFlow would rewrite it first, which takes as long as a run or two and may round otherwise:
    so the bits are those of the same code outside of a trace. And functions that the user traced
    run as others than outside, so that random numbers in them go on there as if none had run.
    """
    eager = context.context()
    options = eager._optimizer_experimental_options
    # Functions are made anew for call options that are not the same to the bit.
    before, call_options = dict(options), eager.function_call_options
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.clear()
        options.update(before)
        eager.function_call_options = call_options


def current_graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def operation_count(graph: Any) -> int:
    return 0 if graph is None else len(graph.get_operations())


def tensors_in(outputs: Any) -> list[Any]:
    return [leaf for leaf in flatten(outputs) if isinstance(leaf, tf.Tensor)]


def traced_in(graph: Any, nest: Any) -> list[Any]:
    """The tensors of a graph in a nest: what Python computed before it is a constant there."""
    return [tensor for tensor in tensors_in(nest) if getattr(tensor, "graph", None) is graph]


def sources_of(graph: Any, sources: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """By operation, what of the operations `sources` reaches it, by the identity of its value."""
    reaching: dict[str, dict[int, Any]] = {}
    for operation in graph.get_operations():
        own = sources.get(operation.name)
        found = {} if own is None else {id(own): own}
        for tensor in operation.inputs:
            found |= reaching.get(tensor.op.name, {})
        if found:
            reaching[operation.name] = found
    return reaching


def written_variables(concrete: Any) -> list[Any]:
    """The variables that a traced function writes to; all that it holds, where it calls others."""
    graph = concrete.graph
    if any(
        "Call" in op.type or op.type in ("While", "If", "Case") for op in graph.get_operations()
    ):
        return list(graph.variables)
    handles = {
        id(operation.inputs[0])
        for operation in graph.get_operations()
        if operation.type.startswith(("Assign", "Resource")) and operation.inputs
    }
    written = {id(outer) for outer, inner in graph.captures if id(inner) in handles}
    return [variable for variable in graph.variables if id(variable.handle) in written]


def with_mask(changed: Any, tensor: Any) -> Any:
    """`changed`, with the Keras mask of `tensor`, if it has one."""
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        changed._keras_mask = mask
    return changed
