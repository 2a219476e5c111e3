"""Rounding, imitated: what layers or single operations give times 1 +- eps/2, at random."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, Nest, map_nest
from pytest_bnconsistency.probes.holding import replacing
from pytest_bnconsistency.probes.taps import Instrument, Pass, Replay
from pytest_bnconsistency.subjects import Call, Part

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
LOWER = {"float64": 2.0**-23, "float32": 2.0**-10, "float16": 2.0**-7, "bfloat16": 2.0**-3}
"""The eps of the next lower precision: float32, float16, bfloat16, float8 (e4m3)."""


class Shaken(Instrument):
    """Multiplies outputs by 1 + sign * size(eps) / 2.

    With `sums`, the size is that which a sum over all n elements of a row has, sqrt(n/2) * eps,
    and each element has a sign of its own. For runs outside of a graph.
    """

    def __init__(self, seed: int, eps: Mapping[str, float], *, sums: bool) -> None:
        self.places = 0
        self._eps, self.sums = eps, sums
        self._rng = np.random.default_rng(seed)

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if isinstance(call.layer, Part):
            return outputs, None  # the noise inside is not that of its outputs
        return map_nest(self.shake, outputs), None

    def shake(self, tensor: Any) -> Any:
        if not floating(tensor) or tensor.shape[0] == 0:
            return tensor
        self.places += 1
        size = self._eps.get(tensor.dtype.name, self._eps["float32"]) / 2
        shape = list(tensor.shape)
        if self.sums:
            size *= max(1.0, math.sqrt(math.prod(shape[1:]) / 2))
        else:
            # A sign for each channel and place along the first inner axis: a draw for each
            # element costs more than the network itself.
            shape = [n if axis in (0, 1, len(shape) - 1) else 1 for axis, n in enumerate(shape)]
        signs = 2 * self._rng.integers(0, 2, shape, np.int8) - 1
        share = (signs * size).astype(tensor.dtype.as_numpy_dtype)
        return with_mask(tensor + tensor * share, tensor)


class ShakenOperations:
    """Multiplies what single operations give by 1 + sign * size / 2.

    The size is that of a sum over all n elements of a row, sqrt(n/2) * eps, and each element has
    a sign of its own; of the next lower precision it is eps. It does so in what is traced `within`
    it, wherever the first axis is of no fixed length: what one layer computes may cancel, and then
    its output does not show how large its noise is.
    """

    STILL, ROUNDED, LOWERED = 0, 1, 2

    def __init__(self) -> None:
        self._seed = tf.Variable(0, dtype=tf.int32, trainable=False)
        self._mode = tf.Variable(self.STILL, dtype=tf.int32, trainable=False)
        self._places = itertools.count()
        self._graph: Any = None

    def run(self, traced: Pass, x: Nest, mode: int, seed: int = 0) -> list[Array]:
        """The outputs of one draw, or of none."""
        self._seed.assign(seed)
        self._mode.assign(mode)
        return traced.run(x).outputs

    def within(self) -> contextlib.AbstractContextManager[None]:
        return replacing(self._replace)

    def _replace(self, graph: Any, name: str, tensors: Sequence[Any]) -> Sequence[Any]:
        if self._graph is None:
            self._graph = graph
        # Traces of functions that the code calls outlive this one, so they stay as they are.
        own = graph is not None and graph is self._graph
        return [self._shake(tensor) for tensor in tensors] if own else tensors

    def _shake(self, tensor: Any) -> Any:
        known = tensor.dtype.name in EPSILON and tensor.shape.rank not in (None, 0)
        if not known or tensor.shape[0] is not None:
            return tensor
        shape = tf.shape(tensor)
        seed = tf.stack([self._seed, next(self._places)])
        signs = 2 * tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32) - 1
        terms = tf.cast(tf.reduce_prod(shape[1:]), tf.float64)
        sums = tf.maximum(tf.sqrt(terms / 2), 1) * EPSILON[tensor.dtype.name]
        lower = tf.constant(LOWER[tensor.dtype.name], tf.float64)
        size = tf.gather(tf.stack([tf.zeros_like(sums), sums, lower]), self._mode) / 2
        return tensor + tensor * tf.cast(signs, tensor.dtype) * tf.cast(size, tensor.dtype)


def with_mask(changed: Any, tensor: Any) -> Any:
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        changed._keras_mask = mask
    return changed


def floating(tensor: Any) -> bool:
    return isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating and tensor.shape.rank > 0
