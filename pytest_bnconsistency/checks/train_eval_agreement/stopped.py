"""Statistics that a momentum of 1 stopped, while training went on and normalised by the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement import inconclusive, training_reference
from pytest_bnconsistency.checks.train_eval_agreement.measure import with_population
from pytest_bnconsistency.checks.train_eval_agreement.never_updated import ANY_MOMENTUM, Layers
from pytest_bnconsistency.checks.train_eval_agreement.summary import (
    disagreement,
    layers_of,
)
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import HALF, Comparison
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.compared_outputs import Side, gap, number
from pytest_bnconsistency.measurement.input_moments import pass_with_moments
from pytest_bnconsistency.measurement.tracked_variables import Tracked, tracked_candidates
from pytest_bnconsistency.results import CheckResult, Explanation, Finding, Verdict
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits, listed

SHOWN = 3
NARROW = 2
"""Bytes of a dtype whose largest number a variance may exceed."""


def judged(name: str, context: CheckContext, known: Estimated, layers: Layers) -> CheckResult:
    """The answer where training mode moves no statistics: it does not reach the layers, or their
    momentum is 1.
    """
    why = f"the statistics of {layers_of(layers.every)} do not move in training mode"
    hint, far = "training and evaluation normalise alike: by what is stored", None
    if layers.by_momentum:
        hint = "evaluation is not far worse than training mode"
        far = training_reference.far_without_normalization(context, known)
    if far is None:
        return Unanswered(why, hint).not_applicable(name)
    if not far.proven:
        return inconclusive.by_training(far, context.given).inconclusive(name)
    bound = inconclusive.bound(far.worst)
    spoilt = [t for t in layers.by_momentum if _spoilt(context, t)]
    found = (
        _not_finite(context, spoilt, far, bound)
        if spoilt
        else _finding(context, known, layers, far, bound)
    )
    notes = context.given.notes
    return CheckResult(check=name, verdict=Verdict.FAILED, findings=(found,), notes=notes)


def _finding(
    context: CheckContext, known: Estimated, layers: Layers, far: Comparison, bound: str
) -> Finding:
    """The finding; what the momentum kept out is put in, to see whether it is that."""
    data, paths = context.given, list(dict.fromkeys(t.path for t in layers.by_momentum))
    momentum = layers.by_momentum[0].layer.momentum
    mended = _with_population(context, known, layers)
    before, after = (gap(side, far.trained, data).outputs for side in (far.stored, mended))
    loss = "" if mended.loss is None else f", at a loss of {number(mended.loss)}"
    return rules.MOMENTUM.finding(
        layer=paths[0],
        layers=paths,
        message=disagreement(far.stored, far.trained, data, by=far.by),
        explanation=Explanation(
            cause=f"momentum {momentum:g} keeps all of the old value: the statistics of "
            f"{listed(paths, most=SHOWN)} stand still, and training normalises by the batch",
            tested=f"with another momentum they move; with the population statistics of this data "
            f"evaluation is {digits(after, 2)} standard deviations from training{loss}, as stored "
            f"{digits(before, 2)}",
            remedy="momentum 0.9 to 0.99 as long as the weights train, or trainable = False to "
            "freeze the layers; or recalibrate(model, x) with such a momentum",
            established=after < HALF * before,
        ),
        bound=bound,
        evidence={"layers": paths, "momentum": momentum},
    )


def _not_finite(
    context: CheckContext, spoilt: Sequence[Tracked], far: Comparison, bound: str
) -> Finding:
    """The finding for Inf or NaN, which no momentum moves."""
    paths = list(dict.fromkeys(t.path for t in spoilt))
    dtype = _spoilt(context, spoilt[0])[0].dtype
    narrow, wide = "", ""
    if dtype.size == NARROW:
        narrow = f"; {dtype.name} holds no number beyond {float(dtype.max):g}"
        wide = "keep them in float32 (the dtype policy mixed_float16 does), or scale what the "
        wide += "layer is given; "
    return rules.NOT_FINITE.finding(
        layer=paths[0],
        layers=paths,
        message=disagreement(far.stored, far.trained, context.given, by=far.by),
        explanation=Explanation(
            cause=f"the stored statistics of {listed(paths, most=SHOWN)} hold NaN or Inf, which "
            f"stays in a moving average for ever{narrow}",
            tested="read as they are stored; training normalises by the batch all the same",
            remedy=f"{wide}then train again, or recalibrate(model, x)",
            established=True,
        ),
        bound=bound,
        evidence={"layers": paths, "dtype": dtype.name},
    )


def _spoilt(context: CheckContext, t: Tracked) -> list[Any]:
    """The statistics of a layer that are NaN or Inf."""
    candidates = tracked_candidates(context.subject, t.layer)
    return [v for v in candidates if not np.isfinite(v.numpy()).all()]


def _with_population(context: CheckContext, known: Estimated, layers: Layers) -> Side:
    """What evaluation says under the statistics that another momentum would have moved to."""
    with preserve_state(context.subject):
        for tracked in layers.by_momentum:
            tracked.layer.momentum = ANY_MOMENTUM
        run = pass_with_moments(context.subject, known.batches[0].x)
        return with_population(context, known, run, layers.by_momentum)
