"""A row's result in inference does not depend on the other rows, its position or their number.

At a fixed batch shape the answer is exact: a kept row must give the same bits whatever stands
beside it. Between batch sizes kernels differ, and the answer is measured against the noise floor
of the subject; a model that takes one size only is judged at that size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pytest_bnconsistency.checks.batch_invariance import explain as explanation
from pytest_bnconsistency.checks.batch_invariance.comparisons import compare
from pytest_bnconsistency.checks.batch_invariance.compiled_sizes import compiled_sizes
from pytest_bnconsistency.checks.batch_invariance.larger_batch import in_a_larger_batch
from pytest_bnconsistency.checks.batch_invariance.padding import Further, pad_further
from pytest_bnconsistency.checks.batch_invariance.search import searched
from pytest_bnconsistency.checks.batch_invariance.summary import (
    NOTHING_WOULD_SHOW,
    detection_limits,
    inconclusive,
    passed_summary,
)
from pytest_bnconsistency.checks.batch_invariance.transductive import declared_layers
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.results import CheckResult, Verdict

NAME = "batch_invariance"


def check(context: CheckContext) -> CheckResult:
    reason = context.settings.transductive
    if isinstance(reason, str):
        declared_so = Unanswered(f"the model is declared transductive: {reason}")
        return replace(declared_so.not_applicable(NAME), waived=True)
    if context.fixed_rows == 1:
        return Unanswered(context.only_size).not_applicable(NAME)
    x = context.sample()
    with preserve_state(context.subject):
        if not reason:
            return searched(context, x, lambda: _decide(context, x))
        declared = declared_layers(context, reason)
        row_by_row = [id(call.layer) for call in declared]
        result = searched(context, x, lambda: _decide(context, x, row_by_row), row_by_row)
    if result.verdict is not Verdict.PASSED:
        return result
    reasons = "; ".join(f"{call.path}: {why}" for call, why in declared.items())
    summary = f"rows are meant to meet in {reasons}; apart from that, {result.summary}"
    return replace(result, verdict=Verdict.NOT_APPLICABLE, summary=summary, waived=True)


def _decide(context: CheckContext, x: Nest, row_by_row: Collection[int] = ()) -> CheckResult:
    compared = compare(context, x, row_by_row)
    findings = tuple(
        explanation.findings(context.subject, x, [judged for _, judged in compared.groups])
    )
    if not findings and not row_by_row and not compared.random and not compared.only_size:
        findings = tuple(compiled_sizes(context, x))
    further = Further()
    if not findings and compared.known and not compared.only_size:
        further = pad_further(context, x, row_by_row)
        findings = tuple(further.findings)
    result = CheckResult(
        check=NAME,
        verdict=Verdict.FAILED,
        findings=findings,
        notes=(*compared.notes, *further.notes),
        evidence=compared.evidence(),
    )
    if findings:
        return result
    if open_question := inconclusive(compared, further):
        return open_question.left_open(result)
    limits = detection_limits(compared)
    evidence = {**result.evidence, "resolution": limits}
    if not limits:
        return NOTHING_WOULD_SHOW.left_open(replace(result, evidence=evidence))
    summary = passed_summary(compared, further, limits)
    passed = replace(result, verdict=Verdict.PASSED, evidence=evidence, summary=summary)
    return in_a_larger_batch(context, x, passed, row_by_row)
