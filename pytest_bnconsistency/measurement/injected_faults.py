"""Leaks between rows, injected on purpose: what a check can see is tried on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, is_float, map_nest
from pytest_bnconsistency.execution.graphs import is_batch, with_mask
from pytest_bnconsistency.execution.hooked_calls import Replay
from pytest_bnconsistency.execution.row_hashes import Fingerprints
from pytest_bnconsistency.measurement.monte_carlo_rounding import floating
from pytest_bnconsistency.models import Call


class InjectedFault(Fingerprints):
    """Can leak a share of the batch mean into the first row of what one call gives.

    The call is the `place`-th, or the first one after it that gives numbers; `index` says which it
    is, None where there is none. Every bit is as without this while the share is 0.
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self.share = tf.Variable(0.0, trainable=False)
        self.index: int | None = None
        self._place, self._calls = place, 0

    def begin(self) -> None:
        super().begin()
        self.index, self._calls = None, 0

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        late_enough = self.index is None and self._calls >= self._place
        if late_enough and any(map(_numbers, flatten(outputs))):
            self.index = self._calls
            outputs = map_nest(
                lambda leaf: self._inject(leaf) if _numbers(leaf) else leaf, outputs
            )
        self._calls += 1
        return super().on_call(call, outputs, replay)

    def _inject(self, tensor: Any) -> Any:
        first, share = tensor[:1], tf.cast(self.share, tensor.dtype)
        faulty = first + share * tf.reduce_mean(tensor, axis=0, keepdims=True)
        moved = tf.where(self.share > 0, faulty, first)
        return with_mask(tf.concat([moved, tensor[1:]], 0), tensor)


def inject_into(x: Nest, share: float) -> Nest:
    """`x` with `share` times the batch mean in row 0 of every array of floating numbers."""

    def inject(leaf: Array) -> Array:
        injected: Array = leaf.copy()
        if is_float(leaf):
            numbers = np.nan_to_num(leaf.astype(np.float64))
            injected[0] += (share * numbers.mean(0)).astype(leaf.dtype)
        return injected

    return map_nest(inject, x)


def _numbers(leaf: Any) -> bool:
    """Whether a leaf of what a call gives is a batch of floating numbers."""
    return is_batch(leaf) and floating(leaf)
