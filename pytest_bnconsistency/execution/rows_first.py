"""Outputs with the rows of the batch first, wherever the model has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_bnconsistency.data.arrays import Array


def rows_first(output: Array, shape: Sequence[int | None] | None, rows: int) -> Array | None:
    """What an output of a batch says of each of its rows, as (rows, ...).

    The rows may be another axis (steps before rows), or be joined with the next one. None for what
    is said of all of them, as a table or a number is, and for nothing at all. `shape` is what a
    trace tells of the output's: a length that it knows is no number of rows.
    """
    if not output.size:
        return None
    open_axes = [axis for axis in range(output.ndim) if shape is None or shape[axis] is None]
    axis = next((axis for axis in open_axes if output.shape[axis] == rows), None)
    if axis is not None:
        return output if axis == 0 else np.moveaxis(output, axis, 0)
    if 0 in open_axes and len(output) % rows == 0:
        return output.reshape(rows, -1, *output.shape[1:])
    return None
