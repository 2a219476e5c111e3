"""The search for a batch that moves the state of a layer in inference."""

from __future__ import annotations

import functools
from collections.abc import Callable

from pytest_bnconsistency.checks import entry_points, search
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.search import Violation, passes_of, source_of
from pytest_bnconsistency.data.arrays import Nest, rows_of
from pytest_bnconsistency.data.recipes import Recipe
from pytest_bnconsistency.results import CheckResult, Explanation, Finding
from pytest_bnconsistency.rules.catalogue import STATE_MOVES
from pytest_bnconsistency.words import counted


def searched(context: CheckContext, x: Nest, decide: Callable[[], CheckResult]) -> CheckResult:
    """The result of `decide`, and of examples that must not move any layer's state."""
    return search.judged("inference_purity", context, x, decide, State)


class State:
    """No batch moves the state of a layer in inference."""

    def __init__(self, context: CheckContext, x: Nest, result: CheckResult | None) -> None:
        self.context, self.source, self.largest = context, source_of(context, x), rows_of(x)
        self.breaks, self.among_others = frozenset({STATE_MOVES.id}), frozenset[str]()
        self.score, self.random = 0.0, False
        self._passes = passes_of(context)
        self._owners = entry_points.owners(context, *self._passes.values())

    def violation(self, recipe: Recipe) -> Violation | None:
        x = self.source.expand(recipe)
        for name, seen in self._passes.items():
            if not seen.written:
                continue
            try:
                moved = [v for v in seen.run(x).moved if id(v) in self._owners]
            except Exception:  # a model may refuse some rows
                continue
            if moved:
                layers = list(dict.fromkeys(self._owners[id(v)] for v in moved))
                return Violation(recipe, (STATE_MOVES,), functools.partial(_finding, name, layers))
        return None


def _finding(entry_point: str, layers: list[str]) -> Finding:
    moved = f"{entry_point} moves the state of {counted(len(layers), 'layer')} for this batch"
    return STATE_MOVES.finding(
        layer=layers[0],
        layers=layers,
        message=moved,
        explanation=Explanation(
            cause="not established; other batches leave the state as it is",
            remedy="let no value of the input decide whether state is written",
        ),
        bound="no tolerance: bitwise",
    )
