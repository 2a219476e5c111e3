"""The stored statistics are usable.

Without data this reads variables and attributes only. What is certainly wrong fails, and only then
a layer is run, to try the cause; what is only unusual is a warning. With data, each statistic's
distance to the population's is told in standard errors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.estimation import Estimated, estimated
from pytest_bnconsistency.checks.unusable import unusable
from pytest_bnconsistency.checks.unusual import fed_by_noise, unusual
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.probes.stored import by_behaviour, normalisers
from pytest_bnconsistency.results import CheckResult, Finding, Table, Verdict
from pytest_bnconsistency.words import counted

NAME = "statistics_health"
FAR_ERRORS, FAR_DEVIATIONS = 10, 0.5
"""A layer is far from the population beyond so many standard errors and standard deviations."""
UNSEEN = "with data as x, or --bn-data, normalisers of one's own are found by what they do"


def check(case: Case) -> CheckResult:
    held = list(normalisers(case.subject))
    findings = list(unusable(case, held))
    known, refused = None, ""
    data = None if case.subject.modeless else case.data
    if data is not None and data.rows > 1 and not findings:
        try:
            with preserve_state(case.subject):
                known = estimated(case, data)
                held = by_behaviour(held, known.tracked)
        except RefusedError as error:
            refused = f"only what is stored was read: {error}"
        findings = list(unusable(case, held))
    if not held:
        return CheckResult(
            NAME,
            Verdict.NOT_APPLICABLE,
            summary=case.subject.layerless or "no layer holds statistics",
            hint="" if known else refused or UNSEEN,
        )
    warnings = list(unusual(case.subject, held))
    table = None
    if known is not None and not findings:
        table, far = _distances(known)
        warnings += far
        if all(warning.rule != rules.FED_BY_DROPOUT.id for warning in warnings):
            fed = known.training.fed_by_random  # what no graph of the model's own tells
            warnings += fed_by_noise(held, lambda layer: fed.get(id(layer), ()))
    evidence: dict[str, Any] = {
        "normalisers": len(held),
        "unusual": [warning.message for warning in warnings],
    }
    if findings:
        return CheckResult(
            NAME,
            Verdict.FAILED,
            tuple(findings),
            evidence=evidence,
            warnings=tuple(warnings),
        )
    vectors = sum(len(n.vectors) for n in held)
    summary = (
        f"{vectors} statistics of {counted(len(held), 'normaliser')} are finite, no "
        "variance is negative, momenta, axes and dtypes can accumulate"
    )
    return CheckResult(
        NAME,
        Verdict.PASSED,
        summary=summary,
        table=table,
        notes=(refused,) if refused else (),
        evidence=evidence,
        warnings=tuple(warnings),
    )


def _distances(known: Estimated) -> tuple[Table | None, list[Finding]]:
    """Each layer's distance to the population statistics of the data, in standard errors."""
    if not known.tracked:
        return None, []
    far: list[tuple[float, str]] = []
    rows = []
    for layer in dict.fromkeys(t.layer for t in known.tracked):
        path, cells, errors, deviations = _distance(known, layer)
        rows.append((errors, (path, *cells)))
        if errors > FAR_ERRORS and deviations > FAR_DEVIATIONS:
            far.append((deviations, path))
    rows.sort(key=lambda row: -row[0])
    columns = ("layer", "mean, standard errors off", "variance, standard errors off", "rows")
    table = Table(columns, tuple(row for _, row in rows))
    if not far:
        return table, []
    deviations, path = max(far)
    return table, [
        Finding(
            rules.FAR_OFF.id,
            rules.FAR_OFF.slug,
            path,
            f"the statistics of {counted(len(far), 'normaliser')} are far from those of this "
            f"data, {path} by {deviations:.2g} standard deviations",
            "not established; train_eval_agreement tries the causes",
            False,
            "run train_eval_agreement on training data; or recalibrate(model, x)",
            bound=f"{FAR_ERRORS} standard errors and {FAR_DEVIATIONS} standard deviations",
            evidence={"layers": [place for _, place in far]},
        )
    ]


def _distance(known: Estimated, layer: Any) -> tuple[str, tuple[str, ...], float, float]:
    """A layer's path, cells, and its larger distance, in standard errors and in deviations."""
    estimate, cells, worst, path = known.estimate, {}, (0.0, 0.0), ""
    by_role = {t.role: i for i, t in enumerate(known.tracked) if t.layer is layer}
    population, spread = estimate.population, estimate.spread
    variance = population[by_role["variance"]] if "variance" in by_role else None
    for role, i in by_role.items():
        t = known.tracked[i]
        path = t.path
        apart = np.abs(t.variable.numpy().astype(np.float64) - population[i])
        jitter = math.sqrt((1 - t.momentum) / (1 + t.momentum)) if 0 <= t.momentum < 1 else 1.0
        error = spread[i] * math.sqrt(1 / estimate.batches + jitter**2)
        unit = population[i] if role == "variance" else variance
        unit = np.ones(1) if unit is None else np.abs(unit)
        unit = unit if role == "variance" else np.sqrt(unit)
        usable = error > 1e-6 * unit
        errors = float(np.median(apart[usable] / error[usable])) if usable.any() else math.nan
        deviations = float(np.median(apart / np.maximum(unit, 1e-12)))
        cells[role] = "?" if math.isnan(errors) else f"{errors:.1f}"
        worst = max(worst, (0.0 if math.isnan(errors) else errors, deviations))
    told = (cells.get("mean", "?"), cells.get("variance", "?"), str(estimate.rows))
    return path, told, *worst
