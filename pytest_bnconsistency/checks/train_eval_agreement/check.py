"""With the same weights and data, evaluation says what training said.

There are two references: the model under the population statistics of the given data, and what it
says in training mode, whatever the batches. Evaluation fails if it is worse than one of them by
more than the practical tolerance and by more than chance, and passes if harm would have shown.
Between these it is inconclusive.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.evaluated_rows import as_evaluated, prepared_by_evaluation_only
from pytest_bnconsistency.checks.population_statistics import Estimated, estimated
from pytest_bnconsistency.checks.train_eval_agreement import explain as disagreement
from pytest_bnconsistency.checks.train_eval_agreement import (
    explain_by_formulas,
    explain_by_mode,
    inconclusive,
    never_updated,
    planned_updates,
    population_reference,
    prepared_rows,
    stepping,
    stopped,
    summary,
    training_reference,
)
from pytest_bnconsistency.checks.train_eval_agreement.measure import measured
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import Excess
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import Comparison
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.arrays import all_finite
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.accepted_sizes import only_size
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NAME = "train_eval_agreement"
ONE_ROW = Unanswered(
    "one row has no batch statistics worth the name",
    "give at least two rows, better a few hundred",
)
NOT_FINITE = Unanswered(
    "the outputs are NaN or Inf, under the population statistics of the data as well",
    "look for NaN in the weights",
)


def check(context: CheckContext) -> CheckResult:
    if context.data is None:
        if context.asked:
            raise DataError(
                "train_eval_agreement needs data and got none; give training data as x, and y "
                "for loss and metrics, or --bn-data"
            )
        return Unanswered("needs training data", "give x and y, or --bn-data").not_applicable(NAME)
    if context.data.rows < 2:
        return ONE_ROW.inconclusive(NAME)
    if context.subject.modeless:
        return Unanswered(context.subject.modeless, "give f(x, training=...)").not_applicable(NAME)
    if refusal := only_size(context.subject):
        return Unanswered(refusal).not_applicable(NAME)
    evaluated = as_evaluated(context)
    with preserve_state(context.subject):
        result = _decide(evaluated, estimated(evaluated))
        if prepared_by_evaluation_only(context):
            return prepared_rows.judged(context, evaluated, result)
        return result


def _decide(context: CheckContext, known: Estimated) -> CheckResult:
    layers, planned = never_updated.layers(context, known), context.settings.planned_updates
    if not layers.every:
        return explain_by_mode.judged(NAME, context, known)
    if planned is not None and (layers.fresh or not context.updates()):
        return planned_updates.judged(NAME, layers.reached, planned)
    if layers.fresh:
        return never_updated.judged(NAME, context, layers)
    if not layers.tracked:
        return stopped.judged(NAME, context, known, layers)
    result = _compared(context, known)
    if planned is None:
        return result
    warnings = planned_updates.warnings(layers.reached, planned)
    return replace(result, warnings=(*warnings, *result.warnings))


def _compared(context: CheckContext, known: Estimated) -> CheckResult:
    m = measured(context, context.given, known, context.updates())
    if not (all_finite(m.population.outputs) or all_finite(m.trained.outputs)):
        return NOT_FINITE.inconclusive(NAME)
    found = population_reference.compared(context, m, known)
    worse, far = None, None
    if all_finite(m.population.outputs):
        worse = population_reference.surely_worse(m, found)
    if not worse:
        far = training_reference.far_though_recalibrated(context, m, known)
    finding = _finding(context, known, m, worse, far)
    steps = stepping.Stepped()
    if m.small or (finding is not None and not finding.cause_tested):
        steps = stepping.stepped(m)
    result = CheckResult(
        check=NAME,
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
        return None
    bound = inconclusive.bound(far.worst)
    by_formulas = explain_by_formulas.explained(context, known, far, bound)
    return by_formulas or disagreement.unexplained(m, bound)
