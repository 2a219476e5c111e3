"""Whether rows keep their shapes, and within noise their values, in batches of other sizes."""

from __future__ import annotations

import numpy as np

from pytest_bnconsistency.checks.batch_invariance.judged import InSize, SizeChange
from pytest_bnconsistency.checks.batch_invariance.variants import Comparing
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.data.arrays import Nest, distance, rows_of
from pytest_bnconsistency.errors import UnsupportedSubjectError
from pytest_bnconsistency.measurement.rounding_noise import Moved
from pytest_bnconsistency.models.base import RAGGED
from pytest_bnconsistency.words import brief_line


def compare_sizes(c: Comparing) -> list[InSize]:
    """What it gives in batches of fewer rows, up to the first that has other shapes."""
    found: list[InSize] = []
    for chunk in chunks_of(c.context, c.x):
        # One size tells, and to measure the noise of other rows costs many runs.
        found.append(in_size(c, *chunk, with_values=not any(size.beyond for size in found)))
        if found[-1].fault:
            break
    return found


def refused(c: Comparing, start: int, stop: int) -> InSize | None:
    """That it refuses some of the rows is a failure."""
    try:
        c.outputs_between(start, stop)
    except UnsupportedSubjectError:
        raise
    except Exception as error:
        fault = f"a batch of {stop - start} raises: {brief_line(error)}"
        return InSize((start, stop), stop - start, fault, raises=True)
    return None


def in_size(c: Comparing, start: int, stop: int, *, with_values: bool = True) -> InSize:
    """What some rows alone give, against what they give among all."""
    if refusal := refused(c, start, stop):
        return refusal
    size, outputs, whole = stop - start, c.outputs_between(start, stop), c.base.outputs
    if len(outputs) != len(whole):
        fault = f"a batch of {size} gives {len(outputs)} outputs, not {len(whole)}"
        return InSize((start, stop), size, fault)
    moves, changes = list[Moved](), list[SizeChange]()
    for index, (output, base) in enumerate(zip(outputs, whole, strict=True)):
        if not c.by_row[index]:
            continue
        if output.shape != (size, *base.shape[1:]):
            fault = (
                f"a batch of {size} gives shape {output.shape}; the batch of {len(base)} gives "
                f"{base.shape}"
            )
            widens = output.ndim == base.ndim and len(output) == size
            return InSize((start, stop), size, fault, widens=widens, moves=moves, changes=changes)
        if not with_values or any(moved.beyond for moved in moves):
            changes.append(SizeChange(float(distance(output, base[start:stop]).max()), np.nan))
            continue
        moved = c.noise.compare(index, base[start:stop], output, np.arange(start, stop))
        moves += [] if moved is None else [moved]
        changes.append(SizeChange(moved.change, moved.bound) if moved else SizeChange(0.0, np.nan))
    return InSize((start, stop), size, moves=moves, changes=changes)


def chunks_of(context: CheckContext, x: Nest) -> list[tuple[int, int]]:
    """Batches of 1, 2 and 3 rows, and of those of a data set, which take in every row.

    Each place of the whole batch loses its row or gets another one in one of them. There are none
    for a model that takes one number of rows only.
    """
    if context.fixed_rows is not None:
        return []
    rows = rows_of(x)
    ragged = min(RAGGED, max(rows - 1, 1))
    batches = [(start, min(start + ragged, rows)) for start in range(0, rows, ragged)]
    chunks = [(0, 1), (0, 2), (1, 2), (2, 3), (max(ragged - 3, 1), ragged), *batches]
    return [(a, b) for a, b in dict.fromkeys(chunks) if a < b <= rows and b - a < rows]
