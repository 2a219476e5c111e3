"""What must hold for every batch that is made: rows are independent, and state stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.passes import NOISE_ROWS, measured_noise, observed
from pytest_bnconsistency.checks.words import counted, listed
from pytest_bnconsistency.data import Array, Nest, flatten, rebuild, rows_of
from pytest_bnconsistency.diagnosis import localise, rules
from pytest_bnconsistency.diagnosis.localise import Exchange
from pytest_bnconsistency.diagnosis.rules import Rule
from pytest_bnconsistency.expansion import Source, specs_like
from pytest_bnconsistency.probes import noise
from pytest_bnconsistency.probes.state import same_bits
from pytest_bnconsistency.probes.taps import Observation, Pass
from pytest_bnconsistency.recipes import Recipe, Row
from pytest_bnconsistency.results import CheckResult, Finding

MIXING = (rules.ROWS_MIX, rules.TRAINING_MODE, rules.POSITION_MATTERS)
SIZED = (rules.SIZE_MATTERS, rules.BATCH_AXIS_LOST)


@dataclass(frozen=True)
class Violation:
    """What one batch does: the rules that it can break, through which pass, and in words."""

    recipe: Recipe
    rules: tuple[Rule, ...]
    seen: Pass
    message: str
    layer: str = ""


class Oracle(Protocol):
    """What must hold for every batch. `largest` is the largest number of rows to try."""

    case: Case
    source: Source
    largest: int
    random: bool
    score: float

    def violation(self, recipe: Recipe) -> Violation | None: ...

    def finding(self, found: Violation) -> Finding: ...


class Rows:
    """Rows must not depend on their companions, nor on how many there are."""

    def __init__(self, case: Case, x: Nest, result: CheckResult | None) -> None:
        self.case, self.source, self.base = case, source_of(case, x), rows_of(x)
        self.largest = 2 * self.base + 1
        self.generic = generic_row(self.source)
        self.score = 0.0
        inference, default = observed(case, x, False), observed(case, x, None)
        self._passes = {"model(x, training=False)": inference}
        if default.same_computation(inference):
            self._passes = {"model(x) and model(x, training=False)": inference}
        else:
            self._passes["model(x)"] = default
        self._x = x
        self._references: dict[tuple[str, int, Row], Observation | str] = {}
        self._floors: list[noise.Floor] | None = None
        broken = {finding.rule for finding in result.findings} if result else set()
        self._mixing = any(rule.id in broken for rule in MIXING)
        self._among: dict[str, set[int]] = {}
        for name, seen in list(self._passes.items()):
            first, second = seen.run(x), seen.run(x)
            if not all(map(same_bits, first.outputs, second.outputs)):
                del self._passes[name]
            self._among[name] = seen.reaching_outputs() & _repeating(first, second)
        self.random = not self._passes

    def violation(self, recipe: Recipe) -> Violation | None:
        self.score = 0.0
        for name in self._passes:
            found = self._mixed(name, recipe) if recipe.rows and recipe.kept else None
            if found is None and not self._mixing:
                # Of rows of zeros too much is zero whatever the size.
                found = self._sized(name, Recipe(recipe.count, {}, self.generic))
            if found is not None:
                return found
        return None

    def _reference(self, name: str, count: int, rest: Row) -> Observation | str:
        key = name, count, rest
        if key not in self._references:
            self._references[key] = self._run(name, Recipe(count, {}, rest))
        return self._references[key]

    def _run(self, name: str, recipe: Recipe) -> Observation | str:
        x = self.source.expand(recipe)
        try:
            return self._passes[name].run(x)
        except Exception as error:
            return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]

    def _mixed(self, name: str, recipe: Recipe) -> Violation | None:
        alone = self._reference(name, recipe.count, recipe.rest)
        other = self._run(name, recipe)
        if isinstance(alone, str) or isinstance(other, str):
            return None  # a model may refuse some rows; that is no dependence
        kept = np.array(recipe.kept)
        exchange = Exchange(str(recipe), None, kept, kept, recipe.count)
        hidden = set(localise.differing_calls(alone, other, exchange)) & self._among[name]
        moved, row = _largest_move(alone.outputs, other.outputs, recipe)
        if not hidden and not localise.outputs_differ(alone.outputs, other.outputs, exchange):
            return None
        how = (
            f"row {row} moves by {moved:.3g}"
            if moved and np.isfinite(moved)
            else f"row {row} becomes NaN"
            if moved
            else "a row's hidden values move, though not the outputs,"
        )
        beside = listed([f"row {place} is {other}" for place, other in recipe.rows.items()])
        message = f"{how} when {beside} instead of {recipe.rest} ({counted(recipe.count, 'row')})"
        return Violation(recipe, MIXING, self._passes[name], f"{message}, through {name}")

    def _sized(self, name: str, recipe: Recipe) -> Violation | None:
        """What the size alone does, to rows that are all of the rest."""
        base = self._reference(name, self.base, recipe.rest)
        alone = self._reference(name, recipe.count, recipe.rest)
        through, seen = f", through {name}", self._passes[name]
        if isinstance(base, str):
            return None  # the model refuses such rows, whatever their number
        if isinstance(alone, str):
            message = f"a batch of {recipe.count} raises: {alone}{through}"
            return Violation(recipe, SIZED[1:], seen, message)
        for index, (mine, its) in enumerate(zip(base.outputs, alone.outputs, strict=True)):
            if not (mine.ndim and len(mine) == self.base):
                continue
            if its.shape != (recipe.count, *mine.shape[1:]):
                message = (
                    f"a batch of {recipe.count} gives shape {its.shape}; the batch of "
                    f"{self.base} gives {mine.shape}{through}"
                )
                return Violation(recipe, SIZED[1:], seen, message)
            both = min(recipe.count, self.base)
            change = _change(mine[:both], its[:both])
            worst = float(change.max(initial=0.0))
            bounds = self._bounds()
            bound = bounds[index].bound if index < len(bounds) else 0.0
            self.score = max(self.score, min(worst / bound if bound else float(worst > 0), 1e9))
            if worst > bound:
                row = int(change.reshape(both, -1).max(axis=1).argmax())
                message = (
                    f"row {row} moves by {worst:.3g} between a batch of {recipe.count} and one of "
                    f"{self.base}; noise explains {bound:.3g}{through}"
                )
                return Violation(recipe, SIZED[:1], seen, message)
        return None

    def _bounds(self) -> list[noise.Floor]:
        """The noise of such rows: it grows with what the rows hold."""
        if self._floors is None:
            _, perturbed = measured_noise(self.case, self._x)
            few = self.source.expand(Recipe(NOISE_ROWS, {}, self.generic))
            self._floors = noise.floors(perturbed, few)
        return self._floors

    def finding(self, found: Violation) -> Finding:
        if found.rules != MIXING:
            return self._size_finding(found)
        recipe, seen = found.recipe, found.seen
        alone = self.source.expand(Recipe(recipe.count, {}, recipe.rest))
        kept = np.array(recipe.kept)
        exchange = Exchange(str(recipe), self.source.expand(recipe), kept, kept, recipe.count)
        name = next(name for name, each in self._passes.items() if each is seen)
        origin = localise.first_origin(seen, alone, exchange, self._among[name])
        takes = [c.layer for c in origin.calls if self.case.subject.takes_training(c.layer)]
        forced = {id(layer): False for layer in takes}
        by_mode = bool(takes) and localise.independent_with(seen, alone, exchange, forced)
        rule = rules.TRAINING_MODE if by_mode else rules.ROWS_MIX
        return Finding(
            rule.id,
            rule.slug,
            origin.label,
            found.message,
            f"{origin.label} normalises by the batch: it runs in training mode"
            if by_mode
            else "not established; the rows mix here, with these rows: its input row is the same "
            "to the bit and its output row is not"
            if origin.replayed
            else "not established; the rows mix here, with these rows: what comes before is the "
            "same to the bit",
            by_mode,
            "call the model with training=False; take training=True out of the call"
            if by_mode
            else "compute over the feature axes, not over axis 0",
            "forced into inference mode, every kept row has the same bits"
            if by_mode
            else "inference mode forced on every layer that takes one: the row still moves",
            "no tolerance: bitwise, at one batch shape",
            evidence={"layer": origin.label, "fails": [name]},
        )

    def _size_finding(self, found: Violation) -> Finding:
        (rule,) = found.rules
        return Finding(
            rule.id,
            rule.slug,
            "not located",
            found.message,
            f"not established; tried: sizes from 1 to {self.largest}",
            False,
            "look for code that reads the batch size",
            bound=f"{noise.MULTIPLE:g} times the noise floor, measured on this model and such rows"
            if rule is rules.SIZE_MATTERS
            else "",
        )


class State:
    """No batch moves the state of a layer in inference."""

    def __init__(self, case: Case, x: Nest, result: CheckResult | None) -> None:
        self.case, self.source, self.largest = case, source_of(case, x), rows_of(x)
        self.score, self.random = 0.0, False
        self._passes = {
            name: observed(case, x, training)
            for name, training in (("model(x, training=False)", False), ("model(x)", None))
        }
        self._owners = {
            id(variable): call.path
            for seen in self._passes.values()
            for call in reversed(seen.calls)
            if call.is_layer
            for variable in case.subject.own_variables(call.layer)
        }

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
                message = f"{name} moves the state of {counted(len(layers), 'layer')}"
                return Violation(
                    recipe, (rules.STATE_MOVES,), seen, f"{message} for this batch", layers[0]
                )
        return None

    def finding(self, found: Violation) -> Finding:
        (rule,) = found.rules
        return Finding(
            rule.id,
            rule.slug,
            found.layer,
            found.message,
            "not established; other batches leave the state as it is",
            False,
            "let no value of the input decide whether state is written",
            bound="no tolerance: bitwise",
        )


def source_of(case: Case, x: Nest) -> Source:
    """What examples are made with: the given rows, or inputs of the shapes that `x` has."""
    if case.data is not None:
        return Source(specs_like(case.data.x), case.data.x)
    specs = [
        replace(spec, shape=leaf.shape[1:])
        for spec, leaf in zip(flatten(case.subject.inputs()), flatten(x), strict=True)
    ]
    return Source(rebuild(x, specs))


def generic_row(source: Source) -> Row:
    """A row as users have them."""
    return Row("random", 1.0) if source.data is None else Row("data")


def _repeating(first: Observation, second: Observation) -> set[int]:
    """The calls of which every record has the same bits in two runs of one batch."""
    return {
        index
        for index, (mine, its) in enumerate(zip(first.records, second.records, strict=True))
        if mine is not None and its is not None and all(map(same_bits, mine, its))
    }


def _largest_move(mine: list[Array], its: list[Array], recipe: Recipe) -> tuple[float, int]:
    """By how much a kept row of the outputs moves, at most, and which one."""
    largest, row = 0.0, recipe.kept[0]
    for a, b in zip(mine, its, strict=True):
        if a.ndim and len(a) == len(b) == recipe.count:
            change = _change(a[recipe.kept], b[recipe.kept]).reshape(len(recipe.kept), -1)
            if change.max(initial=0.0) > largest:
                largest = float(change.max())
                row = recipe.kept[int(change.max(axis=1).argmax())]
    return largest, row


def _change(mine: Array, its: Array) -> Array:
    """The distance of two arrays, element by element; NaN beside NaN is none."""
    with np.errstate(invalid="ignore"):
        change = np.abs(mine.astype(float) - its.astype(float))
    change[np.isnan(mine.astype(float)) & np.isnan(its.astype(float))] = 0
    change[mine.astype(float) == its.astype(float)] = 0
    known: Array = np.nan_to_num(change, nan=np.inf)
    return known
