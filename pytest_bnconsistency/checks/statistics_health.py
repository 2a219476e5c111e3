"""The stored statistics are usable.

Without data this reads variables and attributes only. What is certainly wrong fails; what is only
unusual is a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Array
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.rules import Rule
from pytest_bnconsistency.probes.statistics import tracked_candidates
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.words import counted, listed

NAME = "statistics_health"
SMALLEST_MOMENTUM = 0.5
USUAL_EPSILON = (1e-6, 1e-2)


@dataclass(frozen=True)
class Normaliser:
    """A layer that holds statistics: its path, and its vectors by attribute."""

    layer: Any
    path: str
    vectors: dict[str, Any]
    trainable: bool

    def variances(self) -> Iterator[tuple[str, Array]]:
        for name, variable in self.vectors.items():
            if "var" in name.lower():
                yield name, np.asarray(variable.numpy(), np.float64)


def check(case: Case) -> CheckResult:
    normalisers = list(_normalisers(case))
    if not normalisers:
        return CheckResult(
            NAME,
            Verdict.NOT_APPLICABLE,
            summary="no layer holds statistics",
        )
    findings = [finding for finding in _certain(normalisers) if finding is not None]
    notes = tuple(_unusual(normalisers))
    evidence = {"normalisers": len(normalisers), "unusual": list(notes)}
    if findings:
        return CheckResult(NAME, Verdict.FAILED, tuple(findings), notes=notes, evidence=evidence)
    vectors = sum(len(n.vectors) for n in normalisers)
    summary = (
        f"{vectors} statistics of {counted(len(normalisers), 'normaliser')} are finite, no "
        "variance is negative, momenta and dtypes can accumulate"
    )
    return CheckResult(NAME, Verdict.PASSED, summary=summary, notes=notes, evidence=evidence)


def _normalisers(case: Case) -> Iterator[Normaliser]:
    """Layers with float vectors that no optimizer trains, and an epsilon or a momentum."""
    subject = case.subject
    for layer in subject.layers():
        if not (hasattr(layer, "epsilon") or hasattr(layer, "momentum")):
            continue
        held = {id(v) for v in tracked_candidates(subject, layer)}
        vectors = {}
        for name, value in vars(layer).items():
            variable = getattr(value, "_value", value)
            if id(variable) in held:
                vectors[name.lstrip("_")] = variable
        if vectors:
            # As all checks print it: without the name of the model itself.
            path = str(getattr(layer, "path", layer.name)).removeprefix(f"{subject.name}/")
            yield Normaliser(layer, path, vectors, subject.trainable(layer))


def _certain(normalisers: list[Normaliser]) -> Iterator[Finding | None]:
    yield _about(
        rules.NOT_FINITE,
        [
            (n.path, f"{name} has NaN or Inf in {bad} of {variable.shape.num_elements()} channels")
            for n in normalisers
            for name, variable in n.vectors.items()
            if (bad := int((~np.isfinite(np.asarray(variable.numpy(), float))).sum()))
        ],
        "one batch with NaN or Inf, or an overflow, stays in a moving average for ever",
        "find the batch (NaN in the data, or loss scaling that skips the optimizer but not the "
        "statistics), then recalibrate(model, x) or load earlier weights",
    )
    yield _about(
        rules.NEGATIVE_VARIANCE,
        [
            (
                n.path,
                f"{name} is negative in {bad} of {value.size} channels, down to {value.min():.3g}",
            )
            for n in normalisers
            for name, value in n.variances()
            if (bad := int((value < 0).sum()))
        ],
        "no average of variances is negative: a momentum outside [0, 1], or weights mixed up when "
        "they were loaded",
        "check the order of ported weights, and that momentum lies in [0, 1]; then "
        "recalibrate(model, x)",
    )
    yield _about(
        rules.MOMENTUM,
        [
            (n.path, f"momentum is {_momentum(n):g}")
            for n in normalisers
            if n.trainable and (m := _momentum(n)) is not None and not 0 <= m < 1
        ],
        "with momentum 1 the statistics never move; outside [0, 1] they run away",
        "momentum 0.9 to 0.99",
    )
    yield _about(
        rules.NARROW,
        [
            (n.path, f"{name} is kept in {variable.dtype.name}")
            for n in normalisers
            for name, variable in n.vectors.items()
            if n.trainable
            and variable.dtype.size == 2
            and (m := _momentum(n)) is not None
            and (1 - m) < 0.5
        ],
        "an update of (1 - momentum) of the distance is rounded away before it arrives",
        "use a mixed policy (mixed_bfloat16, mixed_float16), which keeps variables in float32",
    )


def _unusual(normalisers: list[Normaliser]) -> Iterator[str]:
    small = [
        n for n in normalisers if (m := _momentum(n)) is not None and 0 <= m < SMALLEST_MOMENTUM
    ]
    if small:
        yield (
            f"momentum {_momentum(small[0]):g} in {_named(small)}: the statistics are about the "
            "last batches only (other frameworks count momentum the other way round)"
        )
    low, high = USUAL_EPSILON
    odd = [
        n
        for n in normalisers
        if isinstance(e := getattr(n.layer, "epsilon", None), float) and not low <= e <= high
    ]
    if odd:
        yield f"epsilon {odd[0].layer.epsilon:g} in {_named(odd)} is unusual"
    dead: list[Normaliser] = []
    channels, gain = 0, 0.0
    for n in normalisers:
        epsilon = getattr(n.layer, "epsilon", None)
        if not isinstance(epsilon, float):
            continue
        for _, value in n.variances():
            low_channels = (value >= 0) & (value < epsilon / 100)
            if low_channels.any():
                dead.append(n)
                channels += int(low_channels.sum())
                gain = max(gain, float(1 / np.sqrt(epsilon)))
    if dead:
        yield (
            f"{channels} channels in {_named(dead)} have no variance: what reaches them is "
            f"multiplied by up to {gain:.3g}"
        )
    fresh = [
        n
        for n in normalisers
        if all(np.ptp(v.numpy()) == 0 and v.numpy().flat[0] in (0, 1) for v in n.vectors.values())
    ]
    if fresh:
        yield f"the statistics of {_named(fresh)} are exactly their initial values"


def _momentum(n: Normaliser) -> float | None:
    momentum = getattr(n.layer, "momentum", None)
    return float(momentum) if isinstance(momentum, (int, float)) else None


def _named(normalisers: list[Normaliser]) -> str:
    if len(normalisers) > 2:
        return f"{normalisers[0].path} and {counted(len(normalisers) - 1, 'more layer')}"
    return listed(dict.fromkeys(n.path for n in normalisers))


def _about(rule: Rule, places: list[tuple[str, str]], cause: str, remedy: str) -> Finding | None:
    if not places:
        return None
    path, what = places[0]
    more = len({place for place, _ in places}) - 1
    others = f"; so in {counted(more, 'more layer')}" if more else ""
    return Finding(
        rule.id,
        rule.slug,
        path,
        f"{what}, in {path}{others}",
        f"not established; {cause}",
        False,
        remedy,
        bound="no tolerance: read off the stored values",
        evidence={"places": [f"{place}: {said}" for place, said in places]},
    )
