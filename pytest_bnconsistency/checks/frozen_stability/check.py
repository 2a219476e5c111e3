"""What is declared frozen stays frozen: training moves none of its state and no mode of it.

Real training steps run through the user's own path, on shifted data so that a moving statistic
must show, and with two batch shapes, because a retrace can change what is frozen.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.frozen_stability import explain
from pytest_bnconsistency.checks.frozen_stability.declared import Declarations
from pytest_bnconsistency.checks.frozen_stability.explain_updates import followers
from pytest_bnconsistency.checks.frozen_stability.measure import (
    measured,
    start_of,
    step_rows,
    training_pass,
    with_table,
)
from pytest_bnconsistency.checks.frozen_stability.status import status_of, table
from pytest_bnconsistency.checks.frozen_stability.summary import (
    evidence_of,
    notes_of,
    open_question,
    summary_of,
)
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.state import Variables, preserve_state
from pytest_bnconsistency.results import CheckResult, Verdict

NAME = "frozen_stability"


def check(context: CheckContext) -> CheckResult:
    if context.asked:
        _must_be_possible(context)
    if refusal := _refused(context):
        return Unanswered(refusal).not_applicable(NAME)
    x = step_rows(context)
    with preserve_state(context.subject, context.train_step) as state:
        return _decide(context, x, state)


def _must_be_possible(context: CheckContext) -> None:
    if context.data is None:
        if context.train_step is not None:
            raise DataError("frozen_stability has a train_step but no data; give x and y")
        return
    scored = (
        context.subject.compiled and context.train_step is None and context.subject.needs_targets
    )
    if context.data.y is None and scored:
        raise DataError(
            "frozen_stability runs real training steps of the compiled model, and y is missing; "
            "give targets as y"
        )


def _refused(context: CheckContext) -> str:
    """Why it can't be applied to the model, "" if it can."""
    if context.subject.modeless and context.train_step is None:
        return context.subject.modeless
    trains = context.subject.compiled or context.train_step is not None
    two_shapes = trains or context.data is None  # as steps run on two batch shapes
    return context.only_size if two_shapes else ""


def _decide(context: CheckContext, x: Nest, state: Variables) -> CheckResult:
    training = training_pass(context)
    declared = Declarations(context, training)
    if not declared.frozen:
        return declared.none_frozen.not_applicable(NAME)
    state.add(declared.variables)
    m, ran = measured(context, x, training, declared)
    following, note = followers(m)
    m = replace(m, followers=following)
    if not m.judged:
        others = Unanswered(note, "set trainable=False on layers that must stay")
        return others.not_applicable(NAME)
    start = start_of(context, training, m)
    m = with_table(m, start)
    findings = explain.explain(m)
    status = status_of(declared.normalization_layers, m, findings)
    result = CheckResult(
        check=NAME,
        verdict=Verdict.FAILED,
        findings=tuple(findings),
        notes=(*notes_of(training, m, ran, start), *([note] if note else [])),
        table=table(status),
        evidence=evidence_of(m, ran, status, start),
    )
    if findings:
        return result
    if question := open_question(training, m, ran):
        return question.left_open(result)
    return replace(result, verdict=Verdict.PASSED, summary=summary_of(m, ran))
