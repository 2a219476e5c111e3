"""Moving statistics that lag behind weights that still move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import BY_CHANCE, HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import away
from pytest_bnconsistency.checks.train_eval_agreement.causes.rows_in_order import moving_averages
from pytest_bnconsistency.checks.train_eval_agreement.measured import CERTAIN_SHARE, Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.execution.training_steps import forget_training
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits

MOST_STEPS = 200
"""Training steps that a lag is tried on, where they are cheap."""
EXPONENTIAL = "keep exponential averages (momentum 0.9 to 0.99) in place of these"
SAME_PLACES = 0.8
"""The cosine between distances as stored and as they open again: 0.98 and 0.99 of lags that were
seen, 0.15 to 0.4 where a bias, or means alone, were changed.
"""
TIMES_AS_FAR = 4
"""A statistic that is left so many times as far behind as it was did not lag in such steps."""


def lagging(m: Measured) -> Cause | None:
    """Put the population statistics in and train on: a lag opens again where it was, and as far.

    With the weights at rest, neither the steps nor chance may do so; and where a statistic is left
    far more behind than it was, these steps are not like the last ones.
    """
    step = m.step
    if step is None or not _tells(m, step):
        return None
    momentum = max(m.slowest.momentum, 0.0)
    memory = min(
        math.ceil(1 / max(1 - momentum, 1e-3)), MOST_STEPS if m.small else 2 * len(m.batches)
    )
    steps = min(memory, m.updates or memory)  # a lag of few updates opened in as many
    left = _trained_on(m, step, steps)
    if left is None or _far_more(m, m.deviations(*left)):
        return None
    at_rest = moving_averages(m, [m.seen[i % len(m.seen)] for i in range(steps)])
    share = _initial_share(m)
    expected = m.with_initial(share or 0.0)
    now, then, rest = (
        m.deviation(*sides) for sides in (left, (m.moving, expected), (at_rest, m.reference))
    )
    if not now - rest > HALF * then * (1 - momentum**memory):
        return None
    if not _in_the_same_places(
        m.deviations(m.moving, expected),
        m.deviations(*left),
        m.deviations(at_rest, m.reference),
    ):
        return None
    initial = "" if share is None else f", {share:.1%} of the initial values left"
    average = f"the moving statistics (momentum {m.slowest.momentum:.5g}{initial})"
    remedy = "end training with a small learning rate, or use a smaller momentum"
    if m.slowest.cumulative:
        last = f"the last step counts {1 - m.slowest.momentum:.2g}"
        average, remedy = f"averages over all of training ({last})", EXPONENTIAL
    return Cause.tested(
        rules.LAGGING,
        cause=f"{average} lag behind weights that still moved when training ended",
        tested=f"{steps} more training steps from the population statistics leave the moving ones "
        f"{digits(now, 2)} standard deviations behind again ({digits(then, 2)} as stored); with "
        f"the weights at rest, the same steps leave {digits(rest, 2)}",
        remedy=f"{remedy}; or recalibrate(model, x)",
        share=1.0,
    )


def _tells(m: Measured, step: RealStep) -> bool:
    """Whether steps may be like those of training, and carry the statistics to those of the data.

    Those of an optimizer that was made after training move the weights as no step did.
    """
    far = away(m) if step.has_run else None
    return far is not None and far <= HALF


def _trained_on(m: Measured, step: RealStep, steps: int) -> tuple[list[Array], list[Array]] | None:
    """What steps from the population statistics leave stored, and the population's then."""
    with preserve_state(m.subject, step.own):
        forget_training(m.subject, step.own)  # it may have been traced for other settings
        return m.after_steps(steps)


def _initial_share(m: Measured) -> float | None:
    """The initial values that the updates leave; None where training went on before them."""
    return m.certain_share if m.biased or (m.certain_share or 1.0) < CERTAIN_SHARE else None


def _in_the_same_places(
    stored: Sequence[float], left: Sequence[float], at_rest: Sequence[float]
) -> bool:
    """Whether the steps leave behind what is behind as stored: the cosine of both, over places."""
    opened = np.maximum(np.subtract(left, at_rest), 0.0)
    lengths = np.linalg.norm(opened) * np.linalg.norm(stored)
    return bool(np.dot(opened, stored) > SAME_PLACES * lengths)


def _far_more(m: Measured, opened: Sequence[float]) -> bool:
    """Whether a statistic is left far more behind than it was."""
    before = m.deviations(m.moving, m.reference)
    return any(
        now > TIMES_AS_FAR * max(was, BY_CHANCE) for now, was in zip(opened, before, strict=True)
    )
