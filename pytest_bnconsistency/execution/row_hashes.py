"""A hash of the bits of each row of each layer's output, in one pass.

Rows of other bits have the same hash by a coincidence of one in 2^64 only: so all rows of all
layers are compared at once, and next to nothing has to be kept of them. Outputs are compared bit
by bit.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, flatten
from pytest_bnconsistency.execution.activation_patching import open_axes
from pytest_bnconsistency.execution.graphs import (
    current_graph,
    is_batch,
    names_behind,
    tensors_in,
    traced_in,
)
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.models import Call

_ALL = [[0], [2**31 - 1]]
"""Where recording begins and ends: at the last entry that there may be."""
MOST_OF_A_ROW = 2**16
"""Elements of a row whose values are recorded."""
_SCOPE = "prints/"
"""Of their own, so that the code's own operations keep their names."""


class Fingerprints(Instrument):
    """Records, for each tensor that a layer returns, a hash for each entry of its first axis.

    In a trace, what a layer returns beside tensors that the outputs hang on, and nobody uses, is
    left out.
    """

    def __init__(self) -> None:
        self._between = tf.Variable(_ALL, trainable=False)
        self._none = False
        self._slice: dict[str, Any] = {}
        self._several: list[tuple[list[Any], list[Any]]] = []

    @contextlib.contextmanager
    def only(self, start: int, stop: int) -> Iterator[None]:
        """Within it, what is traced records the entries from `start` up to `stop` only.

        Outside of a trace, all or none are recorded.
        """
        self._between.assign([[start], [stop]])
        self._none = start == stop
        try:
            yield
        finally:
            self._between.assign(_ALL)
            self._none = False

    def begin(self) -> None:
        self._several.clear()
        if tf.executing_eagerly():
            return
        with tf.name_scope(_SCOPE):
            start, stop = tf.unstack(self._between.read_value())
            self._slice = {"begin": start, "end": stop, "strides": tf.constant([1])}

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        tensors = [tensor for tensor in flatten(outputs) if is_batch(tensor)]
        if tf.executing_eagerly():
            return outputs, [fingerprint(tensor) for tensor in tensors if not self._none]
        with tf.name_scope(_SCOPE):  # a slice of rows shares their memory
            rows = [tf.raw_ops.StridedSlice(input=tensor, **self._slice) for tensor in tensors]
            record = [fingerprint(tensor) for tensor in rows]
        if len(tensors) > 1:
            self._several.append((tensors, record))
        return outputs, record

    def finish(self, outputs: list[Any]) -> list[Any] | None:
        behind = names_behind(traced_in(current_graph(), outputs)) if self._several else set()
        for tensors, record in self._several:
            used = [tensor.op.name in behind for tensor in tensors]
            if any(used):
                record[:] = itertools.compress(record, used)
        return None


