"""Why evaluation does not say what training said: each cause is tried before it is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_bnconsistency.checks import non_finite_statistics
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement import attribution
from pytest_bnconsistency.checks.train_eval_agreement.attribution import Attribution
from pytest_bnconsistency.checks.train_eval_agreement.causes import candidates as causes
from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.changed_weights import (
    REMEDY as CHANGED,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.changed_weights import likely
from pytest_bnconsistency.checks.train_eval_agreement.causes.initial_values import (
    shares_against_count,
    stale,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import away, unlike_inputs
from pytest_bnconsistency.checks.train_eval_agreement.causes.rows_in_order import moving_averages
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement import normalization_layers as statistics
from pytest_bnconsistency.measurement.compared_outputs import Side, gap, number, numbers
from pytest_bnconsistency.measurement.statistics_per_call import per_call
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted, digits

MOST_STEPS = 200
"""Training steps that a lag is tried on, where they are cheap."""
OTHERWISE = (
    "give data as in training, augmented as there; or, where the weights were changed after the "
    "last step (averaged, pruned, rounded, restored), recalibrate(model, x)"
)


def explain(m: Measured, bound: str) -> Finding:
    """The finding for a gap beyond chance and beyond the practical tolerance."""
    shared = _domains(m)
    if shared is not None:
        return _finding(m, shared, bound)
    if m.closed <= HALF:
        return unexplained(m, bound)
    tested = (
        f"with the population statistics of this data, {_scores(m.population)}: {m.closed:.0%} of "
        "the distance to training is gone"
    )
    cause, tries = _non_finite(m) or _degenerate(m), Tries()
    if cause is None:
        cause = causes.predicted(m, tries)
    if cause is None and not tries.cut and m.biased:
        cause = next(stale(m), None)  # sure by arithmetic, whatever else is in the statistics
    if cause is None and m.step and tries.may("the model's own training steps"):
        cause = _lagging(m)
    layers = attribution.attributed(
        m.inference, m.data, m.tracked, m.moving, m.reference, m.updates, shares_against_count(m)
    )
    if cause is None:
        return _finding(m, _not_established(m, tries, tested), bound, layers)
    proof = "; ".join(filter(None, (cause.explanation.tested, tested)))
    proven = replace(cause, explanation=replace(cause.explanation, tested=proof))
    return _finding(m, proven, bound, layers)


def _not_established(m: Measured, tries: Tries, tested: str) -> Cause:
    """What is likely where no cause that was tried explains what is stored."""
    changed = likely(m)
    tried = [*tries.made, *([] if m.step else ["no training step to try"])]
    explanation = Explanation(
        cause=tries.without_cause(
            "not established; the moving statistics are not those of this data under these "
            f"weights{changed and ': '}{changed}"
        ),
        tested=tested
        + f"; none of {counted(len(tried), 'other cause')} explains what is stored" * bool(tried),
        remedy=f"{CHANGED}; or give data as in training" if changed else OTHERWISE,
    )
    return Cause(rules.OTHER_WEIGHTS if changed else rules.DISAGREES, explanation, share=0.0)


def unexplained(m: Measured, bound: str) -> Finding:
    """The finding for a gap to training that population statistics don't close."""
    tried = f"population statistics of this data: {m.closed:.0%} of the distance to training goes"
    one = _domains(m)
    if one is not None:
        return _finding(m, one, bound)
    shared = list(dict.fromkeys(t.path for t in m.tracked if t.calls > 1))
    remedy = (
        f"{', '.join(shared)} runs more than once in a step: give each input a normalization "
        "layer of its own, or join the inputs in one batch"
        if shared
        else "look at what else differs between training and evaluation, in the layers named"
    )
    explanation = Explanation(cause="not established", tested=tried, remedy=remedy)
    return _finding(m, Cause(rules.DISAGREES, explanation, share=0.0), bound)


def _non_finite(m: Measured) -> Cause | None:
    bad = [t for t, v in zip(m.tracked, m.moving, strict=True) if not np.isfinite(v).all()]
    if not bad:
        return None
    where = ", ".join(list(dict.fromkeys(t.path for t in bad))[:3])
    text = (
        f"the stored statistics of {where} hold NaN or Inf: one bad batch stays in a moving "
        "average for ever"
    )
    empty = non_finite_statistics.empty_batches(
        m.training, m.data, [t.variable for t in m.tracked], where
    )
    if empty is not None:
        return Cause(rules.NOT_FINITE, empty, share=1.0)
    remedy = "find the batch (NaN in the data, or an overflow), then recalibrate(model, x)"
    return Cause.tested(rules.NOT_FINITE, cause=text, tested="", remedy=remedy, share=1.0)


