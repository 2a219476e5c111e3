"""Inference changes no state, repeats itself, and means the same through every entry point."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import Case
from pytest_bnconsistency.checks.compiled_before import CompiledBefore, compiled_before
from pytest_bnconsistency.checks.entry_points import (
    WHOLE,
    Entry,
    calls_of,
    entry,
    first_rows,
    held_variables,
    is_random,
    measured_noise,
    methods_of,
    moves_layers,
    owners,
    rows_between,
    run_anew,
    traced_entry,
)
from pytest_bnconsistency.checks.inference_purity import explain as inference
from pytest_bnconsistency.checks.inference_purity.explain import (
    Called,
    Cause,
    Runner,
    refusing,
    sets_apart,
)
from pytest_bnconsistency.checks.inference_purity.search import searched
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Array, Nest, all_finite, rows_of
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.observations import has_rows, same_outputs
from pytest_bnconsistency.execution.state import Variables, preserve_state
from pytest_bnconsistency.measurement import rounding_noise as noise
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.models.base import set_batch
from pytest_bnconsistency.models.held_objects import is_of_library
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.words import counted, first_line, listed

EVALUATED = 32
DATASET = "predict(dataset)"
NAME = "inference_purity"
DROWNED_NOTE = (
    f"rounding alone moves the outputs by more than {noise.DROWNED:g} of their scale: entry "
    "points may differ by as much"
)


@dataclass(frozen=True)
class Seen:
    """One entry point: its outputs, whether they repeat, the variables that moved.

    What it `raised` on rows that inference takes stands in place of outputs. Of `evaluate`, and
    of the data set, which `predict` runs as it runs arrays, it is taken for granted that they
    repeat.
    """

    name: str
    outputs: list[Array]
    repeats: bool
    moved: tuple[Any, ...]
    raised: str = ""


def check(case: Case) -> CheckResult:
    x = case.sample()
    with preserve_state(case.subject):
        return searched(case, x, lambda: _decide(case, x))


def _decide(case: Case, x: Nest) -> CheckResult:
    held_by = owners(case, observed(case, x, False))
    # Metrics and the states of seed generators may move: no layer holds them as its own.
    held = [v for v in held_variables(case, x) if id(v) in held_by]
    names = [*methods_of(case), *reversed(calls_of(case))]
    seen, notes = list[Seen](), list[str]()
    if DATASET in names and not _joins(case, x):
        names.remove(DATASET)
        notes.append(f"not run: {DATASET}, as outputs of batches of unlike sizes can't be joined")
    for name in names:
        try:
            seen.append(_seen(case, x, name, held_by))
        except RefusedError as error:
            note = _no_fault(case, x, name, error)
            if note:
                notes.append(f"not run: {note}")
            else:
                kind = type(error.refusal).__name__
                raised = f"raises {kind}: {first_line(error)[:120]}"
                seen.append(Seen(name, [], True, (), raised))
    names = [s.name for s in seen]
    if _can_evaluate(case):
        seen.append(_evaluated(case, held))
    # A data set runs once, through the first way to predict.
    first = next((s for s in seen if s.name != DATASET), None)
    alike = [
        s
        for s in seen
        if s.repeats and not s.moved and (s.name != DATASET or first is None or first.repeats)
    ]
    wrong, meant = _agreement(case, x, alike, notes)
    random = _repeatability(case, x, seen)
    if random and DROWNED_NOTE in notes:
        notes.remove(DROWNED_NOTE)  # what does not repeat itself moves by more than rounding
    findings = (*_state(case, x, seen, held_by), *random, *wrong)
    evidence = {
        "entry_points": {
            s.name: {"repeats": s.repeats, "moved": sorted({held_by[id(v)] for v in s.moved})}
            for s in seen
        },
    }
    if findings:
        return CheckResult(
            check=NAME,
            verdict=Verdict.FAILED,
            findings=findings,
            notes=tuple(notes),
            evidence=evidence,
            warnings=meant,
        )
    if not all(all_finite(s.outputs) for s in seen):
        return CheckResult(
            check=NAME,
            verdict=Verdict.VACUOUS,
            summary="the outputs are NaN or Inf",
            hint="statistics_health says whether stored statistics are at fault",
            evidence=evidence,
        )
    summary = f"{_what_held(names, len(held), len(set(held_by.values())))} on {rows_of(x)} rows"
    if meant:
        summary += f", but for what {listed([finding.layer for finding in meant])} adds"
    return CheckResult(
        check=NAME,
        verdict=Verdict.PASSED,
        summary=summary,
        notes=tuple(notes),
        evidence=evidence,
        warnings=meant,
    )


def _what_held(names: list[str], variables: int, layers: int) -> str:
    one = len(names) == 1
    said = [f"{'gives' if one else 'give'} the same bits twice"]
    if variables:
        held = f"{counted(variables, 'variable')} of {counted(layers, 'layer')} as they are"
        said.insert(0, f"{'leaves' if one else 'leave'} {held}")
    if not one:
        said.append("agree within the noise bound")
    return f"{listed(names)} {listed(said)}"


def _can_evaluate(case: Case) -> bool:
    """Whether there are targets for the model's own evaluation, for as many rows as it takes."""
    if case.data is None or case.data.y is None or not case.subject.compiled:
        return False
    return case.data.rows >= (case.fixed_rows or 1)


