"""Batches that Hypothesis makes: the search for one that fails, shrunk, and its replay.

A batch is a recipe: rows of one kind, the rest, and a few rows among them that are others. Beside
each batch stands its reference, all of the rest and of the same shape. So the rows of the rest
must keep their bits, and the references of all sizes must agree within noise. References are run
once for each size: an example costs one forward pass.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np

from pytest_bnconsistency import libraries
from pytest_bnconsistency.checks import entry_points
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Nest, flatten, rebuild, rows_of
from pytest_bnconsistency.data.generation import Source, specs_like
from pytest_bnconsistency.data.recipes import Recipe, Row
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import counted, listed

BY_DEFAULT = 10
"""Batches that are tried where no rows were given."""
UNTRIED = "Hypothesis, which makes more batches to try, is not installed: pip install hypothesis"
FAILING = 50
"""Batches that are tried to show a failure by its simplest batch."""
SIMPLEST = "the simplest batch that fails"
LARGEST = 100.0
OTHERS = 3
"""Rows of a batch that are not like the rest."""


@dataclass(frozen=True)
class Violation:
    """What one batch does: the rules that it can break, and how to explain it."""

    recipe: Recipe
    rules: tuple[Rule, ...]
    explained: Callable[[], Finding]


class Oracle(Protocol):
    """What must hold for every batch, or a batch `breaks` one of these rules.

    The rules `among_others` are broken only by rows that stand beside unlike ones. `largest` is
    the largest number of rows to try.
    """

    context: CheckContext
    source: Source
    breaks: frozenset[str]
    among_others: frozenset[str]
    largest: int
    random: bool
    score: float

    def violation(self, recipe: Recipe) -> Violation | None: ...


def passes_of(context: CheckContext, row_by_row: Collection[int] = ()) -> dict[str, Pass]:
    """The traced passes of inference that differ, by the calls that users write."""
    same = not row_by_row and entry_points.same_in_every_layer(context)
    calls = list(entry_points.calls_of(context).items())
    return {
        name: observed(context, mode, row_by_row) for name, mode in calls[: 1 if same else None]
    }


def source_of(context: CheckContext, x: Nest) -> Source:
    """What examples are made with: the given rows, or inputs of the shapes that `x` has."""
    if context.data is not None:
        return Source(specs_like(context.data.x), context.data.x)
    specs = [
        replace(spec, shape=leaf.shape[1:])
        for spec, leaf in zip(flatten(context.specs()), flatten(x), strict=True)
    ]
    return Source(rebuild(x, specs))


def generic_row(source: Source) -> Row:
    """A row as users have them."""
    return Row("random", 1.0) if source.data is None else Row("data")


def judged(
    check: str,
    context: CheckContext,
    x: Nest,
    decide: Callable[[], CheckResult],
    kind: Callable[[CheckContext, Nest, CheckResult | None], Oracle],
) -> CheckResult:
    """The result of `decide`, and of batches for which an oracle of a `kind` must hold."""
    if context.settings.replay is not None:
        return _replayed(check, context, kind(context, x, None))
    count = _wanted(context)
    result = decide()
    if not count:
        by_default = context.data is None and context.settings.examples is None
        missing = by_default and not libraries.has("hypothesis")
        return replace(result, notes=(*result.notes, UNTRIED)) if missing else result
    oracle = kind(context, x, result)
    return result if oracle.random else _searched(check, context, oracle, result, count)


def _searched(
    check: str, context: CheckContext, oracle: Oracle, result: CheckResult, count: int
) -> CheckResult:
    # What fails is there to be found, if a pass can see it.
    broken = {f.rule for f in result.findings if not _only_in_methods(context, f)}
    shows = not broken.isdisjoint(oracle.breaks)
    search = Search(check, oracle)
    found = search.of_failure(max(count, FAILING), broken) if shows else search.run(count)
    result = replace(result, evidence={**result.evidence, "examples": search.evidence()})
    if found is not None:
        return with_violation(result, found, check, context, oracle)
    tried = sum(search.sizes.values())
    if result.verdict is not Verdict.PASSED or not tried:
        return result
    made = f"{tried} batches of up to {oracle.largest} rows"
    return replace(result, summary=f"{result.summary}; and so in {made} that Hypothesis made")


def with_violation(
    result: CheckResult, found: Violation, check: str, context: CheckContext, oracle: Oracle
) -> CheckResult:
    """The result with the batch beside the finding that it shows, or with a finding of its own."""
    ids = {rule.id for rule in found.rules}
    for index, finding in enumerate(result.findings):
        if finding.rule in ids:
            same = _with_batch(check, context, oracle, found.recipe, finding)
            findings = (*result.findings[:index], same, *result.findings[index + 1 :])
            return replace(result, findings=findings)
    shown = _with_batch(check, context, oracle, found.recipe, found.explained())
    return replace(
        result, verdict=Verdict.FAILED, findings=(*result.findings, shown), summary="", hint=""
    )


def _only_in_methods(context: CheckContext, finding: Finding) -> bool:
    """Whether only methods such as `predict` fail, which no traced pass runs."""
    fails = set(finding.evidence.get("fails", ()))
    return bool(fails) and fails.issubset(entry_points.methods_of(context))


def _wanted(context: CheckContext) -> int:
    """How many batches to try: as the user says, or few where no rows were given."""
    if context.fixed_rows is not None:
        return 0  # batches of other sizes are refused
    chosen = context.settings.examples
    if chosen is None:
        chosen = BY_DEFAULT if context.data is None and libraries.has("hypothesis") else 0
    if chosen:
        libraries.needs_hypothesis("the search for batches that fail (option examples)")
        from hypothesis import currently_in_test_context

        # The test's own examples are the search; one inside each would be quadratic.
        return 0 if currently_in_test_context() else chosen
    return 0


def _replayed(check: str, context: CheckContext, oracle: Oracle) -> CheckResult:
    recipe = Recipe.parse(context.settings.replay or "")
    found = oracle.violation(recipe)
    if found is None:
        summary = f"the property holds for the batch {str(recipe)!r}, the only one that was run"
        return CheckResult(check=check, verdict=Verdict.PASSED, summary=summary)
    finding = _with_batch(check, context, oracle, found.recipe, found.explained())
    return CheckResult(check=check, verdict=Verdict.FAILED, findings=(finding,))


def _with_batch(
    check: str, context: CheckContext, oracle: Oracle, recipe: Recipe, finding: Finding
) -> Finding:
    """The finding with a batch as words and as code; the arrays are saved on request."""
    words = str(recipe)
    data = ", data=x" if context.data is not None and recipe.uses_data else ""
    code = f"x = strategies.from_recipe(model, {words!r}{data})"
    if context.settings.save_batches is not None:
        name = f"{check}-{finding.rule}-{zlib.crc32(words.encode()):08x}.npz"
        path = Path(context.settings.save_batches) / name
        x = oracle.source.expand(recipe)
        leaves = x.items() if isinstance(x, dict) else enumerate(flatten(x))
        several = isinstance(x, dict) or len(flatten(x)) > 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{f"x_{key}" if several else "x": leaf for key, leaf in leaves})
            code += f", saved in {path}"
        except OSError as error:  # the finding counts for more than its file
            code += f", not saved in {path}: {error.strerror or error}"
    return replace(finding, recipe=words, code=code)


@dataclass
class Search:
    """Hypothesis, looking for the simplest batch that an oracle objects to."""

    check: str
    oracle: Oracle
    sizes: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    _known: dict[str, tuple[bool, float]] = field(default_factory=dict)
    _tries: Tries = field(default_factory=Tries)
    _within_budget: bool = False

    def evidence(self) -> dict[str, Any]:
        return {
            "tried": sum(self.sizes.values()),
            "sizes": dict(sorted(self.sizes.items())),
            "rows": dict(sorted(self.kinds.items())),
        }

    def of_failure(self, count: int, broken: Collection[str]) -> Violation | None:
        """The violation of the simplest batch, where it is known which rules are broken.

        What fails mostly does so in the plainest batches, so they come before Hypothesis'.
        """
        if not _phases():
            return None
        self._within_budget = True
        # What rows beside others do, their number alone doesn't.
        uniform = () if self.oracle.among_others.issuperset(broken) else self._uniform()
        return self._first([*uniform, *self._beside_others()]) or self.run(count)

    def run(self, count: int) -> Violation | None:
        """The violation of the simplest batch, if one of `count` batches has any."""
        found = self._by_hypothesis(count, _phases(shrinking=False))
        if found is None:
            return None
        self._within_budget = True
        # Shrinking ends at one of several batches that are as simple as each other, and cannot
        # leap over sizes that hold: this way it is always the same one.
        simplest = self._first(self._beside_others() if found.recipe.rows else (), found.rules)
        if simplest is None:
            found = self._by_hypothesis(count, _phases()) or found
            simplest = self._first(_fewer(found.recipe), found.rules)
        return simplest or found

    def _by_hypothesis(self, count: int, phases: Sequence[Any]) -> Violation | None:
        import hypothesis
        from hypothesis import core, errors

        if not phases:
            return None
        seed: Any = core.global_force_seed
        # The profile's database counts.
        asked = self.oracle.context.settings.examples is not None
        settings = hypothesis.settings(
            max_examples=count,
            database=hypothesis.settings().database if asked else None,
            deadline=None,
            phases=phases,
            verbosity=hypothesis.Verbosity.quiet,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        context = self.oracle.context
        inputs = [(spec.shape, spec.dtype) for spec in flatten(self.oracle.source.specs)]
        try:
            with _unalarmed(), contextlib.nullcontext() if asked else _without_a_folder():
                simplest = hypothesis.find(
                    self._recipes(),
                    self._fails,
                    settings=settings,
                    random=Random(context.settings.seed if seed is None else seed),
                    database_key=f"{self.check} {context.subject.name} {inputs}".encode(),
                )
        except errors.NoSuchExample:
            return None
        return self.oracle.violation(simplest)

    def _fails(self, recipe: Recipe) -> bool:
        import hypothesis

        kinds = sorted({row.kind for row in recipe.rows.values()})
        hypothesis.event(f"{counted(recipe.count, 'row')}, others {listed(kinds) or '-'}")
        known = str(recipe) in self._known
        if not known and self._within_budget and not self._tries.may(SIMPLEST):
            return False
        self._count(recipe)
        if not known:
            fails = self.oracle.violation(recipe) is not None
            self._known[str(recipe)] = fails, self.oracle.score
        fails, score = self._known[str(recipe)]
        hypothesis.target(score, label="largest difference over bound")
        return fails

    def _first(
        self, recipes: Iterable[Recipe], rules: tuple[Rule, ...] | None = None
    ) -> Violation | None:
        """The violation of the first of some batches that has one, of these rules if given."""
        for recipe in recipes:
            if not self._tries.may(SIMPLEST):
                return None
            self._count(recipe)
            found = self.oracle.violation(recipe)
            if found is not None and rules in (None, found.rules):
                return found
        return None

    def _count(self, recipe: Recipe) -> None:
        self.sizes[recipe.count] += 1
        self.kinds.update({row.kind for row in recipe.rows.values()})

    def _recipes(self) -> Any:
        from hypothesis import strategies as st

        from pytest_bnconsistency.strategies import arrays

        source = self.oracle.source
        data = 0 if source.data is None else rows_of(source.data)
        rest = st.sampled_from([Row(), generic_row(source)])

        @st.composite
        def recipes(draw: Callable[[Any], Any]) -> Recipe:
            count = draw(arrays.batch_sizes(self.oracle.largest))
            kind = draw(rest)
            others: dict[int, Row] = {}
            for _ in range(draw(st.integers(0, min(OTHERS, count - 1)))):
                place = count - 1 - draw(st.integers(0, count - 1))
                others[place] = draw(arrays.rows(place, LARGEST, nan=True, data=data))
            return Recipe(count, others, kind)

        return recipes()

    def _uniform(self) -> Iterator[Recipe]:
        """Batches of rows that are all alike, the smallest first."""
        for count in range(1, self.oracle.largest + 1):
            for rest in (Row(), generic_row(self.oracle.source)):
                yield Recipe(count, {}, rest)

    def _beside_others(self) -> Iterator[Recipe]:
        """The plainest batches of a row or two with another among the rest."""
        amounts = (1.0, -1.0, 10.0, -10.0, LARGEST, -LARGEST)
        others = [*(Row("constant", amount) for amount in amounts), Row(spike=math.nan)]
        for rest in (Row(), generic_row(self.oracle.source)):
            for other in others:
                for count, place in ((1, 0), (2, 1), (2, 0)):
                    yield Recipe(count, {place: other}, rest)


def _phases(*, shrinking: bool = True) -> list[Any]:
    """What Hypothesis does under the user's profile; nothing where it makes no examples."""
    import hypothesis

    phases, phase = hypothesis.settings().phases, hypothesis.Phase
    if phase.generate not in phases:
        return []
    # Explaining would only run the model more.
    without = {phase.explain} if shrinking else {phase.explain, phase.shrink}
    return [one for one in phases if one not in without]


@contextlib.contextmanager
def _without_a_folder() -> Iterator[None]:
    """Within it, Hypothesis leaves nothing in the project: nobody asked for a search."""
    from hypothesis import configuration

    before: Any = configuration.storage_directory()
    with tempfile.TemporaryDirectory() as folder:
        configuration.set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(getattr(before, "path", before))


@contextlib.contextmanager
def _unalarmed() -> Iterator[None]:
    """Within it, Hypothesis warns of nothing: by chance it takes its generator for lost.

    It looks for what holds it among objects that the collector sees, while most are frozen.
    """
    from hypothesis.errors import HypothesisWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)
        yield


def _fewer(recipe: Recipe) -> Iterator[Recipe]:
    """The same rows among fewer of the rest, the smallest batch first."""
    others = list(recipe.rows.values())
    if any(row.kind == "like" for row in others):
        return
    for count in range(len(others) + 1, recipe.count):
        yield Recipe(count, dict(enumerate(others, count - len(others))), recipe.rest)
        yield Recipe(count, dict(enumerate(others)), recipe.rest)
