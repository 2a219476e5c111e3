"""A `test_step` of the model's own that prepares the rows, where training does not."""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import inference_pass
from pytest_bnconsistency.checks.train_eval_agreement.measure import evaluated
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import loss_units
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import UNEXPLAINED
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.compared_outputs import number
from pytest_bnconsistency.results import CheckResult, Explanation, Verdict
from pytest_bnconsistency.rules import catalogue as rules


def judged(context: CheckContext, as_given: CheckContext, result: CheckResult) -> CheckResult:
    """`result` is of the rows as given; what the user's own evaluation says may be far worse."""
    if result.verdict is Verdict.FAILED:
        return result
    size = context.settings.batch_size
    with preserve_state(context.subject):
        said = evaluated(as_given, as_given.given, inference_pass(as_given), size)
        theirs = context.subject.evaluate(context.given, size).get("loss")
    if said.loss is None or theirs is None:
        return result
    unit = loss_units(as_given, as_given.given, said).get("loss")
    if unit is None or theirs - said.loss <= UNEXPLAINED * unit:
        return result
    finding = rules.SHIFT.finding(
        layer="the whole model",
        message=f"evaluate disagrees with train: loss {number(theirs)} against "
        f"{number(said.loss)} ({context.given.rows} rows)",
        explanation=Explanation(
            cause="the model's own test_step prepares the rows; train_step gives them to the "
            "model as they are",
            tested=f"as they are given, without test_step, the model has a loss of "
            f"{number(said.loss)} in inference mode",
            remedy="prepare the rows in both steps alike, best in a layer of the model",
            established=True,
        ),
        bound=f"fails with a loss more than {number(UNEXPLAINED * unit)} above that of the rows "
        "as given",
        evidence={"evaluation": theirs, "rows_as_given": said.loss},
    )
    return replace(result, verdict=Verdict.FAILED, findings=(finding,), summary="")