def _joins(case: Case, x: Nest) -> bool:
    """Whether outputs of batches as those of the data set have the rows first, and one shape."""
    way = traced_entry(case, x, False)
    try:
        batches = [way.run(WHOLE, x).outputs, *_batches(case, way, x)]
    except RefusedError:
        return True  # what the data set refuses is told by its own run
    shapes = [[output.shape[1:] for output in outputs] for outputs in batches]
    return has_rows(batches[0], x) and all(shape == shapes[0] for shape in shapes)


def _no_fault(case: Case, x: Nest, name: str, error: RefusedError) -> str:
    """Why an entry point may raise what it does, "" if it should not.

    Raises:
        RefusedError: inference refuses the rows as well.
    """
    own = name.partition("(")[0] in case.subject.own_inference()
    refused = _refuses(case, x, name)
    if own or (refused and name == DATASET):
        return str(error)
    if refused:
        raise error
    if _runs_in_single_steps(case, x, name):
        return (
            f"{name}, which the library does not run with steps_per_execution="
            f"{case.subject.steps_at_once}; with 1 it runs"
        )
    return ""


def _runs_in_single_steps(case: Case, x: Nest, name: str) -> bool:
    """Whether it is not the model that refuses, but its library, to run several steps at once."""
    if case.subject.steps_at_once == 1:
        return False
    try:
        with preserve_state(case.subject), case.subject.single_steps():
            case.subject.entries()[name](x)
    except RefusedError:
        return False
    return True


def _refuses(case: Case, x: Nest, name: str) -> bool:
    """Whether inference refuses the batches that an entry point runs, too."""
    way = traced_entry(case, x, False)
    try:
        _batches(case, way, x) if name == DATASET else way.run(WHOLE, x)
    except RefusedError:
        return True
    return False


def _seen(case: Case, x: Nest, name: str, held_by: dict[int, str]) -> Seen:
    way = entry(case, x, name)
    first = way.run(WHOLE, x)
    moved = tuple(v for v in first.moved if id(v) in held_by)
    return Seen(name, first.outputs, name == DATASET or _repeats(case, x, way), moved)


def _repeats(case: Case, x: Nest, way: Entry) -> bool:
    """Whether the same rows give the same bits a second time, through the entry point or another.

    Another one counts where nothing draws random numbers and no state moves that inference reads:
    a trace would hold layers still that draw, and each run begins with the same state.
    """
    traced = traced_entry(case, x, False)
    drawing, mine = not observed(case, x, False).deterministic, way.run(WHOLE, x)
    if is_random(case, x, way):
        return False
    if not (drawing or moves_layers(case, x, mine)):
        calls = calls_of(case)
        others = [traced]
        if way.name in calls:
            others += [entry(case, x, name) for name in calls if name != way.name]
        if any(same_outputs(mine.outputs, other.run(WHOLE, x).outputs) for other in others):
            return True
    first, second = way.twice(WHOLE, x)
    return same_outputs(first.outputs, second.outputs)


def _evaluated(case: Case, held: list[Any]) -> Seen:
    before = Variables(held)
    try:
        return Seen("evaluate", _scores(case), True, tuple(before.moved()))
    finally:
        before.restore()


