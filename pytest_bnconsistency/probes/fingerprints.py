"""One number for the bits of each row of each layer's output, in one pass.

Two rows of other bits have the same fingerprint by a rare coincidence only: so all rows of all
layers are compared at once, and next to nothing has to be kept of them. Outputs are compared bit
by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, flatten
from pytest_bnconsistency.probes.taps import Instrument, Replay
from pytest_bnconsistency.subjects import Call

LANES = 16
_GOLDEN = np.int32(0x4E35_7AB1)  # spreads the weights of neighbouring elements over all bits


class Fingerprints(Instrument):
    """Records, for each tensor that a layer returns, one number for each entry of its first axis.

    With `inputs`, what the layer was given is recorded in front of what it returns.
    """

    def __init__(self, *, inputs: bool = False) -> None:
        self._inputs = inputs

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        prints = [fingerprint(tensor) for tensor in batch_tensors(outputs)]
        if not self._inputs:
            return outputs, prints
        given = [fingerprint(tensor) for tensor in batch_tensors([call.args, dict(call.kwargs)])]
        return outputs, [tf.constant([len(given)]), *given, *prints]


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


def fingerprint(tensor: Any) -> Any:
    """One number for the bits of each entry of the first axis (int32).

    Sums of the bits over inner axes are summed once more with odd weights: two passes over the
    memory, and few operations to trace.
    """
    if tensor.dtype in (tf.bool, tf.int8, tf.uint8, tf.int16, tf.uint16):
        bits = tf.cast(tensor, tf.int32)
    elif tensor.dtype.size == 2:
        bits = tf.cast(tf.bitcast(tensor, tf.int16), tf.int32)
    else:
        bits = tf.bitcast(tensor, tf.int32)
    inner = bits.shape[1:]
    if not inner.is_fully_defined():
        bits = tf.reshape(bits, [tf.shape(bits)[0], -1])
        weights = tf.bitwise.bitwise_or(tf.range(tf.shape(bits)[1]) * int(_GOLDEN), 1)
        return tf.reduce_sum(bits * weights, axis=1)
    if inner.rank == 0:
        return bits
    if inner.rank == 1 or inner.num_elements() < LANES:
        return _weighted(bits, 0)
    # Summed over one inner axis and then over the other: what only changes places along an axis
    # still shows in the other sum, and little is left to multiply.
    return _weighted(tf.reduce_sum(bits, 1), 1) + _weighted(tf.reduce_sum(bits, 2), 2)


def _weighted(bits: Any, seed: int) -> Any:
    """The sum of the bits of each row, each element with an odd weight of its own."""
    inner = bits.shape[1:]
    with np.errstate(over="ignore"):
        places = np.arange(inner.num_elements(), dtype=np.int32) + np.int32(seed)
        weights = (places * _GOLDEN | np.int32(1)).reshape(inner)
    return tf.reduce_sum(bits * weights, axis=range(1, inner.rank + 1))


def by_row(prints: Array, rows: int) -> Array | None:
    """Fingerprints as a matrix of a line a row; None where the first axis is not the batch."""
    if len(prints) == 0 or len(prints) % rows:
        return None
    return prints.reshape(rows, -1)
