"""Who draws random numbers: in a trace a layer's own code, or code between layers; in a run.

Whether numbers are drawn does not hang on luck, and nor does what they do: in place of what is
drawn comes what could be drawn. What a seed that stays says is drawn once and for all, and counts
as a constant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from pytest_bnconsistency.execution.activation_patching import Operation, replacing
from pytest_bnconsistency.execution.random_seeds import (
    ANYTHING,
    Followed,
    drawn_from,
    draws_in_graph,
    draws_in_library,
    is_random,
)
from pytest_bnconsistency.execution.traces import concrete_functions
from pytest_bnconsistency.models import Call

CALLS = ("Call", "While", "If", "Case")
"""The ends of the types of operations that run functions."""
SHARES = (0.0, 0.5, 1.0)
"""Which of the numbers that can be drawn are tried: the least, one in between, the largest."""
WIDE = 2.0
"""How many deviations of a normal distribution count as the largest number."""


@dataclass(frozen=True)
class Span:
    """A call, and between which operations of the graph it ran."""

    call: Call
    start: int
    end: int


def draws(graph: Any, spans: Sequence[Span]) -> tuple[list[Any], dict[str, tuple[str, str]]]:
    """The layers whose own code draws, and the random operations that are no layer's, by name.

    With each of these come the two places between which it stands.
    """
    return standing(_random_operations(graph), spans)


def with_random_numbers(graph: Any, spans: Sequence[Span]) -> list[Any]:
    """The layers whose own code makes random numbers, if only those of a seed that stays."""
    return standing(_random_operations(graph, _is_random, _any_random), spans)[0]


def _is_random(kind: str, inputs: Sequence[Any]) -> bool:
    return is_random(kind)


def _any_random(nodes: Iterable[Any]) -> bool:
    return any(is_random(node.op) for node in nodes)


def standing(
    operations: Iterable[tuple[int, str]], spans: Sequence[Span]
) -> tuple[list[Any], dict[str, tuple[str, str]]]:
    """The same of any operations, each with its place in the graph and its name."""
    layers, outside = dict[int, Any](), dict[str, tuple[str, str]]()
    for index, name in operations:
        within = [span for span in spans if span.start <= index < span.end]
        if within:
            innermost = min(within, key=lambda span: span.end - span.start)
            layers[id(innermost.call.layer)] = innermost.call.layer
        else:
            outside[name] = _between(index, spans)
    return list(layers.values()), outside


def _between(index: int, spans: Sequence[Span]) -> tuple[str, str]:
    """The labels of the calls before and behind a place in the graph."""
    before = [span for span in spans if span.end <= index]
    after = [span for span in spans if span.start > index]
    return (
        max(before, key=lambda s: s.end).call.label if before else "the model's input",
        min(after, key=lambda s: s.start).call.label if after else "the model's output",
    )


def _random_operations(
    graph: Any,
    in_graph: Callable[[str, Sequence[Any]], bool] = draws_in_graph,
    in_library: Callable[[Iterable[Any]], bool] = draws_in_library,
) -> Iterator[tuple[int, str]]:
    """The place and the name of each operation that draws, if only in a function that it runs.

    What draws in a graph, by type and inputs, and of the nodes of a function, may be others.
    """
    operations = graph.get_operations()
    runs = any(_runs(op.type) for op in operations)
    functions = _drawing_functions(graph, in_library) if runs else set()
    for index, operation in enumerate(operations):
        if in_graph(operation.type, operation.inputs) or (
            functions and not functions.isdisjoint(_functions_of(operation.node_def))
        ):
            yield index, operation.name


def _drawing_functions(graph: Any, in_library: Callable[[Iterable[Any]], bool]) -> set[str]:
    """The names of the functions in a graph's library that draw, or run one that does."""
    library = {f.signature.name: f.node_def for f in graph.as_graph_def().library.function}
    runs = {
        name: {called for node in nodes for called in _functions_of(node)}
        for name, nodes in library.items()
    }
    found = {name for name, nodes in library.items() if in_library(nodes)}
    while more := {name for name in library.keys() - found if runs[name] & found}:
        found |= more
    return found