def _state(case: Case, x: Nest, seen: list[Seen], held_by: dict[int, str]) -> list[Finding]:
    """A finding for each cause that has entry points move state."""
    calls, still = calls_of(case), [s.name for s in seen if not s.moved]
    # What runs the same code moves the same state: the calls one by one, the ways to predict.
    kinds: dict[str, list[Seen]] = {}
    for s in seen:
        kind = s.name if s.name in calls or s.name == "evaluate" else "predict"
        if s.moved:
            kinds.setdefault(kind, []).append(s)
    found: dict[Cause, list[Seen]] = {}
    for alike in kinds.values():
        runner = _runner(case, x, alike[0].name)
        cause = inference.moves_because(case.subject, runner, alike[0].moved, held_by)
        found.setdefault(cause, []).extend(alike)
    findings = []
    for cause, moving in found.items():
        ids = {id(v) for s in moving for v in s.moved}
        layers = list(dict.fromkeys(path for key, path in held_by.items() if key in ids))
        findings.append(inference.state_moves(cause, layers, [s.name for s in moving], still))
    return findings


def _runner(case: Case, x: Nest, name: str) -> Runner:
    """The entry point of that name, to be run anew on the rows that it runs on here."""
    held = held_variables(case, x)
    if name == "evaluate":
        return Runner(lambda: _evaluated_anew(case), case.subject.own_evaluation(), held)
    own = [] if name in calls_of(case) else case.subject.own_inference()
    return Runner(lambda: run_anew(case, x, name), own, held)


def _evaluated_anew(case: Case) -> list[Array]:
    case.subject.compile_anew()
    return _scores(case)


def _scores(case: Case) -> list[Array]:
    assert case.data is not None
    size = case.fixed_rows or EVALUATED
    scores = case.subject.evaluate(case.data.take(slice(0, size)), size)
    return [np.array(list(scores.values()))]


def _repeatability(case: Case, x: Nest, seen: list[Seen]) -> list[Finding]:
    if all(s.repeats for s in seen):
        return []
    told, default = calls_of(case), observed(case, x, None)
    # What moves state starts from another one the second time.
    drawing = default.draws
    random = [s.name for s in seen if not s.repeats and (drawing or not s.moved)]
    if not random:
        return []
    mode = next((told[name] for name in random if name in told), False)
    return [inference.not_repeatable(case.subject, x, default, random, mode)]


