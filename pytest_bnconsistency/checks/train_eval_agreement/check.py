"""With the same weights and data, evaluation says what training said.

There are two references: the model under the population statistics of the given data, and what it
says in training mode, whatever the batches. Evaluation fails if it is worse than one of them by
more than the practical tolerance and by more than chance, and passes if harm would have shown.
Between these it is inconclusive.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.non_finite_outputs import (
    has_finite_outputs,
    not_finite,
    spoilt_weights,
)
from pytest_bnconsistency.checks.population_statistics import Estimated, estimated
from pytest_bnconsistency.checks.prepared_rows import as_trained
from pytest_bnconsistency.checks.train_eval_agreement import (
    both_references,
    explain_by_mode,
    never_updated,
    only_in_evaluation,
    planned_updates,
    steps_unlike,
    stopped,
)
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.results import CheckResult, Verdict

NAME = "train_eval_agreement"
ROWLESS = Unanswered(
    "no output says something of each row",
    "give a model, or a function around it, whose outputs have the rows first",
)
ONE_ROW = Unanswered(
    "one row has no batch statistics worth the name",
    "give at least two rows, better a few hundred",
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
    if context.only_size:
        return Unanswered(context.only_size).not_applicable(NAME)
    if spoilt_weights(context.subject) and not has_finite_outputs(context):
        return not_finite(context, "the outputs are NaN or Inf").inconclusive(NAME)
    prepared = as_trained(context)
    with preserve_state(context.subject):
        result = _decide(prepared.context, estimated(prepared.context))
    return result if prepared.alike else steps_unlike.judged(context, prepared, result)


def _decide(context: CheckContext, known: Estimated) -> CheckResult:
    if not (known.seen[0].outputs if known.seen else known.training.over([known.batches[0]])):
        return ROWLESS.inconclusive(NAME)
    if (finding := only_in_evaluation.found(context, known)) is not None:
        return CheckResult(check=NAME, verdict=Verdict.FAILED, findings=(finding,))
    layers, planned = never_updated.layers(context, known), context.settings.planned_updates
    if not layers.every:
        return explain_by_mode.judged(NAME, context, known)
    if planned is not None and (layers.fresh or not context.updates()):
        return planned_updates.judged(NAME, layers.reached, planned)
    if layers.fresh:
        return never_updated.judged(NAME, context, layers)
    if not layers.tracked:
        return stopped.judged(NAME, context, known, layers)
    result = both_references.judged(NAME, context, known)
    if planned is None:
        return result
    warnings = planned_updates.warnings(layers.reached, planned)
    return replace(result, warnings=(*warnings, *result.warnings))
