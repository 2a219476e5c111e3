"""With the same weights and data, evaluation says what training said.

There are two references: the model under the population statistics of the given data, and what it
says in training mode, whatever the batches. Evaluation fails if it is worse than one of them by
more than the practical tolerance and by more than chance, and passes if harm would have shown.
Between these it is inconclusive.
"""

from __future__ import annotations

import dataclasses

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated, estimated
from pytest_bnconsistency.checks.train_eval_agreement import explain as disagreement
from pytest_bnconsistency.checks.train_eval_agreement import (
    explain_by_mode,
    inconclusive,
    never_updated,
    planned_updates,
    sampling_error,
    stepping,
    training_reference,
)
from pytest_bnconsistency.checks.train_eval_agreement.measure import measured
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.sampling_error import Alternatives
from pytest_bnconsistency.checks.train_eval_agreement.summary import (
    evidence_of,
    layers_of,
    passed_summary,
)
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import (
    Excess,
    by_targets,
    doubted,
    excesses,
    proven,
    settled,
)
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import Comparison
from pytest_bnconsistency.data.arrays import all_finite
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.accepted_sizes import only_size
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.compared_outputs import Side
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NAME = "train_eval_agreement"

FEW_ROWS = 16
"""Fewer decide nothing by themselves: initial values that are surely in the statistics may."""


def check(context: CheckContext) -> CheckResult:
    if context.data is None:
        if context.asked:
            raise DataError(
                "train_eval_agreement needs data and got none; give training data as x, and y "
                "for loss and metrics, or --bn-data"
            )
        return _unseen(Verdict.NOT_APPLICABLE, "needs training data", "give x and y, or --bn-data")
    if context.data.rows < 2:
        return _unseen(
            Verdict.VACUOUS,
            "one row has no batch statistics worth the name",
            "give at least two rows, better a few hundred",
        )
    if context.subject.modeless:
        return _unseen(Verdict.NOT_APPLICABLE, context.subject.modeless, "give f(x, training=...)")
    if refusal := only_size(context.subject):
        return _unseen(Verdict.NOT_APPLICABLE, refusal, "")
    with preserve_state(context.subject):
        return _decide(context, context.data)


def _decide(context: CheckContext, data: Data) -> CheckResult:
    subject = context.subject
    known = estimated(context)
    training, batches, tracked = known.training, known.batches, known.tracked
    done = context.settings.updates
    if done is None:
        done = subject.updates()
    stuck = [] if tracked else never_updated.untold(context, training, batches[0].x)
    by_momentum = never_updated.kept_by_momentum(
        context, training, [*tracked, *stuck], batches[0].x
    )
    if not tracked and not stuck and not by_momentum:
        return _without_normalization(context, data, known, done)
    planned = context.settings.planned_updates
    fresh = never_updated.fresh([*tracked, *stuck, *by_momentum])
    if planned is not None and (fresh or not done):
        return planned_updates.judged(NAME, tracked, by_momentum, planned)
    if fresh:
        untouched = [
            t for t in fresh if not (done or never_updated.weights_moved(context, t.layer))
        ]
        if untouched:
            return _unseen(
                Verdict.VACUOUS,
                f"the model was never trained: the statistics of {layers_of(untouched)} "
                f"({untouched[0].path} first) are exactly their initial values",
                "train it or load trained weights first; if a loop of your own trained it, say "
                "updates=<number of steps>",
            )
        finding = never_updated.finding(context, data, fresh, stuck, by_momentum, done)
        return CheckResult(
            check=NAME,
            verdict=Verdict.FAILED,
            findings=(finding,),
            evidence=dict(finding.evidence),
        )
    if not tracked:
        return _unseen(
            Verdict.NOT_APPLICABLE,
            f"the statistics of {layers_of([*stuck, *by_momentum])} do not move in training mode",
            "training and evaluation normalise alike: by what is stored",
        )
    data = dataclasses.replace(data, notes=(*data.notes, *known.notes))
    warnings = [] if planned is None else planned_updates.warnings(tracked, by_momentum, planned)
    return _compare(context, data, known, done, warnings)


