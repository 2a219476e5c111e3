"""Whether rows keep their shapes, and within noise their values, in batches of other sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_bnconsistency.checks import entry_points
from pytest_bnconsistency.checks.batch_invariance.explain import Judged, SizeChange
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import WHOLE, Entry, rows_between
from pytest_bnconsistency.data.arrays import Array, Nest, distance, rows_of
from pytest_bnconsistency.errors import UnsupportedSubjectError
from pytest_bnconsistency.execution.observations import has_rows, same_outputs
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.models.base import RAGGED
from pytest_bnconsistency.words import first_line


def compare_sizes(entry: Entry, judged: Judged, x: Nest, noise: Noise) -> None:
    whole = entry.run(WHOLE, x).outputs
    for start, stop in chunks_of(rows_of(x)):
        _compare_size(entry, judged, x, noise, start, stop, whole, whole)
        if judged.shapes:
            return


def untraced(
    context: CheckContext, x: Nest, groups: Sequence[tuple[Entry, Judged]], noise: Noise
) -> list[tuple[Entry, Judged]]:
    """The call outside of a trace, if a single row or two fail there alone.

    Code that asks for the number of rows finds none in a trace for any number.
    """
    name, calls = context.subject.call_text(False), entry_points.calls_of(context)
    traced, judged = next(group for group in groups if name in group[1].names)
    seen = traced.observed
    if seen is None or not seen.deterministic or judged.fails or judged.random:
        return []
    called, eager = entry_points.entry(context, name), Judged([], seen, untraced=True)
    whole = _outputs(called, eager, x, 0, rows_of(x))
    if whole is not None:
        for size in (1, 2):
            if not eager.fails:
                _compare_size(called, eager, x, noise, 0, size, whole, whole)
    if not eager.fails or (whole is not None and not _repeats(called, x)):
        return []
    eager.names = [name for name in judged.names if name in calls]
    judged.names = [name for name in judged.names if name not in calls] + [traced.name]
    return [(called, eager)]


def _repeats(entry: Entry, x: Nest) -> bool:
    first, second = entry.twice(WHOLE, x)
    return same_outputs(first.outputs, second.outputs)


def _outputs(entry: Entry, judged: Judged, x: Nest, start: int, stop: int) -> list[Array] | None:
    """What it gives for some of the rows; that it refuses them is a failure."""
    judged.tried.append(stop - start)
    try:
        name, batch = rows_between(x, start, stop)
        # What layers give is compared for all rows only.
        return entry.run(name, batch, None if name == WHOLE else (0, 0)).outputs
    except UnsupportedSubjectError:
        raise
    except Exception as error:
        judged.shapes.append(f"a batch of {stop - start} raises: {first_line(error)[:120]}")
        judged.raises = True
        judged.failing_rows = judged.failing_rows or (start, stop)
        return None


def _compare_size(
    entry: Entry,
    judged: Judged,
    x: Nest,
    noise: Noise,
    start: int,
    stop: int,
    among: list[Array],
    whole: list[Array],
) -> None:
    """Some rows alone against the same `among` others; outputs count that have rows in `whole`."""
    size, failing = stop - start, judged.failing_rows or (start, stop)
    outputs = _outputs(entry, judged, x, start, stop)
    if outputs is None:
        return
    if len(outputs) != len(among):
        judged.shapes.append(f"a batch of {size} gives {len(outputs)} outputs, not {len(among)}")
        judged.failing_rows = failing
        return
    for index, (output, base, seen) in enumerate(zip(outputs, among, whole, strict=False)):
        if not (has_rows([seen], x) and base.ndim):
            continue
        if output.shape != (size, *base.shape[1:]):
            judged.shapes.append(
                f"a batch of {size} gives shape {output.shape}; the batch of {len(base)} "
                f"gives {base.shape}"
            )
            judged.failing_rows = failing
            return
        if judged.sizes:  # one size tells, and to measure the noise of other rows costs many runs
            _note(judged, size, float(distance(output, base[start:stop]).max()), np.nan)
            continue
        moved = noise.compare(index, base[start:stop], output, np.arange(start, stop))
        if moved is None:
            _note(judged, size, 0.0, np.nan)
            continue
        _note(judged, size, moved.change, moved.bound)
        if moved.noise_dominated:
            judged.noise_dominated = True
            judged.dominated |= moved.dominated
            continue
        judged.margin = max(judged.margin, moved.margin)
        if moved.beyond:
            judged.failing_rows = failing
            judged.noise = max(judged.noise, moved.bound)
            judged.sizes.append(
                f"row {moved.row} moves by {moved.change:.3g} in a batch of {size}; "
                f"noise explains {moved.bound:.3g}"
            )


def _note(judged: Judged, size: int, change: float, bound: float) -> None:
    """Keep the largest change in batches of that size."""
    before = judged.by_size.get(size)
    if before is None or change > before.change:
        judged.by_size[size] = SizeChange(change, bound)


def chunks_of(rows: int) -> list[tuple[int, int]]:
    """Batches of 1, 2 and 3 rows, and of those of a data set, which take in every row.

    Each place of the whole batch loses its row or gets another one in one of them.
    """
    ragged = min(RAGGED, max(rows - 1, 1))
    batches = [(start, min(start + ragged, rows)) for start in range(0, rows, ragged)]
    chunks = [(0, 1), (0, 2), (1, 2), (2, 3), (max(ragged - 3, 1), ragged), *batches]
    return [(a, b) for a, b in dict.fromkeys(chunks) if a < b <= rows and b - a < rows]
