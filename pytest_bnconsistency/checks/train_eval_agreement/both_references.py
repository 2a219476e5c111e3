"""Evaluation against the population statistics of the data, and against training mode."""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.non_finite_outputs import not_finite
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement import explain as disagreement
from pytest_bnconsistency.checks.train_eval_agreement import (
    explain_by_formulas,
    explain_by_settling,
    inconclusive,
    population_reference,
    stepping,
    summary,
    tiny_batches,
    training_reference,
)
from pytest_bnconsistency.checks.train_eval_agreement.measure import measured
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import Excess, by_targets
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import Comparison
from pytest_bnconsistency.data.arrays import all_finite
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NOT_FINITE = "the outputs are NaN or Inf, under the population statistics of the data as well"


def judged(name: str, context: CheckContext, known: Estimated) -> CheckResult:
    """The answer where statistics move in training, and the model was trained."""
    m = measured(context, context.given, known, context.updates())
    known_outputs = all_finite(m.population.outputs)
    if not known_outputs and (all_finite(m.stored.outputs) or not all_finite(m.trained.outputs)):
        return not_finite(context, NOT_FINITE).inconclusive(name)
    found = population_reference.compared(context, m, known)
    worse, far = None, None
    if known_outputs:
        worse = population_reference.surely_worse(m, found)
    if worse is not None and by_targets(m.data, m.population):
        m = replace(m, loss_of=worse.quantity.of)
    if not worse:
        far = training_reference.far_though_recalibrated(context, m, known)
    finding = _finding(context, known, m, worse, far)
    steps = stepping.Stepped()
    if m.small or (finding is not None and not finding.cause_tested):
        steps = stepping.stepped(m)
    result = CheckResult(
        check=name,
        verdict=Verdict.PASSED,
        notes=(*m.data.notes, *known.notes),
        evidence={**summary.evidence_of(m, known, found), **steps.evidence},
        warnings=steps.warnings,
    )
    if finding is not None:
        return replace(result, verdict=Verdict.FAILED, findings=(finding,))
    if open_question := inconclusive.question(m, found, far):
        return open_question.left_open(result)
    return replace(result, summary=summary.passed_summary(m, found))


def _finding(
    context: CheckContext,
    known: Estimated,
    m: Measured,
    worse: Excess | None,
    far: Comparison | None,
) -> Finding | None:
    """What is surely wrong, against the one reference or the other."""
    if worse is not None and disagreement.mended_by_population(m):
        return disagreement.explain(m, inconclusive.bound(worse))
    if far is None and worse is not None:
        far = Comparison(m.stored, m.trained, [worse])
    elif far is None or not far.proven:
        return tiny_batches.found(context, known, m)
    bound, m = inconclusive.bound(far.worst), replace(m, trained=far.trained)
    return (
        explain_by_settling.explained(context, known, far, bound)
        or explain_by_formulas.explained(context, known, far, bound)
        or tiny_batches.found(context, known, m)
        or disagreement.unexplained(m, bound)
    )