def _agreement(
    case: Case, x: Nest, seen: list[Seen], notes: list[str]
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """What sets entry points apart from inference: faults, and what the model's own code adds."""
    reference = traced_entry(case, x, False)
    traced = reference.observed
    if traced is None or traced.draws:
        # The trace holds layers still that draw random numbers.
        reference = entry(case, x, case.subject.spelled(False))
        if all(s.name != reference.name for s in seen):
            return (), ()
    if not all_finite(reference.run(WHOLE, x).outputs):
        return (), ()  # an overflow comes and goes with rounding
    calls, found = calls_of(case), dict[Cause, dict[str, str]]()
    in_trace = reference.observed is not None and reference.observed.is_traced
    for other in seen:
        if other.name in ("evaluate", reference.name):
            continue
        expected = (
            reference.run(WHOLE, x).outputs
            if other.name != DATASET
            else _in_batches(case, reference, x)
        )
        known = measured_noise(case, x)
        unlike = functools.partial(_unlike, known, rows_of(x), reference.name, expected, notes)
        how = other.raised or unlike(other.outputs)
        if how:
            runner = _runner(case, x, other.name)
            called = None
            if in_trace and other.name in calls:
                called = Called(x, calls[other.name])
            cause = sets_apart(case.subject, runner, unlike, called)
            if other.raised:
                cause = refusing(cause)
            found.setdefault(cause, {})[other.name] = how
        elif (
            in_trace
            and other.name == case.subject.spelled(False)
            and (after := _after_another(case, x, reference, notes))
        ):
            found.setdefault(after[0], {})[other.name] = after[1]
    for compiled in compiled_before(case, x):
        if disagreeing := _as_compiled(case, x, compiled, reference.name, notes):
            found.setdefault(disagreeing[0], {})[compiled.name] = disagreeing[1]
    bound = (
        f"{2 * noise.MULTIPLE:g} noise floors, half of them for each side, measured on this model"
    )
    compared, arrays = {s.name for s in seen}, next(iter(case.subject.entries()), "")
    wrong, meant = list[Finding](), list[Finding]()
    for cause, apart in found.items():
        alike = DATASET not in compared or (arrays in apart) is (DATASET in apart)
        kind = meant if cause.intended and alike else wrong
        kind.append(inference.disagree(cause, apart, reference.name, bound))
    return tuple(wrong), tuple(meant)


def _as_compiled(
    case: Case, x: Nest, compiled: CompiledBefore, reference: str, notes: list[str]
) -> tuple[Cause, str] | None:
    """Why, and how far, what `predict` was compiled for before the check is off inference."""
    rows = compiled.rows
    try:
        if compiled.as_checked:
            way, known = traced_entry(case, x, False), measured_noise(case, x)
            expected = way.run(f"rows as in {compiled.name}", rows).outputs
        else:
            other = Pass(case.subject, rows, training=False)
            expected, known = other.run(rows).outputs, Noise(other, rows)
        outputs = compiled.run()
    except RefusedError:
        return None
    unlike = functools.partial(_unlike, known, rows_of(rows), reference, expected, notes)
    if not all_finite(expected) or not (how := unlike(outputs)):
        return None
    own = case.subject.own_inference()
    runner = Runner(compiled.compiled_again, own, compiled.held)
    return sets_apart(case.subject, runner, unlike, None), how


def _after_another(
    case: Case, x: Nest, reference: Entry, notes: list[str]
) -> tuple[Cause, str] | None:
    """Why, and how far, inference outside of a trace is off right after a call with other rows.

    What code of the user's keeps from one call to the next, a cache or a carried state, mostly
    hangs on the shape: so both calls have as many rows.
    """
    traced, half = reference.observed, rows_of(x) // 2
    assert traced is not None
    layers = [*case.subject.layers(), *(call.layer for call in traced.calls)]
    if case.fixed_rows is not None or all(map(is_of_library, layers)):
        return None
    called = entry(case, x, case.subject.spelled(False))
    batch, others = rows_between(x, half, 2 * half)
    expected = reference.run(batch, others)
    try:
        called.call(first_rows(x, half), False)
        after = called.call(others, False)
        known = measured_noise(case, x)
        how = _unlike(known, rows_of(x), reference.name, expected.outputs, notes, after.outputs)
    except RefusedError:
        return None
    if not how:
        return None
    pairs = zip(traced.calls, expected.records, after.records, strict=False)
    apart = (call.label for call, mine, its in pairs if not same_outputs(mine or [], its or []))
    return inference.remembering(next(apart, "")), f"{how}, right after a call with other rows"


def _in_batches(case: Case, way: Entry, x: Nest) -> list[Array]:
    """What an entry point gives for batches as those of the data set, put together."""
    return [np.concatenate(outputs) for outputs in zip(*_batches(case, way, x), strict=True)]


def _batches(case: Case, way: Entry, x: Nest) -> list[list[Array]]:
    rows, size = rows_of(x), set_batch(case.subject, x)
    batches = [rows_between(x, start, min(start + size, rows)) for start in range(0, rows, size)]
    return [way.run(*batch).outputs for batch in batches]


def _unlike(
    known: Noise,
    count: int,
    reference: str,
    expected: list[Array],
    notes: list[str],
    outputs: list[Array],
) -> str:
    """How far outputs are from those expected of `count` rows, if noise does not explain it."""
    for index, (mine, its) in enumerate(zip(outputs, expected, strict=False)):
        if mine.shape != its.shape:
            return f"gives shape {mine.shape}, {reference} gives {its.shape}"
        by_row = mine.ndim > 0 and len(mine) <= count
        # Each side has noise of its own: eager and graph, fused and not.
        if by_row:
            moved = known.compare(index, mine, its, np.arange(len(mine)), sides=2)
        else:
            moved = known.compare_whole(index, mine, its, sides=2)
        if moved is not None and moved.drowned and DROWNED_NOTE not in notes:
            notes.append(DROWNED_NOTE)
        if moved is not None and moved.beyond:
            where = f" in row {moved.row}" if by_row else ""
            return (
                f"is {moved.change:.3g} away from {reference}{where}; noise explains "
                f"{moved.bound:.3g}"
            )
    return ""
