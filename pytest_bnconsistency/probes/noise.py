"""The noise floor of a subject, and leaks injected on purpose.

Float noise is what the same computation gives by another order of operations. How much of it
reaches the outputs depends on the network, so it is measured on the network: every layer's
output is multiplied by 1 +- eps/2 with random signs, eps of that output's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, Nest, map_nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints
from pytest_bnconsistency.probes.taps import Pass, Replay
from pytest_bnconsistency.subjects import Call, Part

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
POOL = 4096
DRAWS = 3
BLACK_BOX = {"float64": 2.0**-49, "float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Floors by the coarsest dtype, in units of the output's scale, where nothing can be perturbed."""
MULTIPLE = 4.0
"""The bound is this many floors: batch-size noise was measured at up to 0.9 of one floor."""


class Perturbation(Fingerprints):
    """Multiplies outputs by 1 + sign * eps/2, and leaks c times the batch mean into row 0.

    `signs` is a pool of signs that all layers draw on, zeros for no noise. `leak` holds c for the
    model's inputs and for the layer of index `inside`. With `inputs`, these are multiplied, too.
    """

    def __init__(self, inside: int, *, inputs: bool = False) -> None:
        super().__init__()
        self.controls = {"signs": np.zeros(POOL, "f"), "leak": np.zeros(2, "f")}
        self._inside = inside
        self._inputs = inputs
        self._index = 0
        self._controls: Mapping[str, Any] = {}

    def begin(self, x: Nest, controls: Mapping[str, Any]) -> Nest:
        self._index, self._controls = 0, controls
        return map_nest(lambda leaf: self._leak(self._shaken_input(leaf), 0), x)

    def _shaken_input(self, leaf: Any) -> Any:
        if not (self._inputs and leaf.dtype.is_floating and leaf.shape.rank):
            return leaf
        return self._shake(leaf, POOL)

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        index, self._index = self._index, self._index + 1

        def leaf(tensor: Any) -> Any:
            if not isinstance(tensor, tf.Tensor) or not tensor.dtype.is_floating:
                return tensor
            if tensor.shape.rank is None:
                return tensor
            changed = self._shake(tensor, index)
            if index == self._inside:
                changed = self._leak(changed, 1)
            mask = getattr(tensor, "_keras_mask", None)
            if mask is not None:
                changed._keras_mask = mask
            return changed

        return super().tap(call, map_nest(leaf, outputs), replay)

    def _shake(self, tensor: Any, index: int) -> Any:
        half = EPSILON.get(tensor.dtype.name, 2.0**-23) / 2
        # A sign for each channel and place along the first inner axis: a draw for each element
        # would cost more than the network itself.
        shape = [
            tensor.shape[axis] or 1 if axis in (1, tensor.shape.rank - 1) and axis else 1
            for axis in range(tensor.shape.rank)
        ]
        chosen = np.random.default_rng(index).integers(0, POOL, shape)
        signs = tf.gather(self._controls["signs"], chosen.astype(np.int32))
        return tensor + tensor * tf.cast(signs * half, tensor.dtype)

    def _leak(self, tensor: Any, place: int) -> Any:
        if not tensor.dtype.is_floating or tensor.shape.rank in (None, 0):
            return tensor
        share = tf.cast(self._controls["leak"][place], tensor.dtype)
        mean = tf.reduce_mean(tensor, axis=0, keepdims=True)
        first = tf.equal(tf.range(tf.shape(tensor)[0]), 0)
        first = tf.reshape(first, [-1] + [1] * (tensor.shape.rank - 1))
        return tensor + tf.where(first, share * mean, tf.zeros_like(mean))


@dataclass(frozen=True)
class Floor:
    """Noise of one output tensor, in its own units. `scale` is its largest magnitude."""

    floor: float
    scale: float

    @property
    def bound(self) -> float:
        return MULTIPLE * self.floor


def floors(perturbed: Pass, x: Nest) -> list[Floor]:
    """The largest change of each output over a few draws of the noise."""
    still = perturbed.run(x).outputs
    rng = np.random.default_rng(0)
    pools = [rng.choice(np.array([-1, 1], np.float32), POOL) for _ in range(DRAWS)]
    shaken = [perturbed.run(x, signs=pool).outputs for pool in pools]
    dtypes = perturbed.dtypes if black_box(perturbed) else set()
    least = max((BLACK_BOX[name] for name in dtypes if name in BLACK_BOX), default=0.0)
    return [
        _floor(output, [draw[index] for draw in shaken], least)
        for index, output in enumerate(still)
    ]


def black_box(seen: Pass) -> bool:
    """Whether nothing inside the subject can be seen: it is one layer, itself."""
    return all(isinstance(call.layer, Part) for call in seen.calls)


def _floor(still: Array, shaken: list[Array], least: float) -> Floor:
    if not _is_float(still):
        return Floor(0.0, 0.0)
    exact = still.astype(np.float64)
    scale = float(np.abs(exact).max(initial=0.0))
    largest = max(float(np.abs(a.astype(np.float64) - exact).max(initial=0.0)) for a in shaken)
    # An output that rounds to itself still has half a unit in its last place.
    unit = max(EPSILON.get(str(still.dtype), 2.0**-23), least) * scale
    return Floor(max(largest, unit), scale)


def _is_float(array: Array) -> bool:
    return str(array.dtype) in EPSILON
