"""Why a frozen layer moves, or uses the batch: each cause is undone before it is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tensorflow as tf

from pytest_bnconsistency.checks.budget import MORE_TIME, Tries
from pytest_bnconsistency.checks.frozen_stability.cause import Cause
from pytest_bnconsistency.checks.frozen_stability.explain_flags import (
    child,
    expected,
    not_compiled,
    not_passed_on,
    overridden,
    set_midway,
)
from pytest_bnconsistency.checks.frozen_stability.explain_modes import by_mode
from pytest_bnconsistency.checks.frozen_stability.explain_updates import ignoring, written
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen, Measured
from pytest_bnconsistency.execution.state import restored
from pytest_bnconsistency.execution.training_steps import UNITS
from pytest_bnconsistency.results import Finding
from pytest_bnconsistency.words import counted

NAMED_IN_TURN = (
    overridden,
    set_midway,
    child,
    expected,
    not_compiled,
    not_passed_on,
    ignoring,
    written,
)


def explain(m: Measured) -> list[Finding]:
    """One finding a cause, with all the layers that it explains."""
    with restored(m.beyond):
        for variable in m.beyond:
            variable.assign(tf.zeros_like(variable))
        return _explain(m)


def _explain(m: Measured) -> list[Finding]:
    findings: list[Finding] = []
    left, tries = list(m.moving), Tries()
    for named in NAMED_IN_TURN:
        cause = named(m, left)
        if cause is not None and cause.layers:
            left = [f for f in left if f not in cause.layers]
            findings.append(_finding(m, cause, tries))
    staying = [f for f in m.by_batch if f not in m.moving and not f.inference_only]
    return findings + [_finding(m, cause, tries) for cause in by_mode(m, staying)]


def _finding(m: Measured, cause: Cause, tries: Tries) -> Finding:
    first = max(cause.layers, key=lambda f: m.gap(f).distance)
    explanation = cause.explanation
    if tries.cut and not explanation.established:
        explanation = replace(explanation, tested=MORE_TIME)
    return cause.rule.finding(
        layer=first.path,
        layers=[f.path for f in cause.layers],
        message=_message(m, cause.layers, first),
        explanation=explanation,
        bound="no tolerance: bitwise"
        if first in m.moving
        else f"{UNITS} units of float32 on one input",
        table=m.table,
        evidence={
            "layers": [f.path for f in cause.layers],
            "train_minus_inference": {
                f.path: m.gap(f).distance for f in cause.layers if id(f.call.layer) in m.gaps
            },
        },
    )


def _message(m: Measured, explained: Sequence[Frozen], first: Frozen) -> str:
    count = sum(f in m.moving for f in explained)
    layers = counted(len(m.judged), "frozen layer")
    kept = m.steps.possible and not any(f.any_of(m.by_steps) for f in explained)
    who = "a pass in training mode, and not the steps," if kept else "training"
    parts = [f"{who} moves the state of {count} of {layers}"] if count else []
    if count and first.any_of(frozenset(id(v) for v in m.beyond)):
        parts[0] += " (from 0: what is stored has seen more than these rows)"
    if (gap := m.gap(first)).differs:
        parts.append(
            f"in {first.path}, training mode is {gap.distance:.3g} away from inference mode"
        )
        parts += [] if m.start is None else [m.start.sentence]
    return "; ".join(parts) or f"{layers} changed"
