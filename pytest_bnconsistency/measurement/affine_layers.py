"""Calls that scale and shift what they are given by fixed numbers, as layers of preprocessing do.

They are known by what comes out of them, and changed by what goes on from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.measurement.tracked_variables import Tracked, tracked_candidates
from pytest_bnconsistency.models import Call, Subject

EXACT, ROUND_OFF = 2e-3, 1e-6
"""What may be left, in the standard deviations and sizes of what comes out."""
ROUNDING = 1e-10
"""What varies by less, against its size, does not vary."""
NOTHING = 1e-3
"""What a call scales and shifts by less is left as it is."""


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation, lowest and highest of some values, of each channel."""

    mean: Array
    deviation: Array
    low: Array
    high: Array

    def under(self, scale: Array, offset: Array) -> Spread:
        """The same of these values scaled and shifted."""
        ends = np.stack([scale * self.low + offset, scale * self.high + offset])
        return Spread(
            scale * self.mean + offset,
            np.abs(scale) * self.deviation,
            ends.min(axis=0),
            ends.max(axis=0),
        )


@dataclass(frozen=True)
class Affine:
    """A call that gives `scale * given + offset`, channel by channel.

    What it was `given` is told by its spread. All arrays broadcast against what the call gives;
    `varies` says in which channels that varies at all.
    """

    call: Call
    scale: Array
    offset: Array
    given: Spread

    @property
    def varies(self) -> Array:
        return np.asarray(self.given.deviation > 0)

    @property
    def gives(self) -> Spread:
        return self.given.under(self.scale, self.offset)


class _Beside(Instrument):
    """Records what some calls, by label, were given and what they give."""

    def __init__(self, labels: Collection[str]) -> None:
        self._labels = frozenset(labels)

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if call.label not in self._labels:
            return outputs, None
        return outputs, [tf.cast(call.args[0], tf.float32), tf.cast(outputs, tf.float32)]


class Rescaled(Instrument):
    """What one call gives goes on scaled and shifted by variables; the rest is `inner`'s."""

    def __init__(self, label: str, like: Array, inner: Instrument | None = None) -> None:
        self._label, self._inner = label, inner or Instrument()
        self.scale = tf.Variable(np.ones(like.shape, np.float32))
        self.offset = tf.Variable(np.zeros(like.shape, np.float32))

    def begin(self) -> None:
        self._inner.begin()

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if call.label == self._label:
            changed = tf.cast(outputs, tf.float32) * self.scale + self.offset
            outputs = tf.cast(changed, outputs.dtype)
        return self._inner.on_call(call, outputs, replay)

    def finish(self, outputs: list[Any]) -> list[Any] | None:
        return self._inner.finish(outputs)


def affine_calls(
    inference: Pass, tracked: Sequence[Tracked], batches: Iterable[Data]
) -> list[Affine]:
    """The calls before the first of the `tracked` that scale and shift by what does not train."""
    labels = _candidates(inference, {id(t.layer) for t in tracked})
    return scaled_and_shifted(inference, labels, batches) if labels else []


def scaled_and_shifted(
    inference: Pass, labels: Collection[str], batches: Iterable[Data]
) -> list[Affine]:
    """The calls, of those with these labels, that scale and shift what they are given."""
    found: dict[str, _Seen] = {}
    run: Pass | None = None
    for batch in batches:
        if run is None:
            run = inference.again(batch.x, _Beside(labels))
        records = run.run(batch.x).records
        for call, record in zip(run.calls, records, strict=False):
            if record is not None:
                found.setdefault(call.label, _Seen(call)).add(*record)
    known = (seen.affine() for seen in found.values())
    return [affine for affine in known if affine is not None]


def _candidates(inference: Pass, tracked: Collection[int]) -> list[str]:
    """The labels of the calls that may be such, by their shapes and weights."""
    labels = []
    for call in inference.calls:
        if id(call.layer) in tracked:
            break
        given = call.args[0] if call.args else None
        if (
            isinstance(given, tf.Tensor)
            and (given.dtype.is_floating or given.dtype.is_integer)
            and not (call.is_layer and _trains(inference.subject, call.layer))
        ):
            labels.append(call.label)
    return labels


def _trains(subject: Subject, layer: Any) -> bool:
    """Whether a layer, or one inside of it, holds weights that training moves."""
    return any(
        subject.trainable(part)
        and len([v for v in subject.own_variables(part) if v.dtype.is_floating])
        > len(tracked_candidates(subject, part))
        for part in (layer, *subject.sublayers(layer))
    )


class _Seen:
    """What a call was given and gave, batch by batch."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._axes: tuple[int, ...] | None = None
        self._elsewhere = False
        self._count = 0.0
        self._sums: Array = np.zeros(())
        self._ends: list[Array] = []

    def add(self, given: Array, gave: Array) -> None:
        given, gave = given.astype(np.float64), gave.astype(np.float64)
        if self._axes is None and not self._elsewhere:
            self._axes = _axes(given, gave)
        if self._axes is None or given.shape != gave.shape:
            self._elsewhere, self._axes = True, None
            return
        axes = self._axes
        ends = [given.min(axes, keepdims=True), given.max(axes, keepdims=True)]
        if self._ends:
            ends = [np.minimum(self._ends[0], ends[0]), np.maximum(self._ends[1], ends[1])]
        self._ends = ends
        self._count += given.size / ends[0].size
        products = (given, gave, given**2, given * gave)
        self._sums = self._sums + np.stack([p.sum(axes, keepdims=True) for p in products])

    def affine(self) -> Affine | None:
        if self._axes is None:
            return None
        mean, out, square, product = self._sums / self._count
        variance = np.maximum(square - mean**2, 0.0)
        varies = variance > ROUNDING * square
        scale = np.where(varies, (product - mean * out) / np.where(varies, variance, 1.0), 1.0)
        offset = out - scale * mean
        deviation = np.sqrt(np.where(varies, variance, 0.0))
        moved = np.abs(scale - 1) + np.abs(offset) / np.maximum(deviation, 1e-12)
        if not varies.any() or not moved[varies].max() > NOTHING:
            return None
        return Affine(self._call, scale, offset, Spread(mean, deviation, *self._ends))


def _axes(given: Array, gave: Array) -> tuple[int, ...] | None:
    """The axes along which a call scales and shifts alike; None where it does something else."""
    whole = tuple(range(given.ndim))
    if given.shape != gave.shape or given.ndim < 2:
        return None
    for axes in (whole, whole[:-1], (0, *whole[2:]), (0,)):
        mean, out = given.mean(axes, keepdims=True), gave.mean(axes, keepdims=True)
        variance = given.var(axes, keepdims=True)
        along = ((given - mean) * (gave - out)).mean(axes, keepdims=True)
        scale = along / np.maximum(variance, 1e-30)
        left = (gave - out - scale * (given - mean)).std(axes, keepdims=True)
        rounding = ROUND_OFF * np.abs(gave).max(axes, keepdims=True)
        if variance.any() and (left <= EXACT * gave.std(axes, keepdims=True) + rounding).all():
            return axes
    return None
