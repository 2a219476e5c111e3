"""Whether entry points say what inference in a trace says, within the noise of both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.compiled_before import CompiledBefore, compiled_before
from pytest_bnconsistency.checks.entry_points import (
    WHOLE,
    Entry,
    calls_of,
    entry,
    measured_noise,
    rows_between,
    runs_own_code,
    traced_entry,
)
from pytest_bnconsistency.checks.inference_purity import explain_disagreement as explain
from pytest_bnconsistency.checks.inference_purity.explain_disagreement import Called
from pytest_bnconsistency.checks.inference_purity.runs import Kind, Seen, batches_of, runner_of
from pytest_bnconsistency.checks.inference_purity.undoing import Cause, Runner
from pytest_bnconsistency.data.arrays import Array, Nest, all_finite, rows_of, take_rows
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.measurement import rounding_noise
from pytest_bnconsistency.measurement.rounding_noise import Moved, Noise
from pytest_bnconsistency.results import Finding

BOUND = (
    f"{2 * rounding_noise.MULTIPLE:g} noise floors, half of them for each side, measured on this "
    "model"
)


@dataclass(frozen=True)
class Agreement:
    """What sets entry points apart from inference: faults, and what the model's own code adds.

    `noise_dominated` says that rounding alone may move outputs that were compared by as much as
    fails.
    """

    wrong: tuple[Finding, ...] = ()
    meant: tuple[Finding, ...] = ()
    noise_dominated: bool = False


@dataclass
class _Unlike:
    """Tells how far outputs are from those `expected` of `count` rows, if beyond noise.

    `first` is the place of the first of these rows among those of the noise.
    """

    noise: Noise
    count: int
    reference: str
    expected: list[Array]
    first: int = 0
    noise_dominated: bool = False

    def __call__(self, outputs: list[Array]) -> str:
        for index, (mine, its) in enumerate(zip(outputs, self.expected, strict=False)):
            if mine.shape != its.shape:
                return f"gives shape {mine.shape}, {self.reference} gives {its.shape}"
            by_row = mine.ndim > 0 and len(mine) <= self.count
            moved = self._moved(index, mine, its, by_row)
            if moved is None:
                continue
            self.noise_dominated |= moved.noise_dominated
            if moved.beyond:
                where = f" in row {moved.row}" if by_row else ""
                return (
                    f"is {moved.change:.3g} away from {self.reference}{where}; noise explains "
                    f"{moved.bound:.3g}"
                )
        return ""

    def _moved(self, index: int, mine: Array, its: Array, by_row: bool) -> Moved | None:
        # Each side has noise of its own: eager and graph, fused and not.
        if by_row:
            rows = self.first + np.arange(len(mine))
            return self.noise.compare(index, mine, its, rows, sides=2)
        return self.noise.compare_whole(index, mine, its, sides=2)


@dataclass(frozen=True)
class _Disagreement:
    """Why, and how far, an entry point is off inference."""

    name: str
    cause: Cause
    how: str


def agreement(context: CheckContext, x: Nest, seen: Sequence[Seen]) -> Agreement:
    """`seen` are those that repeat themselves and move nothing."""
    reference = _reference(context)
    if reference.observed is None and all(s.name != reference.name for s in seen):
        return Agreement()
    if not all_finite(reference.run(WHOLE, x).outputs):
        return Agreement()  # an overflow comes and goes with rounding
    comparing = _Comparing(context, x, reference)
    found: dict[Cause, dict[str, str]] = {}
    for by_name in comparing.all(seen):
        found.setdefault(by_name.cause, {})[by_name.name] = by_name.how
    dataset = next((s.name for s in seen if s.kind is Kind.IN_BATCHES), None)
    arrays = next(iter(context.subject.entries()), "")
    wrong, meant = list[Finding](), list[Finding]()
    for cause, names in found.items():
        alike = dataset is None or (arrays in names) is (dataset in names)
        kind = meant if cause.intended and alike else wrong
        kind.append(explain.disagree(cause, names, reference.name, BOUND))
    return Agreement(tuple(wrong), tuple(meant), comparing.noise_dominated)


def _reference(context: CheckContext) -> Entry:
    """Inference in a trace; outside of one where the trace holds layers still that draw."""
    traced = traced_entry(context, False)
    if traced.observed is None or traced.observed.draws:
        return entry(context, context.subject.call_text(False))
    return traced


class _Comparing:
    """Compares entry points with one of them, the `reference`, on the rows `x`."""

    def __init__(self, context: CheckContext, x: Nest, reference: Entry) -> None:
        self.context, self.x, self.reference = context, x, reference
        seen = reference.observed
        self._traced = seen if seen is not None and seen.is_traced else None
        self._made: list[_Unlike] = []

    @property
    def noise_dominated(self) -> bool:
        return any(unlike.noise_dominated for unlike in self._made)

    def all(self, seen: Sequence[Seen]) -> Iterator[_Disagreement]:
        for other in seen:
            if other.kind not in (Kind.EVALUATION, Kind.ENDPOINT):
                yield from self._entry(other)
        for compiled in compiled_before(self.context, self.x):
            yield from self._compiled(compiled)

    def _unlike(self, noise: Noise, rows: Nest, expected: list[Array], first: int = 0) -> _Unlike:
        count = rows_of(rows)
        self._made.append(_Unlike(noise, count, self.reference.name, expected, first))
        return self._made[-1]

    def _entry(self, other: Seen) -> Iterator[_Disagreement]:
        context, x, calls = self.context, self.x, calls_of(self.context)
        if other.name == self.reference.name:
            return
        try:
            expected = (
                _in_batches(context, self.reference, x)
                if other.kind is Kind.IN_BATCHES
                else self.reference.run(WHOLE, x).outputs
            )
        except RefusedError:
            return  # what it refuses in batches, nothing can be compared with
        unlike = self._unlike(measured_noise(context), x, expected)
        if how := other.raised or unlike(other.outputs):
            mode = calls.get(other.name, False)
            outside = self._traced and (other.name in calls or self._as_outside(other))
            called = Called(x, mode) if outside else None
            runner = runner_of(context, other)
            cause = explain.disagreement_cause(context.subject, runner, unlike, called)
            yield _Disagreement(
                other.name, explain.refusing(cause) if other.raised else cause, how
            )
        elif self._traced and other.name == context.subject.call_text(False):
            yield from self._after_another(other.name, self._traced)

    def _as_outside(self, other: Seen) -> bool:
        """Whether it gives what the call gives outside of a trace, as where it runs eagerly."""
        called = entry(self.context, self.context.subject.call_text(False))
        if other.kind is Kind.IN_BATCHES:
            return same_outputs(_in_batches(self.context, called, self.x), other.outputs)
        return same_outputs(called.run(WHOLE, self.x).outputs, other.outputs)

    def _compiled(self, compiled: CompiledBefore) -> Iterator[_Disagreement]:
        """What `predict` was compiled for before the check."""
        context, rows = self.context, compiled.rows
        try:
            if compiled.as_checked:
                traced, noise = traced_entry(context, False), measured_noise(context)
                expected = traced.run(f"rows as in {compiled.name}", rows).outputs
            else:
                other = Pass(context.subject, rows, training=False)
                expected, noise = other.run(rows).outputs, Noise(other, rows)
            outputs = compiled.run()
        except RefusedError:
            return
        unlike = self._unlike(noise, rows, expected)
        if all_finite(expected) and (how := unlike(outputs)):
            runner = Runner(
                compiled.compiled_again, context.subject.own_inference(), compiled.may_change
            )
            cause = explain.disagreement_cause(context.subject, runner, unlike, None)
            yield _Disagreement(compiled.name, cause, how)

    def _after_another(self, name: str, traced: Pass) -> Iterator[_Disagreement]:
        """Inference outside of a trace, right after a call with other rows.

        What code of the user's keeps from one call to the next, a cache or a carried state, mostly
        hangs on the shape: so both calls have as many rows.
        """
        context, x, half = self.context, self.x, rows_of(self.x) // 2
        if context.fixed_rows is not None or not runs_own_code(context):
            return
        called = entry(context, name)
        batch, others = rows_between(x, half, 2 * half)
        try:
            expected = self.reference.run(batch, others)
            unlike = self._unlike(measured_noise(context), others, expected.outputs, half)
            called.call(take_rows(x, slice(half)), False)
            after = called.call(others, False)
            how = unlike(after.outputs)
        except RefusedError:
            return
        if how:
            pairs = zip(traced.calls, expected.records, after.records, strict=False)
            by_name = (
                c.label for c, mine, its in pairs if not same_outputs(mine or [], its or [])
            )
            cause = explain.remembering(next(by_name, ""))
            yield _Disagreement(name, cause, f"{how}, right after a call with other rows")


def _in_batches(context: CheckContext, entry_point: Entry, x: Nest) -> list[Array]:
    """What an entry point gives for batches as those of the data set, put together."""
    return [
        np.concatenate(outputs)
        for outputs in zip(*batches_of(context, entry_point, x), strict=True)
    ]
