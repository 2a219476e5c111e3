"""Inference changes no state, repeats itself, and means the same through every entry point."""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import owners
from pytest_bnconsistency.checks.inference_purity.agreement import Agreement, agreement
from pytest_bnconsistency.checks.inference_purity.faults import not_repeatable, state_moves
from pytest_bnconsistency.checks.inference_purity.runs import Runs, run_all
from pytest_bnconsistency.checks.inference_purity.search import searched
from pytest_bnconsistency.checks.non_finite_outputs import not_finite
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Nest, is_float, map_nest, rows_of
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.rounding_noise import NOISE_DOMINATED
from pytest_bnconsistency.results import CheckResult, Verdict
from pytest_bnconsistency.words import counted, listed

NAME = "inference_purity"
LARGER = 100
"""Times by which rows are enlarged, to exceed what a layer has seen."""
NOISE_DOMINATED_NOTE = (
    f"rounding alone moves the outputs by more than {NOISE_DOMINATED:g} of their scale: entry "
    "points may differ by as much"
)


def check(context: CheckContext) -> CheckResult:
    x = context.sample()
    with preserve_state(context.subject):
        result = searched(context, x, lambda: _decide(context, x))
        if result.verdict is Verdict.PASSED and _may_write(context):
            return _on_larger_rows(context, x) or result
        return result


def _may_write(context: CheckContext) -> bool:
    """Whether inference holds writes to the state of layers, though these rows moved none."""
    seen = observed(context, False)
    if not (seen.is_traced and seen.written):  # as a rule
        return False
    owned = owners(context, seen)
    return any(id(variable) in owned for variable in seen.written)


def _on_larger_rows(context: CheckContext, x: Nest) -> CheckResult | None:
    """The failure on rows beyond those that were seen, as a running maximum has; else None."""
    larger = map_nest(lambda leaf: LARGER * leaf if is_float(leaf) else leaf, x)
    beyond = CheckContext(context.subject, None, context.settings, context.asked)
    beyond.once("sample", lambda: larger)
    try:
        result = _decide(beyond, larger)
    except RefusedError:
        return None
    note = f"the rows given move nothing; these are {LARGER} times as large"
    failed = result.verdict is Verdict.FAILED
    return replace(result, notes=(*result.notes, note)) if failed else None


def _decide(context: CheckContext, x: Nest) -> CheckResult:
    runs = run_all(context, x)
    random = not_repeatable(context, x, runs.seen)
    # Where what gives other bits is not known to draw, the rest repeated itself by luck.
    draws = bool(random) and observed(context, None).draws
    by_luck = any(found.layers for found in random) and not draws
    steady = runs.steady if draws else runs.repeating
    agreeing = Agreement() if by_luck else agreement(context, x, steady)
    findings = (*state_moves(context, runs), *random, *agreeing.wrong)
    # What does not repeat itself moves by more than rounding.
    noise_dominated = agreeing.noise_dominated and not random
    notes = (*runs.notes, *_not_compared(runs))
    notes += (NOISE_DOMINATED_NOTE,) if noise_dominated else ()
    if findings:
        return CheckResult(
            check=NAME,
            verdict=Verdict.FAILED,
            findings=findings,
            notes=notes,
            evidence=runs.evidence(),
            warnings=agreeing.meant,
        )
    if not runs.finite:
        unanswered = not_finite(context, "the outputs are NaN or Inf")
        return replace(unanswered.inconclusive(NAME), evidence=runs.evidence())
    return CheckResult(
        check=NAME,
        verdict=Verdict.PASSED,
        summary=_passed_summary(runs, agreeing, rows_of(x)),
        notes=notes,
        evidence=runs.evidence(),
        warnings=agreeing.meant,
    )


def _not_compared(runs: Runs) -> list[str]:
    if not runs.endpoints:
        return []
    what = "is a function of its own" if len(runs.endpoints) == 1 else "are functions of their own"
    return [f"{listed(runs.endpoints)} {what}: not compared with the others"]


def _passed_summary(runs: Runs, agreeing: Agreement, rows: int) -> str:
    layers = len(set(runs.owner_of.values()))
    summary = f"{_what_passed(runs, layers)} on {rows} rows"
    if agreeing.meant:
        summary += f", but for what {listed([f.layer for f in agreeing.meant])} adds"
    return summary


def _what_passed(runs: Runs, layers: int) -> str:
    names, variables, one = runs.names, len(runs.owned), len(runs.names) == 1
    said = [f"{'gives' if one else 'give'} the same bits twice"]
    if variables:
        owned = f"{counted(variables, 'variable')} of {counted(layers, 'layer')} as they are"
        said.insert(0, f"{'leaves' if one else 'leave'} {owned}")
    if len(runs.names) - len(runs.endpoints) > 1:
        said.append("agree within the noise bound")
    return f"{listed(names)} {listed(said)}"
