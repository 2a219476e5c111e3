"""Moving averages that no data explains: NaN, variances below 0, a momentum that is none."""

from __future__ import annotations

import numpy as np

from pytest_bnconsistency.checks import non_finite_statistics
from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import Cause
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.measurement.swapped_statistics import swapped
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted


def non_finite(m: Measured) -> Cause | None:
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


def negative(m: Measured) -> Cause | None:
    """Variances below 0, which no average of variances is; None where they are means, swapped."""
    bad = [
        (t, channels)
        for t, v in zip(m.tracked, m.moving, strict=True)
        if (t.known or t.partner) and t.role not in ("mean", "other")
        if (channels := int((v < 0).sum()))
    ]
    if not bad or swapped(m.tracked, m.moving, m.reference) is not None:
        return None
    (first, channels), paths = bad[0], list(dict.fromkeys(t.path for t, _ in bad))
    more = f" and {counted(len(paths) - 1, 'more layer')}" if paths[1:] else ""
    return Cause.tested(
        rules.NEGATIVE_VARIANCE,
        cause=f"the stored {first.role} of {first.path}{more} is negative in {channels} of "
        f"{first.stored.size} channels: no average of such values is",
        tested="",
        remedy="check the order and the signs of what was loaded or written; then "
        "recalibrate(model, x)",
        share=1.0,
    )


def unstable(m: Measured) -> Cause | None:
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
