"""The stored statistics are usable.

Without data this reads variables and attributes only. What is certainly wrong fails, and only then
a layer is run, to try the cause; what is only unusual is a warning. With data, each statistic's
distance to the population's is told in standard errors.
"""

from __future__ import annotations

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated, estimated
from pytest_bnconsistency.checks.prepared_rows import as_trained
from pytest_bnconsistency.checks.statistics_health.distances import distances, far_off, table
from pytest_bnconsistency.checks.statistics_health.failures import unusable
from pytest_bnconsistency.checks.statistics_health.summary import evidence_of, passed_summary
from pytest_bnconsistency.checks.statistics_health.warnings import fed_by_random_layers, unusual
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.stored_statistics import (
    NormalizationLayer,
    by_behaviour,
    by_isolated_runs,
    normalization_layers,
)
from pytest_bnconsistency.models.owned_objects import is_of_library
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NAME = "statistics_health"
UNSEEN = (
    "with data as x, or --bn-data, normalization layers of one's own are found by what they do"
)


def check(context: CheckContext) -> CheckResult:
    stored = list(normalization_layers(context.subject))
    if not all(is_of_library(n.layer) for n in stored):
        with preserve_state(context.subject):
            stored = by_isolated_runs(stored)
    if findings := list(unusable(context, stored)):
        return _failed(context, stored, findings)
    known, found, refused = _with_data(context, stored)
    if not found:
        why = context.subject.layerless or "no layer holds statistics"
        return Unanswered(why, "" if known else refused or UNSEEN).not_applicable(NAME)
    if findings := list(unusable(context, found)):
        return _failed(context, found, findings)
    layers = [] if known is None else distances(known)
    warnings = [*unusual(context.subject, found), *far_off(layers)]
    warnings += [] if known is None else fed_by_random_layers(found, known, warnings)
    return CheckResult(
        check=NAME,
        verdict=Verdict.PASSED,
        summary=passed_summary(found),
        table=table(layers, known.estimate.rows) if known else None,
        evidence=evidence_of(found, warnings, layers),
        warnings=tuple(warnings),
        notes=(refused,) if refused else (),
    )


def _failed(
    context: CheckContext, found: list[NormalizationLayer], findings: list[Finding]
) -> CheckResult:
    warnings = list(unusual(context.subject, found))
    return CheckResult(
        check=NAME,
        verdict=Verdict.FAILED,
        findings=tuple(findings),
        evidence=evidence_of(found, warnings, []),
        warnings=tuple(warnings),
    )


def _with_data(
    context: CheckContext, stored: list[NormalizationLayer]
) -> tuple[Estimated | None, list[NormalizationLayer], str]:
    """The population statistics, where data tells them, the layers that it shows, and what the
    model refuses.
    """
    if context.subject.modeless or context.data is None or context.data.rows < 2:
        return None, stored, ""
    try:
        with preserve_state(context.subject):
            known = estimated(as_trained(context).context)
            return known, by_behaviour(stored, known.tracked), ""
    except RefusedError as error:
        return None, stored, f"only what is stored was read: {error}"
