"""Why evaluation does not say what training said: each cause is tried before it is named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pytest_bnconsistency.checks import non_finite_statistics as poisoned
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement import attribution
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
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import JOIN, away
from pytest_bnconsistency.checks.train_eval_agreement.causes.rows_in_order import moving_averages
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement import normalization_layers as statistics
from pytest_bnconsistency.measurement.compared_outputs import Side, gap, number, numbers
from pytest_bnconsistency.measurement.statistics_per_call import per_call
from pytest_bnconsistency.results import Finding, Table
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted

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
        return _finding(m, shared, shared.proof, None, bound)
    if m.closed <= HALF:
        return unexplained(m, bound)
    tested = (
        f"with the population statistics of this data, {_scores(m.population)}: {m.closed:.0%} of "
        "the distance to training is gone"
    )
    cause, tries = _poisoned(m) or _degenerate(m), Tries()
    if cause is None:
        cause = causes.predicted(m, tries)
    if cause is None and not tries.cut and m.biased:
        cause = next(stale(m), None)  # sure by arithmetic, whatever else is in the statistics
    if cause is None and m.step and tries.may("the model's own training steps"):
        cause = _lagging(m)
    table = attribution.table(
        m.inference,
        m.data,
        m.tracked,
        m.moving,
        m.reference,
        m.updates,
        shares_against_count(m),
    )
    if cause is None:
        cause = _not_established(m, tries, tested)
        return _finding(m, cause, cause.proof, table, bound, known=False)
    proof = f"{cause.proof}; {tested}" if cause.proof else tested
    return _finding(m, cause, proof, table, bound)


def _not_established(m: Measured, tries: Tries, tested: str) -> Cause:
    """What is likely where no cause that was tried explains what is stored."""
    changed = likely(m)
    tried = [*tries.made, *([] if m.step else ["no training step to try"])]
    return Cause(
        rules.OTHER_WEIGHTS if changed else rules.DISAGREES,
        tries.without_cause(
            "not established; the moving statistics are not those of this data under these "
            f"weights{changed and ': '}{changed}"
        ),
        f"{CHANGED}; or give data as in training" if changed else OTHERWISE,
        tested
        + f"; none of {counted(len(tried), 'other cause')} explains what is stored" * bool(tried),
        0.0,
    )


def unexplained(m: Measured, bound: str) -> Finding:
    """The finding for a gap to training that population statistics don't close."""
    tried = f"population statistics of this data: {m.closed:.0%} of the distance to training goes"
    one = _domains(m)
    if one is not None:
        return _finding(m, one, one.proof, None, bound)
    shared = list(dict.fromkeys(t.path for t in m.tracked if t.calls > 1))
    remedy = (
        f"{', '.join(shared)} runs more than once in a step: give each input a normaliser of its "
        "own, or join the inputs in one batch"
        if shared
        else "look at what else differs between training and evaluation, in the layers named"
    )
    cause = Cause(rules.DISAGREES, "not established", remedy, tried, 0.0)
    return _finding(m, cause, tried, None, bound, known=False)


def _poisoned(m: Measured) -> Cause | None:
    bad = [t for t, v in zip(m.tracked, m.moving, strict=True) if not np.isfinite(v).all()]
    if not bad:
        return None
    where = ", ".join(list(dict.fromkeys(t.path for t in bad))[:3])
    text = (
        f"the stored statistics of {where} hold NaN or Inf: one bad batch stays in a moving "
        "average for ever"
    )
    empty = poisoned.empty_batches(m.training, m.data, [t.variable for t in m.tracked], where)
    if empty is not None:
        return Cause(rules.NOT_FINITE, empty.cause, empty.remedy, empty.tested, 1.0)
    remedy = "find the batch (NaN in the data, or an overflow), then recalibrate(model, x)"
    return Cause(rules.NOT_FINITE, text, remedy, "", 1.0)


def _degenerate(m: Measured) -> Cause | None:
    """A momentum outside [0, 1): what a run keeps of the old value was measured."""
    bad = [t for t in m.tracked if not -1e-3 < t.retention < 1]
    if not bad:
        return None
    return Cause(
        rules.MOMENTUM,
        f"an update of {bad[0].path} keeps {bad[0].retention:.3g} of the old value: the moving "
        "average runs away",
        "momentum 0.9 to 0.99; then train again, or recalibrate(model, x)",
        "measured: one update from statistics at 0 and one from statistics at 1",
        1.0,
    )


