"""Weights that were changed after the last step: averaged, swapped, pruned, rounded, restored.

The stored statistics are those of the weights before. Where the optimizer still has these, or
averages at the end of each fit, that is tried; otherwise it is only what is likely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.state import preserve_state, restored
from pytest_bnconsistency.measurement.compared_outputs import gap
from pytest_bnconsistency.measurement.trained_weights import beside, weights_of
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits

REMEDY = (
    "recalibrate(model, x) after the weights were changed; or change the statistics along with "
    "the weights"
)
STEPS, OF_LARGE = 100, 8
"""Training steps that are tried: weights that move on leave their average behind."""
SEEN = 0.25
"""So much of the distance must such steps open again."""
PRUNED, FEW_VALUES, LARGE = 0.2, 256, 64
"""Zeros among weights, and distinct values in kernels of at least so many weights, that training
does not leave.
"""


def other_weights(m: Measured) -> Iterator[Cause]:
    """Put in the weights that the optimizer holds beside the model's; or train without average."""
    weights = weights_of(m.subject)
    saved = beside(m.subject, weights)
    if saved is not None and not _same(weights, saved):
        yield _put_in(m, weights, saved)
    yield from _averaged(m)


def likely(m: Measured) -> str:
    """What the weights themselves tell of a change after training; empty where they don't."""
    weights = weights_of(m.subject)
    saved = beside(m.subject, weights)
    if saved is not None and _same(weights, saved):
        return "the weights are, to the last bit, the average that the optimizer keeps"
    kernels = [w.numpy() for w in weights if w.shape.rank > 1 and w.shape.num_elements() >= LARGE]
    if not kernels:
        return ""
    return _pruned(kernels) or _rounded(kernels) or _quantised(kernels)


def _pruned(kernels: Sequence[Array]) -> str:
    zeros = sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)
    return f"{zeros:.0%} of the weights are exactly 0, as after pruning" if zeros > PRUNED else ""


def _rounded(kernels: Sequence[Array]) -> str:
    for name in ("float16", "bfloat16"):
        dtype = tf.as_dtype(name).as_numpy_dtype
        if all(k.dtype.itemsize > 2 and (k.astype(dtype) == k).all() for k in kernels):
            return f"all weights are numbers of {name}, as after rounding"
    return ""


def _quantised(kernels: Sequence[Array]) -> str:
    if all(len(np.unique(k)) <= min(FEW_VALUES, k.size // 4) for k in kernels):
        return f"no kernel has more than {FEW_VALUES} different weights, as after quantising"
    return ""


def _same(weights: Sequence[Any], saved: Sequence[Array]) -> bool:
    return all(np.array_equal(w.numpy(), value) for w, value in zip(weights, saved, strict=True))


def _put_in(m: Measured, weights: Sequence[Any], saved: Sequence[Array]) -> Cause:
    """With the optimizer's weights, are the stored statistics those of the data?"""
    before = gap(m.stored, m.population, m.data).outputs
    with restored(weights):
        for weight, value in zip(weights, saved, strict=True):
            weight.assign(value)
        values = m.statistics_of(m.batches).population
        after = gap(m.under(m.moving), m.under(values), m.data).outputs
    closes = after < HALF * min(before, 1.0)
    return Cause.tested(
        rules.OTHER_WEIGHTS,
        cause="the stored statistics are those of other weights, which the optimizer keeps beside "
        "the model's: the weights were exchanged after the last step, as for an average",
        tested=f"with the optimizer's weights in the model, evaluation is {digits(after, 2)} "
        f"standard deviations from that under population statistics, with its own "
        f"{digits(before, 2)}",
        remedy=REMEDY,
        share=m.explained(values) if closes else 0.0,
    )


def _averaged(m: Measured) -> Iterator[Cause]:
    """An optimizer that puts its average in at the end of a fit: train with it and without."""
    optimizer = getattr(m.subject.model, "optimizer", None)
    if optimizer is None or m.step is None or not getattr(optimizer, "use_ema", False):
        return
    if m.biased:  # averages or not, the initial values are left
        return
    steps = STEPS if m.small else OF_LARGE
    opened = list[float]()
    for averages in (True, False):
        with preserve_state(m.subject):
            optimizer.use_ema = averages
            left = m.after_steps(steps)
        if left is None:
            return
        opened.append(m.deviation(*left))
    whole = m.deviation(m.moving, m.reference)
    with_average, without = opened
    if not with_average - without > SEEN * whole or not without < HALF * with_average:
        return
    yield Cause.tested(
        rules.OTHER_WEIGHTS,
        cause="the optimizer puts the average of the weights in when training ends, and the "
        "stored statistics are those of the weights before that",
        tested=f"{steps} more training steps from the population statistics leave them "
        f"{digits(with_average, 2)} standard deviations apart again ({digits(whole, 2)} as "
        f"stored); where the average is not put in at their end, {digits(without, 2)}",
        remedy=REMEDY,
        share=1.0,
    )
