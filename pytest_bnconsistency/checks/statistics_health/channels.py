"""Where the channels of a model lie in what a layer is given: one is moved, the layer is watched.

A transposition between the two takes them to another axis than the one that the model's layers
name, and no attribute tells that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, rebuild
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.models import Call, Subject

FAR = 100.0
"""How far a channel is moved: an activation behind it can't hide that."""
IMAGES = 4
"""Axes from which on a model is one of images. What sequences are made of, their steps or their
features, only a layer that names its channels can tell.
"""
TRIED = 8
"""How many layers that name their channels are tried, the nearest first."""


class _OneChannel(Instrument):
    """Moves the first channel of what the call `moved` gives; records what `layer` is given.

    `named` are the calls before it, by their place, whose layers name the axis of their channels.
    """

    def __init__(self, layer: Any, axis: int, moved: int | None = None) -> None:
        self.layer, self.axis, self.moved = layer, axis, moved
        self.begin()

    def begin(self) -> None:
        self.named: list[int] = []
        self._place, self._met = -1, False

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        self._place += 1
        if call.layer is self.layer:
            self._met = True
            return outputs, [tf.convert_to_tensor(call.args[0])]
        if not self._met and hasattr(call.layer, "data_format"):
            self.named.append(self._place)
        if self._place == self.moved:
            outputs = rebuild(outputs, [_moved(leaf, self.axis) for leaf in flatten(outputs)])
        return outputs, None


def channels_lie_along(subject: Subject, layer: Any, x: Nest, axis: int) -> set[int]:
    """The axes of what `layer` is given along which channels may lie: one, where a run tells it.

    All, where there is only one channel; none, where no run tells.

    Args:
        x: rows for the model, arrays of shape `(rows, ...)`.
        axis: the axis of the channels in what the model's layers give, 1 or -1.
    """
    plain = _OneChannel(layer, axis)
    before = _given(subject, x, plain)
    if before is not None and before.shape[axis] == 1:
        return set(range(before.ndim))
    for place in [*reversed(plain.named)][:TRIED]:
        after = _given(subject, x, _OneChannel(layer, axis, place))
        if (found := _axis_that_differs(before, after)) is not None:
            return {found}
    if before is None or before.ndim < IMAGES:
        return set()
    other = rebuild(x, [_moved(leaf, axis) for leaf in flatten(x)])
    found = _axis_that_differs(before, _given(subject, other, plain))
    return set() if found is None else {found}


def _moved(values: Any, axis: int) -> Any:
    """With the first channel moved, where there are channels of numbers beside others."""
    shape = values.shape
    if len(shape) < 3 or shape[axis] in (None, 1) or not tf.as_dtype(values.dtype).is_floating:
        return values
    along = np.zeros([shape[axis] if a == axis % len(shape) else 1 for a in range(len(shape))])
    along.flat[0] = FAR
    return values + along.astype(tf.as_dtype(values.dtype).as_numpy_dtype)


def _given(subject: Subject, x: Nest, instrument: _OneChannel) -> Array | None:
    """What the layer is given in its first call, in inference; None if it does not run."""
    seen = Pass(subject, x, training=False, instrument=instrument, traced=False).run(x)
    return next((record[0] for record in seen.records if record), None)


def _axis_that_differs(before: Array | None, after: Array | None) -> int | None:
    """The only axis on which some places have changed and others not."""
    if before is None or after is None or before.shape != after.shape:
        return None
    changed = before != after
    partly = []
    for axis in range(1, before.ndim):
        places = changed.any(axis=tuple(a for a in range(before.ndim) if a != axis))
        if places.any() and not places.all():
            partly.append(axis)
    return partly[0] if len(partly) == 1 else None
