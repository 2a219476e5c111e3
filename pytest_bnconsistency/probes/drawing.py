"""Who draws random numbers in a trace: a layer's own code, or code between layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.subjects import Call

DRAWS = (
    *("Random", "Multinomial", "TruncatedNormal", "StatefulUniform", "StatefulStandardNormal"),
    *("CandidateSampler", "SampleDistorted"),
)
"""Parts of the types of operations that draw random numbers."""
CALLS = ("Call", "While", "If", "Case")
"""The ends of the types of operations that run functions."""


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
    layers, outside = dict[int, Any](), dict[str, tuple[str, str]]()
    for index, name in _random_operations(graph):
        within = [span for span in spans if span.start <= index < span.end]
        if within:
            innermost = min(within, key=lambda span: span.end - span.start)
            layers[id(innermost.call.layer)] = innermost.call.layer
            continue
        before = [span for span in spans if span.end <= index]
        after = [span for span in spans if span.start > index]
        outside[name] = (
            max(before, key=lambda s: s.end).call.label if before else "the model's input",
            min(after, key=lambda s: s.start).call.label if after else "the model's output",
        )
    return list(layers.values()), outside


def _random_operations(graph: Any) -> Iterator[tuple[int, str]]:
    """The place and the name of each operation that draws, if only in a function that it runs."""
    operations = graph.get_operations()
    functions = _drawing_functions(graph) if any(_runs(op.type) for op in operations) else set()
    for index, operation in enumerate(operations):
        if _is_random(operation.type) or (
            functions and not functions.isdisjoint(_functions_of(operation.node_def))
        ):
            yield index, operation.name


def _drawing_functions(graph: Any) -> set[str]:
    """The names of the functions in a graph's library that draw, or run one that does."""
    library = {f.signature.name: f.node_def for f in graph.as_graph_def().library.function}
    runs = {
        name: {called for node in nodes for called in _functions_of(node)}
        for name, nodes in library.items()
    }
    found = {name for name, nodes in library.items() if any(_is_random(n.op) for n in nodes)}
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


def _is_random(kind: str) -> bool:
    return any(part in kind for part in DRAWS)