def _degenerate(m: Measured) -> Cause | None:
    """A momentum outside [0, 1): what a run keeps of the old value was measured."""
    bad = [t for t in m.tracked if not -1e-3 < t.retention < 1]
    if not bad:
        return None
    return Cause.tested(
        rules.MOMENTUM,
        cause=f"an update of {bad[0].path} keeps {bad[0].retention:.3g} of the old value: the "
        "moving average runs away",
        tested="measured: one update from statistics at 0 and one from statistics at 1",
        remedy="momentum 0.9 to 0.99; then train again, or recalibrate(model, x)",
        share=1.0,
    )


def _lagging(m: Measured) -> Cause | None:
    """Put the population statistics in and train on: a lag opens again as far as it was.

    With the weights at rest, neither the steps nor chance may do so.
    """
    far = away(m)
    if m.step is None or far is None or not far <= HALF:
        return None
    momentum = m.slowest.momentum
    horizon = math.ceil(1 / max(1 - momentum, 1e-3))
    steps = min(horizon, MOST_STEPS if m.small else 2 * len(m.batches))
    with preserve_state(m.subject, m.step.own):
        opened = m.opened_by(steps)
    in_turn = [m.seen[i % len(m.seen)] for i in range(steps)]
    at_rest = m.deviation(moving_averages(m, in_turn), m.reference)
    whole = m.deviation(m.moving, m.with_initial(m.certain_share or 0.0))
    expected = whole * (1 - max(momentum, 0.0) ** steps)
    if opened is None or not opened - at_rest > HALF * expected:
        return None
    left = "" if m.certain_share is None else f", {m.certain_share:.1%} of the initial values left"
    return Cause.tested(
        rules.LAGGING,
        cause=f"the moving statistics (momentum {momentum:.3g}{left}) lag behind weights that "
        "still moved when training ended",
        tested=f"{steps} more training steps from the population statistics leave the moving ones "
        f"{digits(opened, 2)} standard deviations behind again ({digits(whole, 2)} as stored); "
        f"with the weights at rest, the same steps leave {digits(at_rest, 2)}",
        remedy="end training with a small learning rate, or use a smaller momentum; or "
        "recalibrate(model, x)",
        share=1.0,
    )


def _domains(m: Measured) -> Cause | None:
    """Give each call of a shared layer statistics of its own: does what training said return?"""
    run, means = per_call(m.training, m.tracked, m.seen, m.batches[0].x)
    if run is None:
        return None
    statistics.write(m.tracked, m.reference)
    single = Side(run.over(m.data.batches(m.size)))
    before = gap(m.stored, m.trained, m.data).outputs
    left = gap(single, m.trained, m.data).outputs
    if not left < HALF * min(before, gap(m.population, m.trained, m.data).outputs):
        return None
    path, levels = next(iter(means.items()))
    tested = (
        f"with statistics of its own for each call, the outputs are {digits(left, 2)} standard "
        f"deviations from those of training, with the stored ones {digits(before, 2)}"
    )
    return unlike_inputs(path, "mean", list(map(float, levels)), tested)


def _finding(m: Measured, cause: Cause, bound: str, layers: Attribution | None = None) -> Finding:
    by_population = cause.rule not in (rules.DOMAINS, rules.DISAGREES) or layers is not None
    reference = m.population if by_population else m.trained
    said = numbers(m.stored, reference, gap(m.stored, reference, m.data))
    evidence: dict[str, Any] = {
        "momentum": m.slowest.momentum,
        "updates": m.updates,
        "initial_share": m.certain_share,
        "initial_share_measured": m.initial_share,
        "gap_to_training": gap(m.stored, m.trained, m.data).outputs,
        "gap_left": gap(m.population, m.trained, m.data).outputs,
        "gap_by_layer": [share.plain() for share in layers.shares] if layers else [],
    }
    explanation = cause.explanation
    if layers and layers.none_by_itself and not cause.place:
        several = len({id(t.layer) for t in m.tracked})
        single = f" (in {several} normalization layers; none alone closes half of the gap)"
        explanation = replace(explanation, cause=explanation.cause + single)
    return cause.rule.finding(
        layer=cause.place or (layers.worst if layers else _suspect(m)),
        layers=dict.fromkeys(t.path for t in m.tracked),
        message=f"evaluate disagrees with train: {said} ({m.data.rows} rows)",
        explanation=explanation,
        bound=bound,
        table=layers.table if layers else None,
        evidence=evidence,
    )


def _suspect(m: Measured) -> str:
    """The first layer that is called several times, or the first."""
    return next((t.path for t in m.tracked if t.calls > 1), m.tracked[0].path)


def _scores(side: Side) -> str:
    if side.scores:
        return " and ".join(f"{name} {number(value)}" for name, value in side.scores.items())
    return "the outputs of training come back"
