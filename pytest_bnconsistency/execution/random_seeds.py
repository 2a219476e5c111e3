"""Whether an operation draws other numbers in each run, or the same ones, from a seed that stays.

`Stateless` operations draw what their seed says. Where it is made of constants, of what the model
is given and of variables that no run writes to, the same rows get the same numbers again: that is
no more random than a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tensorflow.python.framework import op_def_registry

DRAWS = (
    *("Random", "Multinomial", "TruncatedNormal", "StatefulUniform", "StatefulStandardNormal"),
    *("CandidateSampler", "SampleDistorted"),
)
"""Parts of the types of operations that draw random numbers."""
SEEDED = "Stateless"
"""How the types of operations begin that draw what their seed says."""
SEEDS = ("seed", "key", "counter")
"""What TensorFlow calls the seeds that they are given."""
READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd")
"""The types of operations that read a variable."""
ANYTHING = 0
"""A source that may give something else in each run."""
SOURCES = "_bn_sources"
"""The attribute of a tensor outside of a graph that holds what it was computed from."""


class Followed:
    """What tensors outside of a graph are computed from, and which variables were written to."""

    def __init__(self) -> None:
        self._written: set[int] = set()

    def follow(self, kind: str, inputs: Sequence[Any], outputs: Iterable[Any]) -> None:
        """Notes an operation that ran."""
        if kind.startswith("Assign"):
            self._written.add(id(inputs[0]))
        sources = _joined(inputs)
        if kind in READS:
            sources |= {id(inputs[0])}
        elif _is_source(kind):
            sources |= {ANYTHING}
        for output in outputs if sources else ():
            setattr(output, SOURCES, sources)

    def changed(self, sources: frozenset[int]) -> bool:
        """Whether one of the sources is another in the next run, as far as is known by now."""
        return ANYTHING in sources or not sources.isdisjoint(self._written)


def drawn_from(kind: str, inputs: Sequence[Any]) -> frozenset[int]:
    """What an operation draws from that runs outside of a graph; nothing if it does not draw."""
    if not is_random(kind):
        return frozenset()
    return _joined(_seeds_of(kind, inputs)) if kind.startswith(SEEDED) else frozenset({ANYTHING})


def draws_in_graph(kind: str, inputs: Sequence[Any]) -> bool:
    """Whether an operation in a graph draws, and other numbers in each run."""
    if not is_random(kind):
        return False
    return not kind.startswith(SEEDED) or any(map(_changes, _seeds_of(kind, inputs)))


def draws_in_library(nodes: Iterable[Any]) -> bool:
    """Whether a function in a graph's library, of these nodes, does so."""
    by_name = {node.name: node for node in nodes}

    def changes(given: str) -> bool:
        names, seen = [given], set[str]()
        while names:
            name = names.pop().partition(":")[0]
            node = by_name.get(name)
            if node is None or _is_source(node.op):
                return True  # of an argument nothing is known here
            if name not in seen:
                seen.add(name)
                names += [each for each in node.input if not each.startswith("^")]
        return False

    return any(
        not node.op.startswith(SEEDED) or any(map(changes, _seeds_of(node.op, node.input)))
        for node in by_name.values()
        if is_random(node.op)
    )


def is_random(kind: str) -> bool:
    """Whether operations of a type make random numbers, if only those that their seed says."""
    return any(part in kind for part in DRAWS)


def _is_source(kind: str) -> bool:
    """Whether an operation may give something else in each run, whatever it is given."""
    definition = op_def_registry.get(kind)
    return definition is None or (definition.is_stateful and not kind.startswith(SEEDED))


def _seeds_of(kind: str, inputs: Sequence[Any]) -> list[Any]:
    names = [argument.name for argument in op_def_registry.get(kind).input_arg]
    return [given for name, given in zip(names, inputs, strict=False) if name in SEEDS]


def _joined(tensors: Iterable[Any]) -> frozenset[int]:
    return frozenset().union(*(getattr(tensor, SOURCES, ()) for tensor in tensors))


def _changes(tensor: Any) -> bool:
    """Whether a tensor of a graph may be another in the next run of the graph on the same rows."""
    tensors, seen = [tensor], set[int]()
    while tensors:
        one = tensors.pop()
        operation = getattr(one, "op", None)
        if operation is None or id(operation) in seen:
            continue  # what was computed before the graph is a constant in it
        seen.add(id(operation))
        if operation.type == "Placeholder":
            outside = _outside(one)
            if outside is None:
                return True
            tensors += outside
        elif operation.type in READS:
            if not _is_only_read(operation.inputs[0]):
                return True
        elif _is_source(operation.type):
            return True
        else:
            tensors += operation.inputs
    return False


def _is_only_read(handle: Any) -> bool:
    """Whether nothing in a graph writes to a variable, or may do so."""
    while getattr(handle, "op", None) is not None:
        if any(operation.type not in READS for operation in handle.consumers()):
            return False
        outside = _outside(handle)
        if not outside:
            return outside is not None
        handle = outside[0]
    return True


def _outside(placeholder: Any) -> Sequence[Any] | None:
    """What stands outside for a placeholder; None for an argument of a function in a graph."""
    graph = placeholder.graph
    for outer, inner in getattr(graph, "captures", ()):
        if inner is placeholder:
            return [outer]
    return None if hasattr(getattr(graph, "outer_graph", None), "captures") else []
