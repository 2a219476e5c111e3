"""Why what is stored cannot be used, or is unusual: each cause is tried on the layer alone.

Whoever asks restores the state of the subject: to adapt a layer changes more than its statistics.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, all_finite
from pytest_bnconsistency.measurement.isolated_layer import IsolatedLayer
from pytest_bnconsistency.measurement.monte_carlo_rounding import EPSILON
from pytest_bnconsistency.measurement.stored_statistics import (
    NormalizationLayer,
    attributes,
    is_variance,
)
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.words import first_line, listed

USUAL_MOMENTUM = 0.9
MARGIN = 0.01
"""What rounding may do to a share of the old statistics, or to a mean that is zero."""
LEFT, MOST_UPDATES = 0.001, 2000
"""So many updates are tried as leave this share of the old statistics."""
STEP = 0.1
MIXED_UP = "weights mixed up when they were loaded, or another momentum before"


Why = Callable[[NormalizationLayer], Explanation | None]
"""Explains a fault of a layer. Of a cause that is not established, it tells what is usual."""


def described(reason: Explanation, remedy: str) -> Explanation:
    """The explanation as it is printed: with that remedy, where it has none of its own."""
    cause = reason.cause if reason.established else f"not established; {reason.cause}"
    return replace(reason, cause=cause, remedy=reason.remedy or remedy)


def tried(usual: str) -> Callable[[Why], Why]:
    """A cause that a run can show; what is usual where nothing runs."""

    def decorated(why: Why) -> Why:
        @functools.wraps(why)
        def guarded(n: NormalizationLayer) -> Explanation | None:
            try:
                return why(n)
            except Exception as error:  # whatever a layer raises that runs outside of its model
                said = f"{type(error).__name__}: {first_line(error)}"
                return Explanation(cause=usual, tested=f"{n.path} could not be tried: {said}")

        return guarded

    return decorated


@tried(
    "with momentum 1 the statistics never move, with 0 they are those of the last batch; outside "
    "[0, 1] they run away"
)
def degenerate_momentum(n: NormalizationLayer) -> Explanation | None:
    """What an update keeps of the old value; None where the layer averages all the same."""
    layer = _isolated(n)
    kept = layer.kept() if n.measured is None else n.measured
    if n.measured is None and MARGIN < kept < 1 - MARGIN:
        return None
    if abs(kept - 1) <= MARGIN:
        does = "the statistics never move"
    elif abs(kept) <= MARGIN:
        does = "the statistics are those of the last batch"
    else:
        does = "no average: the statistics run away"
    if n.measured is not None:
        tested = "measured: one update from statistics at 0 and one from statistics at 1"
        return Explanation(cause=f"momentum {kept:g}: {does}", tested=tested, established=True)
    with _usual_momentum(n):
        usual = layer.kept()
    return Explanation(
        cause=f"momentum {n.momentum:g}: {does}",
        tested=f"a training call of {n.path} alone keeps {100 * kept:.3g}% of the old statistics; "
        f"with momentum {USUAL_MOMENTUM} it keeps {100 * usual:.3g}%",
        established=MARGIN < usual < 1 - MARGIN,
        remedy=f"momentum 0.01 to {1 - USUAL_MOMENTUM:.1g}: the layer takes it for the share of "
        "the new value"
        if abs(usual - 1 + USUAL_MOMENTUM) <= MARGIN
        else "",
    )


@tried(MIXED_UP)
def negative_variance(n: NormalizationLayer) -> Explanation:
    """Whether the layer's momentum takes variances below zero, and another does not."""
    lowest = _lowest_variance(n)
    if n.declared is None or lowest >= 0:
        does = "leave its variance positive" if lowest >= 0 else f"bring it down to {lowest:.3g}"
        return Explanation(
            cause=MIXED_UP,
            tested=f"training calls of {n.path} alone, on batches of small and of large spread, "
            f"{does}",
        )
    with _usual_momentum(n):
        usual = _lowest_variance(n)
    return Explanation(
        cause=f"momentum {n.momentum:g}: no average, so a variance can go below zero",
        tested=f"training calls of {n.path} alone, on batches of small and of large spread, bring "
        f"its variance down to {lowest:.3g}, with momentum {USUAL_MOMENTUM} to {usual:.3g}",
        established=usual >= 0,
        remedy=f"momentum {USUAL_MOMENTUM} to 0.99; then recalibrate(model, x)",
    )


