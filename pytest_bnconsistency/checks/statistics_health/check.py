"""The stored statistics are usable.

Without data this reads variables and attributes only. What is certainly wrong fails, and only then
a layer is run, to try the cause; what is only unusual is a warning. With data, each statistic's
distance to the population's is told in standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import Case
from pytest_bnconsistency.checks.population_statistics import Estimated, estimated
from pytest_bnconsistency.checks.statistics_health.failures import unusable
from pytest_bnconsistency.checks.statistics_health.warnings import fed_by_noise, unusual
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.normalization_layers import Role
from pytest_bnconsistency.measurement.stored_statistics import by_behaviour, normalization_layers
from pytest_bnconsistency.results import CheckResult, Explanation, Finding, Table, Verdict
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted

NAME = "statistics_health"
FAR_ERRORS, FAR = 10, 0.5
"""A mean is far from the population's beyond so many standard errors and standard deviations,
any other statistic beyond so many standard errors and this share of the population's."""
_PLURALS: Mapping[Role, str] = {
    "mean": "means",
    "variance": "variances",
    "square": "mean squares",
    "deviation": "deviations",
    "other": "statistics",
}
UNSEEN = (
    "with data as x, or --bn-data, normalization layers of one's own are found by what they do"
)


def check(case: Case) -> CheckResult:
    found = list(normalization_layers(case.subject))
    findings = list(unusable(case, found))
    known, refused = None, ""
    data = None if case.subject.modeless else case.data
    if data is not None and data.rows > 1 and not findings:
        try:
            with preserve_state(case.subject):
                known = estimated(case, data)
                found = by_behaviour(found, known.tracked)
        except RefusedError as error:
            refused = f"only what is stored was read: {error}"
        findings = list(unusable(case, found))
    if not found:
        return CheckResult(
            check=NAME,
            verdict=Verdict.NOT_APPLICABLE,
            summary=case.subject.layerless or "no layer holds statistics",
            hint="" if known else refused or UNSEEN,
        )
    warnings = list(unusual(case.subject, found))
    table = None
    if known is not None and not findings:
        table, far = _distances(known)
        warnings += far
        if all(warning.rule != rules.FED_BY_DROPOUT.id for warning in warnings):
            fed = known.training.fed_by_random  # what no graph of the model's own tells
            warnings += fed_by_noise(found, lambda layer: fed.get(id(layer), ()))
    evidence: dict[str, Any] = {
        "normalization_layers": len(found),
        "unusual": [warning.message for warning in warnings],
    }
    if findings:
        return CheckResult(
            check=NAME,
            verdict=Verdict.FAILED,
            findings=tuple(findings),
            evidence=evidence,
            warnings=tuple(warnings),
        )
    vectors = sum(len(n.vectors) for n in found)
    summary = (
        f"{vectors} statistics of {counted(len(found), 'normalization layer')} are finite, no "
        "variance is negative, momenta, axes and dtypes can accumulate"
    )
    return CheckResult(
        check=NAME,
        verdict=Verdict.PASSED,
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
    rows, far = [], []
    for layer in dict.fromkeys(t.layer for t in known.tracked):
        path = next(t.path for t in known.tracked if t.layer is layer)
        distances = _distances_of(known, layer)
        cells = {d.role: "?" if math.isnan(d.errors) else f"{d.errors:.1f}" for d in distances}
        described = (
            path,
            cells.get("mean", "?"),
            cells.get("variance", "?"),
            str(known.estimate.rows),
        )
        rows.append((max(np.nan_to_num(d.errors) for d in distances), described))
        beyond = [d for d in distances if d.errors > FAR_ERRORS and d.off > FAR]
        if beyond:
            far.append((path, max(beyond, key=lambda d: d.off)))
    rows.sort(key=lambda row: -row[0])
    columns = ("layer", "mean, standard errors off", "variance, standard errors off", "rows")
    table = Table(columns, tuple(row for _, row in rows))
    if not far:
        return table, []
    path, farthest = max(far, key=lambda place: place[1].off)
    others = f"; {counted(len(far) - 1, 'more layer')} far off, too" if far[1:] else ""
    return table, [
        rules.FAR_OFF.finding(
            layer=path,
            layers=[place for place, _ in far],
            message=f"{farthest.how}{others}",
            explanation=Explanation(
                cause="not established; train_eval_agreement tries the causes",
                remedy="run train_eval_agreement on training data; or recalibrate(model, x)",
            ),
            bound=f"more than {FAR_ERRORS} standard errors, and more than {FAR} standard "
            f"deviations (of a mean) or {FAR:.0%} (of another statistic)",
            evidence={"layers": [place for place, _ in far]},
        )
    ]


@dataclass(frozen=True)
class Distance:
    """How far a statistic is from the population's: the median over its channels.

    In standard errors (NaN where there are none to tell), and `off` in standard deviations of the
    layer's input for a mean, where another statistic tells these, else in shares of the
    population's own; `how` says that in words.
    """

    role: Role
    errors: float
    off: float
    how: str


def _distances_of(known: Estimated, layer: Any) -> list[Distance]:
    """How far each statistic of a layer is from the population's."""
    estimate, found = known.estimate, []
    by_role = {t.role: i for i, t in enumerate(known.tracked) if t.layer is layer}
    population, spread = estimate.population, estimate.spread
    deviation = _deviation({role: population[i] for role, i in by_role.items()})
    for role, i in by_role.items():
        t, value = known.tracked[i], population[i]
        stored = t.variable.numpy().astype(np.float64)
        jitter = math.sqrt((1 - t.momentum) / (1 + t.momentum)) if 0 <= t.momentum < 1 else 1.0
        error = spread[i] * math.sqrt(1 / estimate.batches + jitter**2)
        size = np.maximum(np.abs(value), 1e-12)
        unit = deviation if role == "mean" and deviation is not None else size
        usable = error > 1e-6 * unit
        away = np.abs(stored - value)
        errors = float(np.median(away[usable] / error[usable])) if usable.any() else math.nan
        off = float(np.median(away / unit))
        how = f"{off:.2g} standard deviations from those of this data"
        if unit is size:
            how = f"{float(np.median(stored / size)):.2g} times those of this data"
        found.append(Distance(role, errors, off, f"the {_PLURALS[role]} of {t.path} are {how}"))
    return found


def _deviation(population: Mapping[Role, Array]) -> Array | None:
    """The standard deviation of a layer's input, as far as its statistics tell it."""
    if "variance" in population:
        variance = population["variance"]
    elif "deviation" in population:
        variance = population["deviation"] ** 2
    elif "square" in population and "mean" in population:
        variance = population["square"] - population["mean"] ** 2
    else:
        return None
    return np.asarray(np.sqrt(np.maximum(variance, 1e-24)))
