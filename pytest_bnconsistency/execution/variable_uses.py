"""What a traced function does with variables, in the functions that it calls as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.execution.graphs import SHAPES

LOOPS = ("While", "If", "Case")
"""Operations that run functions nobody knows how often."""
OUTPUTS = 0
"""What the values of a variable reach that is no variable."""

Mark = tuple[str, bool]
"""A variable, by the name of its handle: its values, or the handle itself."""
Marks = frozenset[Mark]


@dataclass(frozen=True, kw_only=True)
class Uses:
    """The variables, by identity, that a run holds, and those that it writes to.

    `reach` says of those that it reads where their values go: the variables that are written by
    them, and `OUTPUTS` where they have a part in what the run gives. `writes` says how often a
    run writes to each, None where that is not known.
    """

    captured: frozenset[int]
    reach: Mapping[int, frozenset[int]]
    writes: Mapping[int, int | None]

    @classmethod
    def seen(cls, variables: Iterable[Any], moved: Iterable[Any]) -> Uses:
        """What a run outside of a trace shows: of `variables` it may read any."""
        written: dict[int, int | None] = dict.fromkeys(map(id, moved))
        captured = frozenset(map(id, variables))
        return cls(
            captured=captured,
            reach={v: frozenset([v if v in written else OUTPUTS]) for v in captured},
            writes=written,
        )

    def joined(self, other: Uses) -> Uses:
        """Of two runs together."""
        reach = {
            v: self.reach.get(v, frozenset()) | other.reach.get(v, frozenset())
            for v in (*self.reach, *other.reach)
        }
        return Uses(
            captured=self.captured | other.captured,
            reach=reach,
            writes={**self.writes, **other.writes},
        )

    def looks_at(self, variables: frozenset[int]) -> bool:
        """Whether values of these have a part in more than what is written to themselves."""
        known = [self.reach[variable] for variable in variables if variable in self.reach]
        return any(not reached or reached - variables for reached in known)


def variable_uses(concrete: Any, without: Collection[str] = ()) -> Uses:
    """What a traced function does with variables, in the functions that it calls as well.

    Operations `without`, by name, are not the function's own: what they read counts for nothing.
    """
    graph = concrete.graph
    definition = graph.as_graph_def()
    handles = {inner.op.name: id(outer) for outer, inner in graph.captures}
    flow = _Flow({f.signature.name: f for f in definition.library.function}, without)
    given = {name: frozenset([(name, False)]) for name in handles}
    known = flow.through(definition.node, given, ())
    for output in graph.outputs:
        flow.note(_carried(known, output.name), "")
    variables = {id(variable.handle): id(variable) for variable in graph.variables}

    def variable(name: str) -> int:
        return variables.get(handles[name], OUTPUTS) if name else OUTPUTS

    return Uses(
        captured=frozenset(v for h, v in variables.items() if h in handles.values()),
        reach={variable(name): frozenset(map(variable, to)) for name, to in flow.reach.items()},
        writes={variable(name): _times(sites) for name, sites in flow.sites.items()},
    )


def _times(sites: Iterable[tuple[tuple[str, str], ...]]) -> int | None:
    """How often what is written in these places is written; None in loops and branches."""
    known = list(sites)
    if any(operation.endswith(LOOPS) for site in known for _, operation in site):
        return None
    return len(known)


class _Flow:
    """Where values of variables go.

    `reach` says for each that is read which are written by it, "" where it is an output; `sites`
    the places where each is written: nodes inside of nodes that call, from the outside in.
    """

    def __init__(self, functions: Mapping[str, Any], without: Collection[str]) -> None:
        self._functions, self._without = functions, without
        self.reach: dict[str, set[str]] = {}
        self.sites: dict[str, set[tuple[tuple[str, str], ...]]] = {}

    def note(self, marks: Marks, written: str) -> None:
        """Values of these are written to a variable, or are outputs."""
        for name, is_value in marks:
            if is_value:
                self.reach[name].add(written)

    def through(
        self, nodes: Iterable[Any], given: Mapping[str, Marks], within: tuple[tuple[str, str], ...]
    ) -> dict[str, dict[int | str, Marks]]:
        """What each output of each node carries, by its place; `given` is what inputs carry."""
        known: dict[str, dict[int | str, Marks]] = {name: {0: m} for name, m in given.items()}
        ordered, before = list(nodes), -1
        # The nodes of a function may stand in any order.
        while before != (before := sum(len(m) for outs in known.values() for m in outs.values())):
            for node in ordered:
                if node.name in given and not node.input:
                    continue
                inputs = [_carried(known, name) for name in node.input if name[0] != "^"]
                if not within and node.name in self._without:
                    inputs = [frozenset(m for m in marks if m[1]) for marks in inputs]
                known[node.name] = self._outputs(node, inputs, within)
        return known

    def _outputs(
        self, node: Any, inputs: list[Marks], within: tuple[tuple[str, str], ...]
    ) -> dict[int | str, Marks]:
        every = frozenset[Mark]().union(*inputs)
        within = (*within, (node.name, node.op))
        if node.op in SHAPES or not every:
            return {}
        called = list(_functions_of(node, self._functions)) if self._functions else []
        if called:
            return self._called(node, called, inputs, within)
        handles = [name for name, is_value in inputs[0] if not is_value]
        if handles and _writes(node.op):
            self._note_writes(handles, inputs[1:], within)
            return {}
        if handles and ("Read" in node.op or "Gather" in node.op):
            return {0: self._read(handles, every)}
        if node.op.startswith("FusedBatchNorm") and node.attr["is_training"].b:
            # What it normalises by is the batch's; the stored statistics it moves on.
            batch = frozenset[Mark]().union(*inputs[:3])
            return {0: batch, "y": batch, "*": every}
        return {"*": every}

    def _note_writes(
        self, handles: list[str], values: list[Marks], within: tuple[tuple[str, str], ...]
    ) -> None:
        """Values are written to variables, in the node that is the last of `within`."""
        for name in handles:
            self.sites.setdefault(name, set()).add(within)
            self.note(frozenset[Mark]().union(*values), name)

    def _read(self, handles: list[str], every: Marks) -> Marks:
        """What the value of variables carries, read with the help of `every` input."""
        for name in handles:
            self.reach.setdefault(name, set())
        return frozenset((name, True) for name in handles) | {mark for mark in every if mark[1]}

    def _called(
        self,
        node: Any,
        called: list[Any],
        inputs: list[Marks],
        within: tuple[tuple[str, str], ...],
    ) -> dict[int | str, Marks]:
        """What comes out of the functions that a node runs; its last inputs are what they get."""
        outputs: dict[int | str, Marks] = {}
        arguments, before = list(inputs), -1
        while before != (before := sum(map(len, arguments)) + sum(map(len, outputs.values()))):
            for function in called:
                own = function.signature.input_arg
                last = arguments[len(arguments) - len(own) :]
                given = {a.name: marks for a, marks in zip(own, last, strict=True)}
                inside = self.through(function.node_def, given, within)
                for place, result in enumerate(function.signature.output_arg):
                    carried = _carried(inside, function.ret[result.name])
                    outputs[place] = outputs.get(place, frozenset()) | carried
            if "While" in node.op:
                arguments = [
                    marks | outputs.get(place, frozenset())
                    for place, marks in enumerate(arguments)
                ]
        return outputs


def _carried(known: Mapping[str, Mapping[int | str, Marks]], name: str) -> Marks:
    """What a tensor carries: `node`, `node:2`, or in a function `node:output:2`."""
    node, *place = name.split(":")
    outputs = known.get(node, {})
    number = int(place[-1]) if place else 0
    if len(place) == 2 and place[0] in outputs:
        return outputs[place[0]]
    if len(place) == 2 and "y" in outputs:
        number = -1
    return outputs.get(number, outputs.get("*", frozenset()))


def _writes(operation: str) -> bool:
    return operation.startswith(("Assign", "Resource")) and "Gather" not in operation


def _functions_of(node: Any, functions: Mapping[str, Any]) -> Iterator[Any]:
    """The functions that a node runs; its last inputs are their arguments."""
    names = [node.op]
    for attribute in node.attr.values():
        names += [attribute.func.name, *(each.name for each in attribute.list.func)]
    return (functions[name] for name in names if name in functions)
