"""Why evaluation does not say what training said: each cause is tried before it is named."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement import attribution
from pytest_bnconsistency.checks.train_eval_agreement.attribution import Attribution
from pytest_bnconsistency.checks.train_eval_agreement.causes import candidates as causes
from pytest_bnconsistency.checks.train_eval_agreement.causes.broken_averages import (
    negative,
    non_finite,
    unstable,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.changed_weights import (
    REMEDY as CHANGED,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.changed_weights import likely
from pytest_bnconsistency.checks.train_eval_agreement.causes.initial_values import (
    all_set_back,
    shares_against_count,
    stale,
    uncounted,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.lagging import EXPONENTIAL, lagging
from pytest_bnconsistency.checks.train_eval_agreement.causes.scaled_weights import scaled
from pytest_bnconsistency.checks.train_eval_agreement.causes.shared_layers import shared_by_inputs
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.summary import disagreement, scores_of
from pytest_bnconsistency.measurement.compared_outputs import gap
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted

WRITTEN = (rules.SWAPPED, rules.ANOTHER_FORM)
"""Other numbers in the place of statistics: some of them may be below 0."""
OTHERWISE = (
    "give data as in training, augmented as there; or, where the weights were changed after the "
    "last step (averaged, pruned, rounded, restored), recalibrate(model, x)"
)


def mended_by_population(m: Measured) -> bool:
    """Whether most of the distance to training goes with the population statistics."""
    return m.closed > HALF


def explain(m: Measured, bound: str) -> Finding:
    """The finding for a gap beyond chance and beyond the practical tolerance, most of which goes
    with the population statistics.
    """
    if (shared := shared_by_inputs(m)) is not None:
        return _finding(m, shared, bound)
    tested = (
        f"with the population statistics of this data, {scores_of(m.population)}: {m.closed:.0%} "
        "of the distance to training is gone"
    )
    tries = Tries()
    cause = next(filter(None, (found(m, tries) for found in CAUSES)), None)
    layers = attribution.attributed(
        m.inference, m.data, m.tracked, m.moving, m.reference, m.updates, shares_against_count(m)
    )
    if cause is None:
        return _finding(m, _not_established(m, tries, tested), bound, layers)
    proof = "; ".join(filter(None, (cause.explanation.tested, tested)))
    proven = replace(cause, explanation=replace(cause.explanation, tested=proof))
    return _finding(m, proven, bound, layers)


def _unusable(m: Measured, tries: Tries) -> Cause | None:
    return non_finite(m) or unstable(m)


def _written(m: Measured, tries: Tries) -> Cause | None:
    cause = causes.predicted(m, tries)
    if cause is not None and cause.rule in WRITTEN:
        return cause
    return negative(m) or cause


def _stale(m: Measured, tries: Tries) -> Cause | None:
    """Sure by arithmetic, whatever else is in the statistics."""
    return next(stale(m), None) if tries.complete and m.biased else None


def _scaled(m: Measured, tries: Tries) -> Cause | None:
    if not tries.complete:
        return None
    return tries.found("weights scaled after training", partial(scaled, m), None)


def _lagging(m: Measured, tries: Tries) -> Cause | None:
    if not m.step:
        return None
    return tries.found("the model's own training steps", partial(lagging, m), None)


def _set_back(m: Measured, tries: Tries) -> Cause | None:
    return all_set_back(m) if tries.complete and not likely(m) else None


def _of_before(m: Measured, tries: Tries) -> Cause | None:
    """What the statistics were before the updates that were counted, as for fine-tuning."""
    return next(stale(m), None) if tries.complete and m.few_updates and not likely(m) else None


CAUSES = (_unusable, _written, _stale, _scaled, _lagging, _set_back, _of_before)
"""The first that explains what is stored is the cause: those before it are surer, or cost less."""


def _not_established(m: Measured, tries: Tries, tested: str) -> Cause:
    """What is likely where no cause that was tried explains what is stored."""
    changed = likely(m)
    alike = ", which averages over all of training keep of early weights" * m.slowest.cumulative
    tried = [*tries.made, *([] if m.step else ["no training step to try"])]
    explanation = Explanation(
        cause=tries.without_cause(
            "not established; the moving statistics are not those of this data under these "
            f"weights{changed and ': '}{changed}{alike}"
        ),
        tested=tested
        + f"; none of {counted(len(tried), 'other cause')} explains what is stored" * bool(tried),
        remedy=f"{CHANGED}; or give data as in training"
        if changed
        else f"{EXPONENTIAL}; or " * bool(alike) + uncounted(m) + OTHERWISE,
    )
    return Cause(rules.OTHER_WEIGHTS if changed else rules.DISAGREES, explanation, share=0.0)


def unexplained(m: Measured, bound: str) -> Finding:
    """The finding for a gap to training that population statistics don't close."""
    tried = f"population statistics of this data: {m.closed:.0%} of the distance to training goes"
    if (cause := shared_by_inputs(m)) is not None:
        return _finding(m, cause, bound)
    shared = list(dict.fromkeys(t.path for t in m.tracked if t.calls > 1))
    remedy = (
        f"{', '.join(shared)} runs more than once in a step: give each input a normalization "
        "layer of its own, or join the inputs in one batch"
        if shared
        else "look at what else differs between training and evaluation, in the layers named"
    )
    explanation = Explanation(cause="not established", tested=tried, remedy=remedy)
    return _finding(m, Cause(rules.DISAGREES, explanation, share=0.0), bound)


def _finding(m: Measured, cause: Cause, bound: str, layers: Attribution | None = None) -> Finding:
    by_population = cause.rule not in (rules.DOMAINS, rules.DISAGREES) or layers is not None
    reference = m.population if by_population else m.trained
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
        message=disagreement(m.stored, reference, m.data),
        explanation=explanation,
        bound=bound,
        table=layers.table if layers else None,
        evidence=evidence,
    )


def _suspect(m: Measured) -> str:
    """The first layer that is called several times, or the first."""
    return next((t.path for t in m.tracked if t.calls > 1), m.tracked[0].path)