def _lagging(m: Measured) -> Cause | None:
    """Put the population statistics in and train on: a lag opens again as far as it was.

    With the weights at rest, neither the steps nor chance may do so.
    """
    far = away(m)
    if m.step is None or far is None or not far <= HALF:
        return None
    size, momentum = len(m.batches.rows[0]), m.slowest.momentum
    horizon = math.ceil(1 / max(1 - momentum, 1e-3))
    steps = min(horizon, MOST_STEPS if m.small else 2 * len(m.batches))
    with preserve_state(m.subject, m.step.own):
        statistics.write(m.tracked, m.reference)
        try:
            m.step(m.data.take(np.resize(m.batches.order, steps * size)))
        except Exception:  # whatever the user's step raises, it is not what was asked
            return None
        now = [t.variable.numpy().astype(np.float64) for t in m.tracked]
        opened = m.apart(now, m.statistics_of(m.batches).population)
    in_turn = [m.seen[i % len(m.seen)] for i in range(steps)]
    at_rest = m.apart(moving_averages(m, in_turn), m.reference)
    whole = m.apart(m.moving, m.with_initial(m.certain_share or 0.0))
    expected = whole * (1 - max(momentum, 0.0) ** steps)
    if not opened - at_rest > HALF * expected:
        return None
    left = "" if m.certain_share is None else f", {m.certain_share:.1%} of the initial values left"
    return Cause(
        rules.LAGGING,
        f"the moving statistics (momentum {momentum:.3g}{left}) lag behind weights that still "
        "moved when training ended",
        "end training with a small learning rate, or use a smaller momentum; or "
        "recalibrate(model, x)",
        f"{steps} more training steps, begun with the population statistics, open a distance of "
        f"{opened:.2g} standard deviations between them and the moving ones again ({whole:.2g} as "
        f"stored); with the weights at rest, the same batches open {at_rest:.2g}",
        1.0,
    )


def _domains(m: Measured) -> Cause | None:
    """Give each call of a shared layer statistics of its own: does what training said return?"""
    run, means = per_call(m.training, m.tracked, m.seen, m.batches[0].x)
    if run is None:
        return None
    statistics.write(m.tracked, m.reference)
    alone = Side(run.over(m.data.batches(len(m.batches.rows[0]))))
    before = gap(m.stored, m.trained, m.data).outputs
    left = gap(alone, m.trained, m.data).outputs
    if not left < HALF * min(before, gap(m.population, m.trained, m.data).outputs):
        return None
    path, levels = next(iter(means.items()))
    told = " and ".join(f"{float(level):.2g}" for level in levels[:3])
    return Cause(
        rules.DOMAINS,
        f"{path} normalises {len(levels)} inputs of unlike distribution in one step (means "
        f"{told}): training normalises each by itself, evaluation all by one mixture",
        JOIN,
        f"with statistics of its own for each call, the outputs are {left:.2g} standard "
        f"deviations from those of training, with the stored ones {before:.2g}",
        1.0,
    )


def _finding(
    m: Measured, cause: Cause, tested: str, table: Table | None, bound: str, known: bool = True
) -> Finding:
    by_population = cause.rule not in (rules.DOMAINS, rules.DISAGREES) or table is not None
    reference = m.population if by_population else m.trained
    said = numbers(m.stored, reference, gap(m.stored, reference, m.data))
    evidence: dict[str, Any] = {
        "momentum": m.slowest.momentum,
        "updates": m.updates,
        "initial_share": m.certain_share,
        "initial_share_measured": m.initial_share,
        "gap_to_training": gap(m.stored, m.trained, m.data).outputs,
        "gap_left": gap(m.population, m.trained, m.data).outputs,
    }
    layers = len({id(t.layer) for t in m.tracked})
    shared = [t.path for t in m.tracked if t.calls > 1]
    layer = table.rows[0][0] if table else (shared or [m.tracked[0].path])[0]
    layer = cause.place or layer
    text = cause.text
    if table and not cause.place and layers > 1 and not _one_explains(table):
        text += f" (in {layers} normalisers; none alone closes half of the gap)"
    return Finding(
        cause.rule.id,
        cause.rule.slug,
        layer,
        f"evaluate disagrees with train: {said} ({m.data.rows} rows)",
        text,
        known,
        cause.remedy,
        tested,
        bound,
        table,
        evidence,
    )


def _one_explains(table: Table) -> bool:
    """Whether the first layer alone closes half of the gap, or that is not known."""
    closes = table.rows[0][1].rstrip("%")
    return closes == "?" or (closes.lstrip("-").isdigit() and int(closes) >= 50)


def _scores(side: Side) -> str:
    if side.scores:
        return " and ".join(f"{name} {number(value)}" for name, value in side.scores.items())
    return "the outputs of training come back"
