"""A hash of the bits of each row of each layer's output, in one pass.

Rows of other bits have the same hash by a coincidence of one in 2^64 only: so all rows of all
layers are compared at once, and next to nothing has to be kept of them. Outputs are compared bit
by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, flatten
from pytest_bnconsistency.probes.taps import Instrument, Replay, is_batch
from pytest_bnconsistency.subjects import Call


class Fingerprints(Instrument):
    """Records, for each tensor that a layer returns, a hash for each entry of its first axis.

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


class Values(Instrument):
    """Records the tensors of calls that return nothing with a batch axis."""

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        tensors = flatten(outputs)
        whole = all(isinstance(t, tf.Tensor) and not is_batch(t) for t in tensors)
        return outputs, tensors if whole else None


class Operations(Instrument):
    """Records hashes of the result of each operation, layer or not, since the layer before.

    `labels` names the operations of each record. A result without a batch axis is one entry.
    """

    def __init__(self) -> None:
        self.labels: list[list[str]] = []
        self._known = 0

    def begin(self) -> None:
        self.labels.clear()
        self._known = 0

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if tf.executing_eagerly():
            return outputs, None
        graph = tf.compat.v1.get_default_graph()
        made = graph.get_operations()[self._known :]
        names, prints = [], []
        for operation in made:
            for tensor in operation.outputs if operation.inputs else ():
                if tensor.dtype in (tf.variant, tf.resource) or tensor.shape.rank is None:
                    continue
                per_row = is_batch(tensor)
                names.append(_told(operation))
                prints.append(fingerprint(tensor if per_row else tensor[None]))
        self._known = len(graph.get_operations())
        self.labels.append(names)
        return outputs, prints


def _told(operation: Any) -> str:
    """An operation's type and name, and the axes that it reduces over."""
    inputs = list(operation.inputs)
    axes = (
        tf.get_static_value(inputs[1]) if len(inputs) == 2 and _is_reduction(operation) else None
    )
    over = "" if axes is None else f" over axis {', '.join(map(str, np.ravel(axes)))}"
    return f"{operation.type}{over} ({operation.name})"


def _is_reduction(operation: Any) -> bool:
    return any(attribute.name == "keep_dims" for attribute in operation.op_def.attr)


def batch_tensors(nest: Any) -> list[Any]:
    return [leaf for leaf in flatten(nest) if is_batch(leaf)]


def fingerprint(tensor: Any) -> Any:
    """The 64-bit FarmHash of each entry of the first axis: uint8 of shape `(entries, 8)`."""
    return tf.raw_ops.Fingerprint(data=tensor, method="farmhash64")


def by_row(prints: Array, rows: int) -> Array | None:
    """Fingerprints as a matrix of a line a row; None where the first axis is not the batch."""
    if len(prints) == 0 or len(prints) % rows:
        return None
    return prints.reshape(rows, -1)
