"""Numbers of rows for which `predict` keeps what was so when it was compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pytest_bnconsistency.checks import compiled_before as before
from pytest_bnconsistency.checks.batch_invariance.output_noise import noise_of
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.compiled_before import CompiledBefore, compiled_before
from pytest_bnconsistency.checks.entry_points import Entry, entry, methods_of
from pytest_bnconsistency.data.arrays import Array, Nest, map_nest, rows_of
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.state import preserve_state, restored
from pytest_bnconsistency.measurement.rounding_noise import Moved, Noise
from pytest_bnconsistency.results import Finding


def compiled_sizes(context: CheckContext, x: Nest) -> Iterator[Finding]:
    """Numbers of rows for which `predict` gives other values than in a batch of one row more.

    Those are meant for which it was compiled before the check: a function for any number treats
    all batches alike.
    """
    for compiled in compiled_before(context, x):
        if compiled.any_number or not compiled.as_checked:
            continue
        predict = entry(context, methods_of(context)[0])
        try:
            noise = noise_of(context, predict)
            expected = _in_a_larger_batch(predict, compiled.rows)
            moved = _moved(noise, x, compiled.run(), expected)
        except RefusedError:
            continue
        if moved is not None:
            unlike = functools.partial(_moved, noise, x, expected=expected)
            count = rows_of(compiled.rows)
            finding = before.size_matters(
                f"row {moved.row} moves by {moved.change:.3g} in a batch of {count}, for which "
                f"predict was compiled before; noise explains {moved.bound:.3g}",
                {"fails": [predict.name], "rows": count},
            )
            if not _healed(context, compiled, unlike):
                untested = "not established; tried: predict compiled again"
                finding = replace(finding, cause=untested, cause_tested=False, tested="")
            yield finding


def _in_a_larger_batch(predict: Entry, rows: Nest) -> list[Array]:
    count = rows_of(rows)
    larger = map_nest(lambda leaf: np.concatenate([leaf, leaf[:1]]), rows)
    outputs = predict.run(f"{count} rows and one more", larger).outputs
    return [output[:count] if output.ndim else output for output in outputs]


def _moved(noise: Noise, x: Nest, outputs: list[Array], expected: list[Array]) -> Moved | None:
    """How far a row moves that noise does not explain."""
    for index, (mine, its) in enumerate(zip(outputs, expected, strict=True)):
        if mine.ndim and mine.shape == its.shape:
            rows = np.arange(len(mine)) % rows_of(x)
            moved = noise.compare(index, its, mine, rows, sides=2)
            if moved is not None and moved.beyond:
                return moved
    return None


def _healed(
    context: CheckContext, compiled: CompiledBefore, unlike: Callable[[list[Array]], Moved | None]
) -> bool:
    """Whether the rows are as in a larger batch once the function is compiled again."""
    if not Tries().may("predict, compiled again"):
        return False
    try:
        with preserve_state(context.subject), restored(compiled.may_change):
            return unlike(compiled.compiled_again()) is None
    except Exception:
        return False
