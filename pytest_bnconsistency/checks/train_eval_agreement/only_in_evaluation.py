"""Normalization layers that evaluation alone runs, as those of an averaged copy of the network.

Training moves none of their statistics, so that nothing else compares them.
"""

from __future__ import annotations

from typing import Any

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated, inference_pass
from pytest_bnconsistency.checks.train_eval_agreement.lost_statistics import (
    CLEARLY_WORSE,
    HARMFUL,
    INITIAL,
    TWICE,
    in_both_modes,
    lost,
)
from pytest_bnconsistency.checks.train_eval_agreement.never_updated import at_start
from pytest_bnconsistency.checks.train_eval_agreement.summary import layers_of
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.input_moments import Moments
from pytest_bnconsistency.measurement.normalization_layers import find_tracked
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.results import Finding
from pytest_bnconsistency.rules import catalogue as rules

OR_RECALIBRATE = ", or recalibrate the part of the model that evaluation runs"


def found(context: CheckContext, known: Estimated) -> Finding | None:
    """What their statistics lose: surely trained were the weights with those of the batch."""
    layers = _layers(context, known.training)
    if not layers:
        return None
    subject, x = context.subject, known.batches[0].x
    with preserve_state(subject):
        for layer in layers:
            subject.unfreeze(layer)
        modes = {id(layer): True for layer in layers}
        by_batch = Pass(subject, x, training=False, instrument=Moments(subject), modes=modes)
        tracked = find_tracked(by_batch, x)
        losses = in_both_modes(context, Tries(), by_batch) if tracked else None
    if losses is None or not losses.fit_the_batch:
        return None
    rule, are, of = rules.DISAGREES, "are not those of its data", "stored"
    if all(map(at_start, tracked)):
        rule, are, of = rules.NEVER_UPDATED, "are exactly their initial values", INITIAL
    return rule.finding(
        layer=tracked[0].path,
        layers=dict.fromkeys(t.path for t in tracked),
        message=f"the statistics of {layers_of(tracked)} that evaluation alone runs {are}: "
        f"{losses.text(of)}",
        explanation=lost(losses, OR_RECALIBRATE, of),
        bound=f"fails with {TWICE:g} times the loss by the batch, or {CLEARLY_WORSE:g} times if "
        f"that is {HARMFUL:.0%} of the loss of a mean answer more",
        evidence={"layers": sorted({t.path for t in tracked}), "updates": context.updates()},
    )


def _layers(context: CheckContext, training: Pass) -> list[Any]:
    subject = context.subject
    trained = {id(call.layer) for call in [*training.calls, *training.inner_calls]}
    others = [
        layer
        for layer in subject.layers()
        if id(layer) not in trained
        and subject.takes_training(layer)
        and tracked_candidates(subject, layer)
    ]
    if not others:  # as a rule: no inference needs to be traced
        return []
    evaluated = {id(call.layer) for call in inference_pass(context).calls}
    return [layer for layer in others if id(layer) in evaluated]
