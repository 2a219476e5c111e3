"""A layer that gets one row at a time, wherever in its tensors the rows lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import flatten, rebuild
from pytest_bnconsistency.models import Proceed


def given_single_rows(
    proceed: Proceed, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any
) -> Any:
    """What a layer gives for each row by itself; `outputs` is what it gave for all rows."""
    nest, gives = [list(args), dict(kwargs)], flatten(outputs)
    given = flatten(nest)
    axes, axes_out = _axes(given), [_rows_axis(leaf) or 0 for leaf in gives]
    by_row = [(i, axis) for i, axis in enumerate(axes) if axis is not None]

    def one(row: list[Any]) -> list[Any]:
        leaves = list(given)
        for (index, axis), leaf in zip(by_row, row, strict=True):
            leaves[index] = _batch_of(leaf, given[index], axis)
        row_args, row_kwargs = rebuild(nest, leaves)
        batch = flatten(proceed(tuple(row_args), row_kwargs))
        return [tf.gather(leaf, 0, axis=axis) for leaf, axis in zip(batch, axes_out, strict=True)]

    signature = [
        tf.TensorSpec([*leaf.shape[:axis], *leaf.shape[axis + 1 :]], leaf.dtype)
        for leaf, axis in zip(gives, axes_out, strict=True)
    ]
    single = [_with_axis_moved(given[index], axis, 0) for index, axis in by_row]
    mapped = tf.map_fn(one, single, fn_output_signature=signature)
    joined = [_with_axis_moved(leaf, 0, axis) for leaf, axis in zip(mapped, axes_out, strict=True)]
    return rebuild(outputs, joined)


def _batch_of(row: Any, given: Any, axis: int) -> Any:
    """A row as a batch of its own, of the kind of what was `given`."""
    batch = tf.expand_dims(row, axis)
    if isinstance(given, tf.RaggedTensor) and isinstance(batch, tf.Tensor):
        return tf.RaggedTensor.from_tensor(batch, row_splits_dtype=given.row_splits.dtype)
    return batch


def _axes(given: Sequence[Any]) -> list[int | None]:
    """The axis of each tensor along which the rows lie, None of what is the same for all."""
    axes = [_rows_axis(leaf) for leaf in given]
    # Beside tensors with the rows first, an open axis of another one is a sequence.
    return [axis if axis == 0 else None for axis in axes] if 0 in axes else axes


def _rows_axis(leaf: Any) -> int | None:
    """The axis of a tensor along which rows may lie, None where it has none.

    It is the first of no fixed size; outside of a trace, where nothing tells, the first of all.
    """
    if isinstance(leaf, tf.RaggedTensor):
        return 0
    if not isinstance(leaf, tf.Tensor) or leaf.dtype in (tf.variant, tf.resource):
        return None
    if leaf.shape.rank in (None, 0):
        return None
    shape: list[int | None] = leaf.shape.as_list()
    if tf.executing_eagerly():
        return 0
    return shape.index(None) if None in shape else None


def _with_axis_moved(tensor: Any, source: int, place: int) -> Any:
    """The tensor with one of its axes at another place; itself where it is there."""
    if source == place:
        return tensor
    others = [axis for axis in range(tensor.shape.rank) if axis != source]
    return tf.transpose(tensor, [*others[:place], source, *others[place:]])