@tried("an update of (1 - momentum) of the distance is rounded away before it arrives")
def rounded_away(n: NormalizationLayer) -> Explanation:
    """How far many updates towards one batch get, in the layer's dtype and in float32."""
    momentum = n.momentum or 0.0
    updates = min(math.ceil(math.log(LEFT) / math.log(momentum)), MOST_UPDATES)
    x = _isolated(n).batch(mean=10)
    half = _isolated(n).trained(x, 0.0, updates)
    single = _isolated(_rebuilt(n, dtype="float32")).trained(x, 0.0, updates)
    short = [abs(a - b) / np.maximum(np.abs(b), 1e-12) for a, b in zip(half, single, strict=True)]
    worst = [int(deviation.argmax()) for deviation in short]
    dtype = next(iter(n.vectors.values())).dtype.name

    def described(values: list[Array]) -> str:
        parts = zip(n.vectors, values, worst, strict=True)
        return listed(f"{name} at {value.flat[at]:.4g}" for name, value, at in parts)

    return Explanation(
        cause=f"{dtype}: an update of (1 - momentum) of the distance is rounded away before it "
        "arrives",
        tested=f"{updates} updates of {n.path} alone, from 0 towards one batch, leave "
        f"{described(half)}; in float32 {described(single)}",
        established=bool(max(deviation.max() for deviation in short) > 2 * EPSILON[dtype]),
    )


@tried("adapt was never called, and no weights were loaded")
def not_adapted(n: NormalizationLayer) -> Explanation | None:
    """Whether the layer returns its input; None where it does something all the same."""
    layer = _isolated(n)
    x = layer.batch()
    given = x.astype(layer.call(x, training=False).dtype)
    if not np.array_equal(layer.call(x, training=False), given):
        return None
    n.layer.adapt(x.astype(np.float32))
    return Explanation(
        cause="adapt was never called, and no weights were loaded",
        tested=f"{n.path} alone returns a drawn batch bit by bit; adapted to that batch, it does "
        "not",
        established=not np.array_equal(layer.call(x, training=False), given),
    )


def by_what_is_stored(n: NormalizationLayer) -> tuple[Array, Array, Array]:
    """A drawn batch, what the layer makes of it, and what it makes of it by what it stores."""
    layer = _isolated(n)
    x = layer.batch()
    before = layer.call(x, training=False)
    n.in_use()
    return x, before, layer.call(x, training=False)


@tried("the weights were set after the layer was built, and finalize_state was not called since")
def not_in_use(n: NormalizationLayer) -> Explanation:
    """What a batch becomes as the layer is, and by what it stores."""
    x, before, after = by_what_is_stored(n)
    return Explanation(
        cause="the weights were set after the layer was built, and finalize_state was not called "
        "since",
        tested=f"a drawn batch of mean {x.mean():.3g} has mean {before.mean():.3g} behind "
        f"{n.path} alone, and after {n.path}.finalize_state() mean {after.mean():.3g}",
        established=not np.array_equal(before, after),
    )


def never_forgets(n: NormalizationLayer) -> str:
    """What a clean batch does to what is stored: why the layer does not recover, no more."""
    stored, fresh = (_after_a_batch(n, start=start).described for start in (None, 0.0))
    return (
        f"a training call of {n.path} alone, on a batch of numbers, leaves what is stored "
        f"{stored} and statistics of 0 {fresh}; which batch it was can't be tried without data"
    )


def takes_overflow(n: NormalizationLayer) -> tuple[bool, str]:
    """Whether a batch with an Inf makes the layer's statistics so, and one without does not."""
    spoilt, clean = (_after_a_batch(n, start=0.0, spoilt=bad) for bad in (True, False))
    return (
        spoilt.finite is False and clean.finite is True,
        f"a batch with an Inf leaves the statistics of {n.path} alone {spoilt.described}, one "
        f"without {clean.described}",
    )


def wrong_axis(axis: int, fits: Callable[[NormalizationLayer], bool]) -> Why:
    """Whether the layer along `axis` makes channels alike, and as it is does not.

    `fits` says of a layer whether its own axis is the right one all the same.
    """

    @tried(
        "the axis of the normalization layer and the data format of the model's other layers "
        "differ"
    )
    def why(n: NormalizationLayer) -> Explanation | None:
        if fits(n):
            return None
        x = _isolated(n).batch()
        x = np.moveaxis(np.moveaxis(x, axis, -1) + 3 * np.arange(x.shape[axis]), -1, axis)
        own = _channels_separated(_isolated(n), x, axis)
        other = _channels_separated(_isolated(_rebuilt(n, axis=axis)), x, axis)
        return Explanation(
            cause=f"axis {n.axis[0] if n.axis else '?'}: the model's channels lie along axis "
            f"{axis}",
            tested=f"{n.path} alone leaves the means of the channels of a drawn batch apart "
            f"({own:.0%} of all spread); built anew with axis={axis} it does not ({other:.0%})",
            established=own > 10 * MARGIN and other < MARGIN,
        )

    return why


