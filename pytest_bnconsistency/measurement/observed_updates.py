"""What one real training step does to each tracked variable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, all_finite
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.state import (
    Variables,
    preserve_state,
    reachable_variables,
    same_bits,
)
from pytest_bnconsistency.measurement.normalization_layers import is_even
from pytest_bnconsistency.measurement.steps_at_fixed_weights import RealStep
from pytest_bnconsistency.measurement.tracked_variables import Tracked, write_statistics
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.predict_methods import quiet


@dataclass(frozen=True)
class Update:
    """One training step seen from a tracked variable.

    `kept` is the share of the old value that it kept, `times` how many updates of the layer's
    momentum that is (None where the momentum does not tell). `even` says that all elements kept
    as much, which they don't where steps draw random numbers.
    """

    tracked: Tracked
    kept: float
    times: float | None
    even: bool


def observed(
    step: RealStep, tracked: Sequence[Tracked], batch: Data, far: float = 1.0
) -> list[Update]:
    """Run a step from statistics at zero and at `far`, from the same weights; all is restored.

    From zero, v <- a v + (1 - a) s leaves (1 - a) s; from one it leaves a more.
    """
    with preserve_state(step.subject, step.own):
        everything = Variables(reachable_variables(step.subject))
        ends = []
        for start in at_ends(tracked, far):
            everything.restore()
            write_statistics(tracked, start)
            step(batch)
            ends.append([t.stored for t in tracked])
    zero, other = ends
    return between(tracked, zero, other, far)


def at_ends(tracked: Sequence[Tracked], far: float = 1.0) -> tuple[list[Array], list[Array]]:
    """Statistics that are all zero, and all `far`."""
    zero, one = ([np.full(t.variable.shape, end) for t in tracked] for end in (0.0, far))
    return zero, one


def between(
    tracked: Sequence[Tracked], zero: Sequence[Array], one: Sequence[Array], far: float = 1.0
) -> list[Update]:
    """What a step does that leaves these statistics, begun at zero and at `far`."""
    found = []
    for t, low, high in zip(tracked, zero, one, strict=True):
        begun_at_zero, begun_far = low / far, high / far
        kept = float(np.median(begun_far - begun_at_zero))
        times = None
        if not t.cumulative and 0 < t.momentum < 1 and kept > 0:
            times = math.log(min(kept, 1.0)) / math.log(t.momentum)
        even = is_even(t.variable, begun_at_zero, begun_far)
        found.append(Update(t, kept, times, even))
    return found


def skipped_overflow(subject: Subject) -> tuple[float, float] | None:
    """The scale of the loss at first and now, of an optimizer that skips steps that overflow.

    None where infinite gradients move a weight, or where one is not finite already. The optimizer
    and the weights stay as it leaves them.
    """
    optimizer = getattr(subject.model, "optimizer", None)
    first = getattr(optimizer, "initial_scale", None)
    now = getattr(optimizer, "loss_scale", getattr(optimizer, "dynamic_scale", None))
    weights = list(getattr(subject.model, "trainable_variables", []))
    if optimizer is None or first is None or now is None or not weights:
        return None
    scale, before = float(np.asarray(now)), [w.numpy() for w in weights]
    infinite = [tf.fill(w.shape, tf.cast(np.inf, w.dtype)) for w in weights]
    try:
        with quiet():
            optimizer.apply_gradients(list(zip(infinite, weights, strict=True)))
    except Exception:  # as for weights that were frozen when it was built
        return None
    unmoved = all(same_bits(w.numpy(), value) for w, value in zip(weights, before, strict=True))
    return (float(first), scale) if all_finite(before) and unmoved else None
