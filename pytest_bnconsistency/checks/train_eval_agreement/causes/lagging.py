"""Moving statistics that lag behind weights that still move."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import BY_CHANCE, HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import away
from pytest_bnconsistency.checks.train_eval_agreement.causes.rows_in_order import moving_averages
from pytest_bnconsistency.checks.train_eval_agreement.measured import CERTAIN_SHARE, Measured
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.execution.training_steps import forget_training
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits

MOST_STEPS = 200
"""Training steps that a lag is tried on, where they are cheap."""
TIMES_AS_FAR = 4
"""A statistic that is left so many times as far behind as it was did not lag in such steps."""


def lagging(m: Measured) -> Cause | None:
    """Put the population statistics in and train on: a lag opens again as far as it was.

    With the weights at rest, neither the steps nor chance may do so; and where a statistic is left
    far more behind than it was, these steps are not like the last ones.
    """
    step = m.step
    if step is None or not _tells(m, step):
        return None
    momentum = m.slowest.momentum
    steps = min(
        math.ceil(1 / max(1 - momentum, 1e-3)), MOST_STEPS if m.small else 2 * len(m.batches)
    )
    with preserve_state(m.subject, step.own):
        forget_training(m.subject, step.own)  # it may have been traced for other settings
        left = m.after_steps(steps)
    if left is None or _far_more(m, m.deviations(*left)):
        return None
    opened = m.deviation(*left)
    in_turn = [m.seen[i % len(m.seen)] for i in range(steps)]
    at_rest = m.deviation(moving_averages(m, in_turn), m.reference)
    # Where they were trained before these updates, no initial values are left.
    share = m.certain_share if m.biased or (m.certain_share or 1.0) < CERTAIN_SHARE else None
    whole = m.deviation(m.moving, m.with_initial(share or 0.0))
    if not opened - at_rest > HALF * whole * (1 - max(momentum, 0.0) ** steps):
        return None
    initial = "" if share is None else f", {share:.1%} of the initial values left"
    return Cause.tested(
        rules.LAGGING,
        cause=f"the moving statistics (momentum {momentum:.3g}{initial}) lag behind weights that "
        "still moved when training ended",
        tested=f"{steps} more training steps from the population statistics leave the moving ones "
        f"{digits(opened, 2)} standard deviations behind again ({digits(whole, 2)} as stored); "
        f"with the weights at rest, the same steps leave {digits(at_rest, 2)}",
        remedy="end training with a small learning rate, or use a smaller momentum; or "
        "recalibrate(model, x)",
        share=1.0,
    )


def _tells(m: Measured, step: RealStep) -> bool:
    """Whether steps may be like those of training, and carry the statistics to those of the data.

    Those of an optimizer that was made after training move the weights as no step did.
    """
    far = away(m) if step.has_run else None
    return far is not None and far <= HALF


def _far_more(m: Measured, opened: Sequence[float]) -> bool:
    """Whether a statistic is left far more behind than it was."""
    before = m.deviations(m.moving, m.reference)
    return any(
        now > TIMES_AS_FAR * max(was, BY_CHANCE) for now, was in zip(opened, before, strict=True)
    )
