"""One number for the bits of each row of each layer's output, in one pass.

Two rows with the same fingerprint have the same bits, but for a chance of 2^-32: so all rows of
all layers are compared at once, and next to nothing has to be kept of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data import Nest, flatten
from pytest_bnconsistency.probes.taps import Instrument, Replay
from pytest_bnconsistency.subjects import Call

_GOLDEN = 0x4E35_7AB1  # spreads the weights of neighbouring elements over all bits


class Fingerprints(Instrument):
    """Records, for each tensor that a layer returns, a vector of one number a row (int32).

    A tensor whose first axis is not a multiple of the batch gets a vector of another length.
    With `inputs`, what the layer was given is recorded in front of what it returns.
    """

    def __init__(self, *, inputs: bool = False) -> None:
        self._inputs = inputs
        self._rows: Any = None

    def begin(self, x: Nest, controls: Mapping[str, Any]) -> Nest:
        self._rows = tf.shape(flatten(x)[0])[0]
        return x

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        tensors = batch_tensors(outputs)
        if not self._inputs:
            return outputs, [fingerprint(tensor, self._rows) for tensor in tensors]
        given = batch_tensors([call.args, dict(call.kwargs)])
        prints = [fingerprint(tensor, self._rows) for tensor in [*given, *tensors]]
        return outputs, [tf.fill([1], len(given)), *prints]


def batch_tensors(nest: Any) -> list[Any]:
    """The tensors of `nest` whose first axis can be the batch: those of no fixed size."""
    return [
        leaf
        for leaf in flatten(nest)
        if isinstance(leaf, tf.Tensor)
        and leaf.dtype != tf.string
        and leaf.shape.rank not in (None, 0)
        and (leaf.shape[0] is None or tf.executing_eagerly())
    ]


def fingerprint(tensor: Any, rows: Any) -> Any:
    """A vector of `rows` numbers, or of one where the first axis is no multiple of `rows`.

    The bits are summed over the second axis, and the sums once more with odd weights.
    """
    if tensor.dtype in (tf.bool, tf.int8, tf.uint8, tf.int16, tf.uint16):
        bits = tf.cast(tensor, tf.int32)
    elif tensor.dtype.size == 2:
        bits = tf.cast(tf.bitcast(tensor, tf.int16), tf.int32)
    else:
        bits = tf.bitcast(tensor, tf.int32)
    shape = tf.shape(bits)
    fits = tf.logical_and(shape[0] > 0, tf.equal(shape[0] % rows, 0))
    # Summing over the second axis first leaves little to multiply: one pass over the memory.
    summed = shape[1] if bits.shape.rank > 2 else 1
    lanes = tf.reduce_sum(tf.reshape(bits, [tf.where(fits, rows, 1), summed, -1]), axis=1)
    weights = tf.bitwise.bitwise_or(tf.range(tf.shape(lanes)[1]) * _GOLDEN, 1)
    return tf.reduce_sum(lanes * weights, axis=1)
