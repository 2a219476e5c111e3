"""The search for a batch in which a row depends on the others, on its place or on their number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from pytest_bnconsistency.checks import search
from pytest_bnconsistency.checks.batch_invariance import explain as explanation
from pytest_bnconsistency.checks.batch_invariance import localise
from pytest_bnconsistency.checks.batch_invariance.hidden_changes import hidden, laid_out
from pytest_bnconsistency.checks.batch_invariance.judged import AmongOthers, InSize, Judged
from pytest_bnconsistency.checks.batch_invariance.kept_rows import (
    Difference,
    beyond_noise,
    compare_kept_rows,
    moves_farther,
)
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.search import Violation, generic_row, passes_of, source_of
from pytest_bnconsistency.data.arrays import Nest, rows_of
from pytest_bnconsistency.data.recipes import Recipe, Row
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Observation
from pytest_bnconsistency.execution.observations import repeating, same_outputs
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.results import CheckResult, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import brief_line, counted, listed

CROSS_ROW = (rules.ROWS_MIX, rules.TRAINING_MODE, rules.POSITION_MATTERS)
SIZED = (rules.SIZE_MATTERS, rules.BATCH_AXIS_LOST)


def searched(
    context: CheckContext,
    x: Nest,
    decide: Callable[[], CheckResult],
    row_by_row: Collection[int] = (),
) -> CheckResult:
    """The result of `decide`, and of examples in which rows must not depend on their batch.

    Layers `row_by_row`, by identity, get one row at a time.
    """
    return search.judged(
        "batch_invariance", context, x, decide, functools.partial(Rows, row_by_row=row_by_row)
    )


class Rows:
    """Rows must not depend on their other rows, nor on how many there are."""

    def __init__(
        self,
        context: CheckContext,
        x: Nest,
        result: CheckResult | None,
        row_by_row: Collection[int] = (),
    ) -> None:
        self.context, self.source, self.base = context, source_of(context, x), rows_of(x)
        self.largest = 2 * self.base + 1
        self.among_others = frozenset(rule.id for rule in CROSS_ROW)
        self.breaks = self.among_others.union(rule.id for rule in SIZED)
        self.generic = generic_row(self.source)
        self.score = 0.0
        self._usual = self.source.expand(Recipe(self.base, {}, self.generic))
        self._noises: dict[str, Noise] = {}
        self._references: dict[tuple[str, int, Row], Observation | str] = {}
        broken = {finding.rule for finding in result.findings} if result else set()
        self._cross_row = any(rule.id in broken for rule in CROSS_ROW)
        self._passes = passes_of(context, row_by_row)
        self._stable: dict[str, frozenset[int]] = {}
        self._among: dict[str, set[int] | frozenset[int]] = {}
        for name, seen in list(self._passes.items()):
            first, second = seen.run(x), seen.run(x)
            if not same_outputs(first.outputs, second.outputs):
                del self._passes[name]
            self._stable[name] = repeating(first, second)
            self._among[name] = seen.reaching_outputs() & self._stable[name]
        self.random = not self._passes

    def violation(self, recipe: Recipe) -> Violation | None:
        return self.beside_others(recipe) or self.in_its_size(recipe)

    def beside_others(self, recipe: Recipe) -> Violation | None:
        """What rows that are not like the rest do to those that are."""
        if not (recipe.rows and recipe.kept):
            return None
        return next(filter(None, (self._mixed(name, recipe) for name in self._passes)), None)

    def in_its_size(self, recipe: Recipe) -> Violation | None:
        """What the number of rows alone does."""
        self.score = 0.0
        if self._cross_row:
            return None
        # Of rows of zeros too much is zero whatever the size.
        usual = Recipe(recipe.count, {}, self.generic)
        return next(filter(None, (self._sized(name, usual) for name in self._passes)), None)

    def _violation(
        self, recipe: Recipe, broken: tuple[Rule, ...], message: str, judged: Judged, x: Nest
    ) -> Violation:
        """`judged` holds the evidence on the rows `x`, from which the batch differs."""

        def explained() -> Finding:
            (finding,) = explanation.findings(self.context.subject, x, [judged])
            return replace(finding, message=message)

        return Violation(recipe, broken, explained)

    def _reference(self, name: str, count: int, rest: Row) -> Observation | str:
        key = name, count, rest
        if key not in self._references:
            self._references[key] = self._run(name, Recipe(count, {}, rest))
        return self._references[key]

    def _run(self, name: str, recipe: Recipe) -> Observation | str:
        """What a pass gives, or why it refuses."""
        x = self.source.expand(recipe)
        try:
            return self._passes[name].run(x)
        except Exception as error:
            return brief_line(error)

    def _mixed(self, name: str, recipe: Recipe) -> Violation | None:
        reference = self._reference(name, recipe.count, recipe.rest)
        other = self._run(name, recipe)
        if isinstance(reference, str) or isinstance(other, str):
            return None  # a model may refuse some rows; that is no dependence
        seen, kept = self._passes[name], np.array(recipe.kept)
        if width := _other_width(recipe, reference, other):
            judged = Judged([name], seen, among_others=AmongOthers(width=width))
            message, x = f"{width}, through {name}", self.source.expand(recipe)
            return self._violation(recipe, SIZED[1:], message, judged, x)
        variant = BatchVariant(str(recipe), None, kept, kept, recipe.count)
        found = compare_kept_rows(reference, other, variant, self._among[name])
        if found is None:
            return None
        places, shown = found.places, bool(found.moved)
        x = self.source.expand(Recipe(recipe.count, {}, recipe.rest))
        variant = replace(variant, x=self.source.expand(recipe))
        noise = Noise(seen, x)
        # Where outputs move farther than any rounding takes them, nothing hangs on it.
        farther = shown and moves_farther(reference, other, variant, noise)
        row_routing = not farther and self._regroups_rows(name, x, variant)
        if row_routing and shown:
            shown = bool(beyond_noise(reference, other, variant, noise))
        if not shown:
            places = hidden(self.context, seen, x, variant, places, row_routing)
        if not places and not shown:
            return None
        stable = self._stable[name] - laid_out(seen)
        found = replace(found, variant=variant, places=places)
        mixed = AmongOthers(differences=[found], stable=stable)
        judged = Judged([name], seen, among_others=mixed)
        return self._violation(recipe, CROSS_ROW, _message(found, recipe, name), judged, x)

    def _regroups_rows(self, name: str, x: Nest, variant: BatchVariant) -> bool:
        """Whether other numbers of rows meet in a pass, among the rows given or in this batch."""
        seen = self._passes[name]
        routing = localise.row_routing(self.context, seen)
        return routing or localise.dynamic_routing(self.context, seen, x, [variant])

    def _sized(self, name: str, recipe: Recipe) -> Violation | None:
        """What the size alone does, to rows that are all of the rest."""
        base = self._reference(name, self.base, recipe.rest)
        reference = self._reference(name, recipe.count, recipe.rest)
        if isinstance(base, str):
            return None  # the model refuses such rows, whatever their number
        both = min(recipe.count, self.base)
        x = self._usual if recipe.count < self.base else self.source.expand(recipe)

        def violation(rules: tuple[Rule, ...], message: str, found: InSize) -> Violation:
            judged = Judged([name], self._passes[name], in_sizes=[found])
            return self._violation(recipe, rules, f"{message}, through {name}", judged, x)

        size = InSize((0, both), recipe.count)
        if isinstance(reference, str):
            fault = f"a batch of {recipe.count} raises: {reference}"
            return violation(SIZED[1:], fault, replace(size, fault=fault))
        if name not in self._noises:
            self._noises[name] = Noise(self._passes[name], self._usual)
        for index, (mine, its) in enumerate(zip(base.outputs, reference.outputs, strict=True)):
            in_rows = mine.ndim and len(mine) == self.base
            if not in_rows or (its.shape == mine.shape and recipe.count != self.base):
                continue  # a table, which may by chance be as long as the batch
            if its.shape != (recipe.count, *mine.shape[1:]):
                gives = f"a batch of {recipe.count} gives shape {its.shape}; the batch of "
                fault = f"{gives}{self.base} gives {mine.shape}"
                return violation(SIZED[1:], fault, replace(size, fault=fault))
            moved = self._noises[name].compare(index, mine[:both], its[:both], np.arange(both))
            if moved is None:
                continue
            self.score = max(self.score, min(moved.margin, 1e9))
            if moved.beyond:
                message = (
                    f"row {moved.row} moves by {moved.change:.3g} between a batch of "
                    f"{recipe.count} and one of {self.base}; noise explains {moved.bound:.3g}"
                )
                return violation(SIZED[:1], message, replace(size, moves=[moved]))
        return None


def _other_width(recipe: Recipe, reference: Observation, other: Observation) -> str:
    """How an output's shape hangs on the other rows, "" if it does not."""
    for mine, its in zip(reference.outputs, other.outputs, strict=True):
        if mine.ndim and its.ndim and len(mine) == len(its) and mine.shape != its.shape:
            return f"{recipe} gives shape {its.shape}; other rows give {mine.shape}"
    return ""


def _message(found: Difference, recipe: Recipe, name: str) -> str:
    moved, row = found.moved, found.row
    how = (
        f"row {row} moves by {moved:.3g}"
        if moved and np.isfinite(moved)
        else f"row {row} becomes NaN"
        if moved
        else "a row's hidden values move, though not the outputs,"
    )
    runs = recipe.runs()
    beside = listed([f"{places} {'are' if '-' in places else 'is'} {row}" for places, row in runs])
    among = counted(recipe.count, "row")
    usual = [str(recipe.rest.at(place)) for place in sorted(recipe.rows)]
    instead = usual[0] if usual[0] == usual[-1] else f"{usual[0]} to {usual[-1]}"
    return f"{how} when {beside} instead of {instead} ({among}), through {name}"
