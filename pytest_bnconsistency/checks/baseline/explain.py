"""What moved, as findings that read like a diff, and which side changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_bnconsistency.checks.baseline.compare import (
    ERRORS,
    FARTHER,
    GRAPH,
    NOTHING,
    PLACE,
    SAME_STATISTICS,
    Compared,
    Difference,
    is_behaviour,
    is_distance,
)
from pytest_bnconsistency.checks.baseline.facts import INVENTORY, OUTPUTS, RUN_BY, Facts, Value
from pytest_bnconsistency.checks.baseline.verdicts import (
    FELL,
    FINDING,
    VERDICT,
    WARNING,
    word_of,
)
from pytest_bnconsistency.results import Explanation, Finding, Table
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import counted, listed

LIBRARIES = ("tensorflow", "numpy", RUN_BY)
"""The versions that may change what a model does, beside that of the library that runs it."""
NAMES = {
    "arrays": "shape of its arrays",
    "frozen_by": "what freezes it",
    "statistics_dtype": "dtype of its statistics",
    "modes call": "mode in model(x)",
    "modes predict": "mode in predict",
    "modes training": "mode in training",
    "updates": "number of updates per step",
}
"""Facts of a layer whose names in the file are shorter."""
SLUGS = {rule.id: rule.slug for rule in rules.ALL}
COMPLAINTS: Mapping[Value, str] = {
    FINDING: "a finding",
    WARNING: "a warning",
    NOTHING: "none",
}
"""What a check says of a rule at a place."""
UPDATE = "if it is meant: pytest --bn-update-baseline, and review the file's diff"


@dataclass(frozen=True)
class Sides:
    """What changed around the differences: graph, behaviour of layers, statistics, weights,
    libraries.
    """

    graph: Sequence[Difference]
    behaviour: Sequence[Difference]
    statistics: Sequence[Difference]
    weights: bool
    versions: Mapping[str, tuple[Value, Value]]

    @classmethod
    def of(cls, was: Facts, now: Facts, found: Compared) -> Sides:
        graph = [one for one in found.inventory if not is_behaviour(one)]
        behaviour = [one for one in found.inventory if is_behaviour(one)]
        runs = str(now.versions.get(RUN_BY)).replace("_", "-")
        names = [
            name
            for name in dict.fromkeys((runs, *LIBRARIES))
            if was.versions.get(name) != now.versions.get(name)
        ]
        versions = {name: (was.versions.get(name), now.versions.get(name)) for name in names}
        return cls(graph, behaviour, found.statistics, bool(found.weights), versions)

    @property
    def libraries(self) -> str:
        return listed(
            f"{name} {now or 'gone'} (was {was or 'none'})"
            for name, (was, now) in self.versions.items()
        )

    def explained(self, one: Difference) -> Explanation:
        """Which side a difference is of; it is told by what else changed, and not tested."""
        if one in self.graph:
            return _explanation("the graph: what the model declares is not what it was")
        for side, moved in self._others(one):
            if moved and one not in moved:
                layers = listed(dict.fromkeys(other.layer for other in moved), most=3)
                return _explanation(f"{side}: {layers} moved as well")
        return _explanation(self._last(one))

    def _others(self, one: Difference) -> Iterator[tuple[str, Sequence[Difference]]]:
        """What may move a fact by moving itself: no stored value decides what a layer does."""
        yield "the graph", self.graph
        if one not in self.behaviour:
            yield "the normalization layers", self.behaviour
            yield "the statistics", self.statistics

    def _last(self, one: Difference) -> str:
        """What is left, where nothing else moved that could be the cause."""
        if self.weights and one not in self.behaviour:
            return "the weights: they are not those of the baseline"
        if one in self.statistics:
            return (
                "the data: weights and statistics are as they were"
                if is_distance(one)
                else "the statistics alone: graph and weights are as they were"
            )
        same = "the graph is as it was" if self.weights else "graph and weights are as they were"
        if self.versions:
            return f"the library: {self.libraries}; {same}"
        return (
            "code that the baseline has no fact of (a call, an activation, a flag of another "
            f"layer): {same}"
        )


def _explanation(side: str) -> Explanation:
    return Explanation(cause=f"{side} (read off what moved, not tested)", remedy=UPDATE)


def findings(was: Facts, now: Facts, found: Compared) -> tuple[Finding, ...]:
    """A finding for each rule that something falls under, with all of it in a table."""
    sides = Sides.of(was, now, found)
    by_rule: tuple[tuple[Rule, Sequence[Difference], str], ...] = (
        (rules.INVENTORY_CHANGED, found.inventory, "no tolerance"),
        (rules.STATISTICS_MOVED, found.statistics, _bound_of(found.statistics)),
        (rules.OUTPUTS_MOVED, found.outputs, _noise_of(found.outputs)),
        (rules.SEES_LESS, found.less, f"no less, and limits no more than {FELL:g} times larger"),
        (rules.NEW_WARNING, found.warnings, "no tolerance"),
    )
    return tuple(
        _finding(rule, differences, bound, sides)
        for rule, differences, bound in by_rule
        if differences
    )


def _bound_of(statistics: Sequence[Difference]) -> str:
    if statistics and is_distance(statistics[0]):
        return f"{FARTHER:g} farther, and {ERRORS:g} standard errors"
    return f"{SAME_STATISTICS:g} of the size of a vector"


def _noise_of(outputs: Sequence[Difference]) -> str:
    if outputs and outputs[0].bound:
        return f"{outputs[0].bound:.2g}, the rounding noise, measured on both sides"
    return "no tolerance"


def _finding(rule: Rule, differences: Sequence[Difference], bound: str, sides: Sides) -> Finding:
    first, *more = differences
    layers = list(dict.fromkeys(one.layer for one in differences))
    others = f"; {counted(len(more), 'more difference')}" if more else ""
    return rule.finding(
        layer=first.layer,
        layers=layers,
        message=f"{_said(first)}{others}",
        explanation=sides.explained(first),
        bound=bound,
        table=Table(
            ("layer", "what", "was", "is"),
            tuple(
                (one.layer, name_of(one), _shown_of(one, one.was), _shown_of(one, one.now))
                for one in differences
            ),
        ),
        evidence={
            "differences": [
                {
                    "layer": one.layer,
                    "fact": one.fact,
                    "was": one.was,
                    "is": one.now,
                    "change": one.change,
                    "bound": one.bound,
                }
                for one in differences
            ],
            "versions": {name: {"was": a, "is": b} for name, (a, b) in sides.versions.items()},
        },
    )


def _said(one: Difference) -> str:
    """The difference as in a sentence: a reader knows rows, and no projections."""
    if one.section == OUTPUTS and (digest := re.match("(.+) (size|projection)", one.fact)):
        return f"{one.layer}: {digest[1]} {_moved(one)}"
    is_now, was = _shown_of(one, one.now), _shown_of(one, one.was)
    if one.fact == PLACE and NOTHING in (one.was, one.now):
        came = one.was == NOTHING
        return f"{one.layer} is new, {is_now}" if came else f"{one.layer} is gone, was {was}"
    return f"{one.layer}: {name_of(one)} is {is_now}, was {was}"


def _moved(one: Difference) -> str:
    """What a row of an output did."""
    if one.bound:
        return f"moved by {one.change:.2g}, and rounding by {one.bound:.2g} at most"
    now, was = ("a number" if isinstance(v, float) else shown(v) for v in (one.now, one.was))
    return f"is {now}, was {was}"


def name_of(one: Difference) -> str:
    """The fact as a reader knows it."""
    if one.section in (GRAPH, INVENTORY):
        return NAMES.get(one.fact, one.fact)
    return f"{one.fact} {SLUGS[one.fact]}" if one.fact in SLUGS else one.fact


def _shown_of(one: Difference, value: Value) -> str:
    if one.fact == VERDICT:
        return word_of(value)
    return shown(COMPLAINTS.get(value, value) if one.fact in SLUGS else value)


def shown(value: Value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def notes(was: Facts, now: Facts, found: Compared, names: Mapping[str, str]) -> Iterator[str]:
    """What decides nothing, and a reader of the result should know.

    `names` are those of the layers now, by those that stand for them in the baseline.
    """
    if names and found.moved:
        said = listed((f"its {mine} is {its} now" for mine, its in names.items()), most=3)
        yield f"layers are named as in the baseline: {said}"
    if not found.values:
        yield (
            "the weights are not those of the baseline: its inventory and verdicts are compared, "
            "its statistics and outputs are not"
        )
    if found.rounding:
        yield (
            f"outputs differ from the baseline by rounding only: {found.rounding:.2g} of the "
            "bound at most"
        )
    if sides := Sides.of(was, now, found).libraries:
        yield f"the baseline was recorded on other versions: {sides}"
    for name in found.unseen:
        yield f"the verdict of {name} is in the baseline, and not of this run: not compared"
    for said in found.better:
        yield f"{said}: record it with --bn-update-baseline"