@tried("what feeds them was constant in training, or every batch was a single row")
def dead_channels(n: NormalizationLayer) -> Explanation:
    """What the layer makes of a small step of its input, and with variances of 1."""
    own = _isolated(n).gain(STEP)
    for name, variable in n.vectors.items():
        if is_variance(name):
            variable.assign(tf.ones_like(variable))
    n.in_use()
    usual = _isolated(n).gain(STEP)
    cause = "stored variances that are small against epsilon: the gain is 1 / sqrt(epsilon)"
    if n.adapts:
        cause = "what the layer was adapted to does not vary there: it divides by next to nothing"
    return Explanation(
        cause=cause,
        tested=f"an input {STEP} off moves what {n.path} alone returns by up to {STEP * own:.3g}, "
        f"with variances of 1 by {STEP * usual:.3g}",
        established=own > 2 * usual,
    )


def large_epsilon(other: float) -> Why:
    """What the layer makes of a small step of its input, and with another epsilon."""

    @tried("the variances of many channels are small against epsilon")
    def why(n: NormalizationLayer) -> Explanation:
        given, before = n.layer.epsilon, _isolated(n).gain(STEP)
        n.layer.epsilon = other
        after = _isolated(n).gain(STEP)
        n.layer.epsilon = given
        return Explanation(
            cause=f"epsilon {given:g}: the variances of many channels are small against it",
            tested=f"{n.path} alone returns {before:.3g} times a small step of its input; with "
            f"epsilon {other:g}, {after:.3g} times",
            established=after > 2 * before,
        )

    return why


def _isolated(n: NormalizationLayer) -> IsolatedLayer:
    return IsolatedLayer(n.layer, list(n.vectors.values()))


@dataclass(frozen=True)
class Numbers:
    """Whether some numbers are finite; what was raised instead, where that can't be told."""

    finite: bool | None
    raised: str = ""

    @property
    def described(self) -> str:
        if self.finite is None:
            return f"untried ({self.raised})"
        return "finite" if self.finite else "NaN or Inf"


def _after_a_batch(n: NormalizationLayer, start: float | None, spoilt: bool = False) -> Numbers:
    """The statistics after a training call on a batch, with an Inf in it or not."""
    layer = _isolated(n)
    x = layer.batch()
    if spoilt:
        x.flat[0] = np.inf
    try:
        after = layer.trained(x, start)
    except Exception as error:
        return Numbers(None, f"{type(error).__name__}: {first_line(error)}")
    return Numbers(all_finite(after))


def _rebuilt(n: NormalizationLayer, **changed: Any) -> NormalizationLayer:
    """The layer built again from its own configuration, with some of it changed."""
    given = n.layer.get_config()
    unknown = [name for name in changed if name not in given]
    if unknown:
        raise ValueError(f"its configuration holds no {unknown[0]}")
    layer = type(n.layer).from_config({**given, **changed})
    layer(_isolated(n).batch().astype(np.float32))
    attribute_of = {id(variable): name for name, variable in attributes(n.layer).items()}
    vectors = {name: _own(layer, attribute_of.get(id(v), name)) for name, v in n.vectors.items()}
    return NormalizationLayer(layer, n.path, vectors, n.trainable)


def _own(layer: Any, name: str) -> Any:
    value = getattr(layer, name, None)
    value = getattr(layer, f"_{name}") if value is None else value
    return getattr(value, "_value", value)


def _lowest_variance(n: NormalizationLayer) -> float:
    """The lowest variance after a call on a batch of small spread, and on one of large."""
    layer, lowest = _isolated(n), math.inf
    for deviation in (0.01, 100.0):
        after = layer.trained(layer.batch(deviation=deviation), start=1.0)
        variances = (
            value for name, value in zip(n.vectors, after, strict=True) if is_variance(name)
        )
        lowest = min(lowest, *(float(value.min()) for value in variances))
    return lowest


@contextlib.contextmanager
def _usual_momentum(n: NormalizationLayer) -> Iterator[None]:
    own = n.layer.momentum
    try:
        n.layer.momentum = USUAL_MOMENTUM
        yield
    finally:
        n.layer.momentum = own


def _channels_separated(layer: IsolatedLayer, x: Array, axis: int) -> float:
    """How much of the spread of what the layer returns is between the means of the channels."""
    y = np.moveaxis(layer.call(x, training=True).astype(np.float64), axis, -1)
    y = y.reshape(-1, y.shape[-1])
    return float(y.mean(axis=0).std() / max(y.std(), 1e-12))