class WithInputs(Instrument):
    """Records the same for each entry of the axis along which `rows` rows lie, wherever it is.

    What the layer was given is recorded in front of what it returns; and before these what it
    returns for the row `kept`, if that is a number, of a long row some elements all over it.
    """

    def __init__(self, rows: int, kept: int = 0) -> None:
        self._rows, self._kept = rows, kept

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        given, prints = (self._hashes(nest) for nest in ([call.args, dict(call.kwargs)], outputs))
        return outputs, [tf.constant([len(given)]), self._row(outputs), *given, *prints]

    def _hashes(self, nest: Any) -> list[Any]:
        tensors = tensors_in(nest)
        return [along_rows(t, self._rows) for t in tensors if is_batch(t) or _may_hold_rows(t)]

    def _row(self, outputs: Any) -> Any:
        for tensor in tensors_in(outputs):
            if is_batch(tensor) and tensor.dtype.is_floating:
                kept = tf.minimum(self._kept, tf.shape(tensor)[0] - 1)
                flat = tf.reshape(tensor[kept : kept + 1], [-1])
                return tf.cast(flat[:: tf.size(flat) // MOST_OF_A_ROW + 1], tf.float64)
        return tf.zeros([0], tf.float64)


class Values(Instrument):
    """Records the tensors of calls that return nothing with an axis for the batch."""

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        tensors = flatten(outputs)
        whole = all(
            isinstance(t, tf.Tensor) and not (is_batch(t) or _may_hold_rows(t)) for t in tensors
        )
        return outputs, tensors if whole else None


@dataclass(frozen=True)
class Result:
    """A tensor that an operation gives: the operation's name and type; `told` is for a reader.

    `given` are the indices of the results that the operation computes with; `ranked` says whether
    the number of its axes is known, and not up to the batch.
    """

    operation: str
    type: str
    description: str
    given: tuple[int, ...]
    ranked: bool

    @property
    def turned(self) -> bool:
        """Whether it only turns the axes: where two are open, the rows may be lost from sight."""
        return self.type == "Transpose"


class Operations(Instrument):
    """Records hashes of what each operation behind the outputs gives, in layers or not.

    `results` tells of each record what it is. The first axis of the hashes is the one along which
    `rows` rows lie; a result without one is a single entry, and one that can't be
    compared, such as a state or a list of tensors, has none. What the operations `by_element`
    give, of which nobody knows where the rows lie, has a hash of each element in a single entry.
    """

    def __init__(self, rows: int, by_element: Collection[str] = ()) -> None:
        self.results: list[Result] = []
        self.by_element = frozenset(by_element)
        self._rows, self._open = rows, set[str]()

    def finish(self, outputs: list[Any]) -> list[Any] | None:
        if tf.executing_eagerly():
            return None
        graph = tf.compat.v1.get_default_graph()
        behind = names_behind(t for t in outputs if getattr(t, "graph", None) is graph)
        self.results.clear()
        indices: dict[str, int] = {}
        prints: list[Any] = []
        for operation in (o for o in graph.get_operations() if o.name in behind):
            given = tuple(indices[t.name] for t in operation.inputs if t.name in indices)
            for tensor in operation.outputs:
                if not (operation.inputs or _is_opaque(tensor)):
                    continue  # x, or the same for all batches
                indices[tensor.name] = len(prints)
                prints.append(self._hashes(operation.name, tensor))
                self.results.append(_result(operation, tensor, given))
        return prints

    def _hashes(self, operation: str, tensor: Any) -> Any:
        if _is_opaque(tensor):
            return tf.zeros([0, 8], tf.uint8)
        if operation in self.by_element:
            return along_elements(tensor)
        if open_axes(tensor):
            self._open.add(operation)
        return along_rows(tensor, self._rows)

    def without_rows(self, hashes: Sequence[Array]) -> set[str]:
        """The operations that gave as many entries as fit no number of rows, in a run.

        A single entry is compared as a whole.
        """
        pairs = zip(self.results, hashes, strict=True)
        whole = {r.operation for r, its in pairs if len(its) == 1 or len(its) % self._rows == 0}
        return self._open - whole


def _result(operation: Any, tensor: Any, given: tuple[int, ...]) -> Result:
    ranked = tensor.shape.rank is not None
    return Result(operation.name, operation.type, _description(operation), given, ranked)


def _is_opaque(tensor: Any) -> bool:
    """Whether it can't be compared: it is no array, or nobody knows how many axes it has."""
    return tensor.dtype in (tf.variant, tf.resource) or tensor.shape.rank is None


def _description(operation: Any) -> str:
    """An operation's type and name, and the axes that it reduces over."""
    inputs = list(operation.inputs)
    reduces = len(inputs) == 2 and _is_reduction(operation)
    axes = tf.get_static_value(inputs[1]) if reduces else None
    over = "" if axes is None else f" over axis {', '.join(map(str, np.ravel(axes)))}"
    return f"{operation.type}{over} ({operation.name})"


def _is_reduction(operation: Any) -> bool:
    return any(attribute.name == "keep_dims" for attribute in operation.op_def.attr)


def _may_hold_rows(tensor: Any) -> bool:
    """Whether some axis of a tensor, or how many it has, is not known before the batch is."""
    is_array = tensor.dtype not in (tf.variant, tf.resource)
    return is_array and not tensor.shape.is_fully_defined()


def fingerprint(tensor: Any) -> Any:
    """The 64-bit FarmHash of each entry of the first axis: uint8 of shape `(entries, 8)`."""
    return tf.raw_ops.Fingerprint(data=tensor, method="farmhash64")


def along_rows(tensor: Any, rows: int) -> Any:
    """A hash of each entry of the axis along which `rows` rows lie; without one, a single hash."""
    if tensor.shape.rank is None:
        return fingerprint(tensor[..., None])  # a scalar has no entries
    axes = [0] if tf.executing_eagerly() else open_axes(tensor)
    if axes in ([], [0]):
        return fingerprint(tensor if axes else tensor[None])
    if len(axes) == 1:
        others = (axis for axis in range(tensor.shape.rank) if axis not in axes)
        return fingerprint(tf.transpose(tensor, [*axes, *others]))
    fits = tf.gather(tf.shape(tensor), axes) % rows == 0
    axis = tf.gather(axes, tf.argmax(tf.cast(fits, tf.int32)))
    every = tf.range(tensor.shape.rank)
    rows_first = tf.concat([[axis], every[every != axis]], 0)
    return fingerprint(tf.transpose(tensor, rows_first))


def along_elements(tensor: Any) -> Any:
    """A single entry with a hash of each element."""
    return tf.reshape(fingerprint(tf.reshape(tensor, [-1, 1])), [1, -1])


def by_row(prints: Array, rows: int) -> list[Array]:
    """Hashes as matrices of a line a row, for each way in which so many may lie along an axis.

    What is longer may hold the entries of a row side by side, or all rows and then all rows again,
    as where batches are joined. None where the axis is not the batch.
    """
    if len(prints) == 0 or len(prints) % rows:
        return []
    side_by_side = prints.reshape(rows, -1)
    if len(prints) == rows:
        return [side_by_side]
    return [side_by_side, prints.reshape(-1, rows, 8).swapaxes(0, 1).reshape(rows, -1)]


def of_elements(prints: Array) -> Array:
    """The hashes of a single entry, a line for each element if it has more than one hash."""
    return prints.reshape(-1, 8)
