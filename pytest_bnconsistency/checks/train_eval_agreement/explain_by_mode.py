"""Evaluation far below training where no normalization layer is recognised."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement import (
    explain_by_formulas,
    explain_by_settling,
    inconclusive,
    training_reference,
)
from pytest_bnconsistency.checks.train_eval_agreement.summary import disagreement
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import (
    Comparison,
    Holder,
)
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.results import CheckResult, Explanation, Finding, Verdict
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

SHOWN = 3


def judged(name: str, context: CheckContext, known: Estimated) -> CheckResult:
    """The answer where training mode may hang on state, or on the batch, all the same."""
    far, data = training_reference.far_without_normalization(context, known), context.given
    if far is None:
        return _without_statistics(training_reference.moved(known)).not_applicable(name)
    if not (far.far and far.proven):
        return inconclusive.by_training(far, data).inconclusive(name)
    bound = inconclusive.bound(far.worst)
    finding = explain_by_settling.explained(context, known, far, bound)
    finding = finding or explain_by_formulas.explained(context, known, far, bound)
    finding = finding or _finding(far, data, bound)
    return CheckResult(check=name, verdict=Verdict.FAILED, findings=(finding,), notes=data.notes)


def _without_statistics(moved: Sequence[Holder]) -> Unanswered:
    """Why nothing is judged where training mode moves no statistic that is known."""
    if moved:
        named = listed([holder.path for holder in moved], most=SHOWN)
        return Unanswered(
            f"what training mode moves in {named} is no statistic of its input that is known, and "
            "evaluation is not far worse than training mode",
            "known are means, variances, deviations and mean squares; look at other statistics in "
            "a test of their own",
        )
    return Unanswered(
        "no layer has statistics that move in training mode",
        "there is no normalization layer, or all of them are frozen",
    )


def _finding(far: Comparison, data: Data, bound: str) -> Finding:
    """What training mode says other than evaluation, and the layers whose state it moves."""
    stored, trained = far.stored, far.trained
    paths = [holder.path for holder in far.blamed]
    where = listed([*paths[:SHOWN], *(["others"] if len(paths) > SHOWN else [])])
    cause = "not established; in training mode, what the model says of a row hangs on its batch"
    tested, remedy = "the rows in three orders, in training mode", "standardise by what is stored"
    if paths:
        cause = (
            f"evaluation reads other state than training moves in {where}, and no moving average "
            "of its input is recognised there"
        )
        remedy = (
            f"read in evaluation what training mode updates in {paths[0]}: the statistics of the "
            "row's own domain, say"
        )
    if far.undone:
        tested = f"training mode with {where} in inference mode says what evaluation says"
    elif paths:
        cause = f"not established; training mode moves state in {where}"
    return rules.DISAGREES.finding(
        layer=paths[0] if paths else "the whole model",
        layers=paths,
        message=disagreement(stored, trained, data, by=far.by),
        explanation=Explanation(
            cause=cause, tested=tested, remedy=remedy, established=bool(far.undone)
        ),
        bound=bound,
        evidence={"layers": list(paths), "evaluation": stored.scores, "training": trained.scores},
    )