def _without_normalization(
    context: CheckContext, data: Data, known: Estimated, done: int | None
) -> CheckResult:
    """Training mode may hang on state or on the batch in layers that nobody recognises."""
    nothing = _unseen(
        Verdict.NOT_APPLICABLE,
        "no layer has statistics that move in training mode",
        "there is no normalization layer, or all of them are frozen",
    )
    blamed = training_reference.state_holders(known)
    if done == 0 or not (blamed or training_reference.rows_mix(data, known)):
        return nothing
    trained = training_reference.training_mode(context, data, known)
    stored = training_reference.evaluation(context, data, known)
    far = training_reference.compared(context, data, stored, trained)
    undone = training_reference.undone(context, data, known, blamed, far) if far.far else False
    if undone is False:
        return nothing
    if not far.proven:
        summary, hint = inconclusive.said(stored, trained, "in training mode", data, far.found)
        return _unseen(Verdict.VACUOUS, summary, hint)
    paths = [holder.path for holder in blamed]
    bound = inconclusive.bound(far.worst)
    finding = explain_by_mode.finding(paths, stored, trained, data, undone, bound)
    return CheckResult(check=NAME, verdict=Verdict.FAILED, findings=(finding,), notes=data.notes)


def _compare(
    context: CheckContext,
    data: Data,
    known: Estimated,
    done: int | None,
    warnings: list[Finding],
) -> CheckResult:
    m = measured(context, data, known, done)
    if not all_finite(m.population.outputs):
        return _unseen(
            Verdict.VACUOUS,
            "the outputs are NaN or Inf, under the population statistics of the data as well",
            "look for NaN in the weights",
        )
    found = _against_population(context, m, known)
    finding = _lost(m, found)
    far = None if finding is not None else _far_from_training(context, m, known)
    if far is not None and far.proven:
        finding = disagreement.unexplained(m, inconclusive.bound(far.worst))
    evidence = evidence_of(m, known, found)
    if m.small or (finding is not None and not finding.cause_tested):
        warnings += stepping.warnings(m, evidence)
    verdict, summary, hint = _without_finding(m, found, far)
    return CheckResult(
        check=NAME,
        verdict=verdict if finding is None else Verdict.FAILED,
        findings=() if finding is None else (finding,),
        summary=summary if finding is None else "",
        hint=hint if finding is None else "",
        notes=data.notes,
        evidence=evidence,
        warnings=tuple(warnings),
    )


def _against_population(context: CheckContext, m: Measured, known: Estimated) -> list[Excess]:
    """What is lost against the population statistics; what chance does, where that is open."""

    def against(others: Alternatives) -> list[Excess]:
        return excesses(context, m.data, m.stored, m.population, others)

    found = against(sampling_error.NONE)
    if not settled(found):
        found = against(sampling_error.alternatives(context, m, known))
    return found


def _lost(m: Measured, found: list[Excess]) -> Finding | None:
    """The finding for an excess over the population statistics that is harm, and not chance."""
    sure = proven(found, by_targets=by_targets(m.data, m.population))
    if m.data.rows < FEW_ROWS and m.biased:
        sure = [excess for excess in found if excess.exceeds_tolerance]
    if not sure:
        return None
    return disagreement.explain(m, inconclusive.bound(max(sure, key=lambda e: e.amount)))


def _far_from_training(context: CheckContext, m: Measured, known: Estimated) -> Comparison | None:
    """Evaluation far worse than training, where population statistics don't mend it."""

    def against_training_mode(side: Side) -> Comparison:
        return training_reference.compared(context, m.data, side, m.trained)

    stored = against_training_mode(m.stored)
    if not stored.far or not against_training_mode(m.population).far:
        return None
    blamed = training_reference.state_holders(known)
    undone = training_reference.undone(context, m.data, known, blamed, stored)
    return None if undone is False else stored


def _without_finding(
    m: Measured, found: list[Excess], far: Comparison | None
) -> tuple[Verdict, str, str]:
    """Passed, or inconclusive, what is said of it, and what to do."""
    if open_questions := doubted(found):
        said = inconclusive.said(
            m.stored, m.population, "under population statistics", m.data, open_questions
        )
        return Verdict.VACUOUS, *said
    if far is not None:
        said = inconclusive.said(m.stored, m.trained, "in training mode", m.data, far.found)
        return Verdict.VACUOUS, *said
    return Verdict.PASSED, passed_summary(m, found), ""


def _unseen(verdict: Verdict, summary: str, hint: str) -> CheckResult:
    return CheckResult(check=NAME, verdict=verdict, summary=summary, hint=hint)