def _functions_of(node: Any) -> list[str]:
    if not _runs(node.op):
        return []
    values = node.attr.values()
    return [f.name for value in values for f in (value.func, *value.list.func) if f.name]


def _runs(kind: str) -> bool:
    return kind.endswith(CALLS)


@contextlib.contextmanager
def noting_draws() -> Iterator[Callable[[], bool]]:
    """Within it, operations that draw are noted, in traces and outside; gives whether any did."""
    followed, sources = Followed(), set[int]()

    def note(operation: Operation) -> None:
        name, inputs = operation.type, operation.inputs
        if operation.graph is not None:
            sources.update([ANYTHING] * draws_in_graph(name, inputs))
            return
        followed.follow(name, inputs, operation.outputs)
        sources.update(drawn_from(name, inputs))
        if ANYTHING not in sources and _function_draws(name, set()):
            sources.add(ANYTHING)

    with replacing(note):
        yield lambda: followed.changed(frozenset(sources))


@contextlib.contextmanager
def drawing(share: float) -> Iterator[None]:
    """Within it, operations give instead of what they draw one of the numbers that they can draw.

    That is in code that runs or is traced within. `share` says which, from 0, the least, to 1,
    the largest. In loops they draw: what is drawn may end them.
    """
    followed = Followed()

    def replace(operation: Operation) -> list[Any] | None:
        name, inputs, outputs = operation.type, operation.inputs, operation.outputs
        if operation.graph is None:
            followed.follow(name, inputs, outputs)
            draws = followed.changed(drawn_from(name, inputs))
        else:
            in_loop = "While" in type(operation.graph).__name__
            draws = not in_loop and draws_in_graph(name, inputs)
        if not draws:
            return None
        drawn = _drawn(name, inputs, outputs[0], share)
        if drawn is None:
            return None
        if isinstance(outputs, list):
            outputs[0] = drawn  # outside of graphs, what a callback returns does not count
        return [drawn, *outputs[1:]]

    with replacing(replace):
        yield


def _drawn(kind: str, inputs: Sequence[Any], output: Any, share: float) -> Any:
    """The number that is drawn at a share of what can be drawn; None where that isn't known."""
    dtype = output.dtype
    least: Any
    largest: Any
    if "Shuffle" in kind:
        return tf.reverse(output, [0]) if share > SHARES[0] else output
    if dtype.is_floating and "Uniform" in kind:
        least, largest = 0.0, 1.0 - float(np.finfo(dtype.as_numpy_dtype).eps)
    elif dtype.is_floating and "Normal" in kind:
        least, largest = -WIDE, WIDE
    elif "Multinomial" in kind:
        least, largest = 0, tf.shape(inputs[0])[-1] - 1
    elif dtype.is_integer and kind.removesuffix("V2").endswith("UniformInt"):
        least, largest = inputs[-2], inputs[-1] - 1
    else:
        return None
    least, largest = tf.cast(least, dtype), tf.cast(largest, dtype)
    between = tf.cast(share * tf.cast(largest - least, tf.float64), dtype)
    return tf.broadcast_to(largest if share == SHARES[-1] else least + between, tf.shape(output))


def _function_draws(name: str, seen: set[str]) -> bool:
    """Whether a compiled function of that name draws, or runs one that does."""
    if name in seen or not context.context().has_function(name.encode()):
        return False
    seen.add(name)
    nodes = context.context().get_function_def(name).node_def
    return draws_in_library(nodes) or any(
        _function_draws(inner, seen) for node in nodes for inner in (node.op, *_functions_of(node))
    )


def draws_compiled(function: Any) -> bool:
    """Whether a trace that a `tf.function` holds draws."""
    traces = concrete_functions(function)
    return any(next(_random_operations(trace.graph), None) is not None for trace in traces)
