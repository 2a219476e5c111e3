"""Steps of the model's own that prepare the rows otherwise in training than in evaluation."""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import inference_pass
from pytest_bnconsistency.checks.prepared_rows import Prepared
from pytest_bnconsistency.checks.train_eval_agreement.measure import evaluated
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import loss_units
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import UNMENDED
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.compared_outputs import number
from pytest_bnconsistency.results import CheckResult, Explanation, Verdict
from pytest_bnconsistency.rules import catalogue as rules


def judged(context: CheckContext, prepared: Prepared, result: CheckResult) -> CheckResult:
    """`result` is of the rows as training has them; the user's evaluation may say far worse."""
    if result.verdict is Verdict.FAILED:
        return result
    size, trained = context.settings.batch_size, prepared.context
    with preserve_state(context.subject):
        said = evaluated(trained, trained.given, inference_pass(trained), size)
        theirs = context.subject.evaluate(context.given, size).get("loss")
    if said.loss is None or theirs is None:
        return result
    unit = loss_units(trained, trained.given, said).get("loss")
    if unit is None or theirs - said.loss <= UNMENDED * unit:
        return result
    finding = rules.SHIFT.finding(
        layer="the whole model",
        message=f"evaluate disagrees with train: loss {number(theirs)} against "
        f"{number(said.loss)} ({context.given.rows} rows)",
        explanation=Explanation(
            cause=_cause(prepared),
            tested=f"on the rows as training gives them, the model has a loss of "
            f"{number(said.loss)} in inference mode",
            remedy=_remedy(prepared),
            established=True,
        ),
        bound=f"fails with a loss more than {number(UNMENDED * unit)} above that of the rows "
        "of training",
        evidence={"evaluation": theirs, "rows_of_training": said.loss},
    )
    return replace(result, verdict=Verdict.FAILED, findings=(finding,), summary="", hint="")


def _cause(prepared: Prepared) -> str:
    how = " by the numbers of their batch" if prepared.by_batch else ""
    if not prepared.by_training:
        return (
            "the model's own test_step prepares the rows; training gives them to the model as "
            "they are"
        )
    if prepared.by_evaluation:
        return f"train_step prepares the rows{how}, and test_step prepares them otherwise"
    return (
        f"the model's own train_step prepares the rows{how}; evaluation gives them to the model "
        "as they are"
    )


def _remedy(prepared: Prepared) -> str:
    if prepared.by_batch:
        return (
            "prepare the rows in a layer of the model, by statistics of the training data: "
            "Normalization after adapt(), or BatchNormalization"
        )
    return "prepare the rows in both steps alike, best in a layer of the model"
