"""Rows in a batch as large as `predict` makes them, where that costs little."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from pytest_bnconsistency.checks import search
from pytest_bnconsistency.checks.batch_invariance.search import Rows
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.search import Violation
from pytest_bnconsistency.data.arrays import Nest, flatten, rows_of
from pytest_bnconsistency.data.recipes import Recipe
from pytest_bnconsistency.results import CheckResult, Verdict

BATCH_OF_PREDICT = 32
"""Rows of a batch that Keras makes where the user names no size."""
LITTLE = 250_000_000
"""Multiplications for a row, at most, at which a model is run on so many more."""


def in_a_larger_batch(
    context: CheckContext, x: Nest, result: CheckResult, row_by_row: Collection[int] = ()
) -> CheckResult:
    """`result`, failed where rows depend on their batch only if it is as `predict` makes it.

    A place that is full after a dozen rows, or a quarter of the batch, never is in a small one.
    """
    rows = BATCH_OF_PREDICT if context.data is None else min(BATCH_OF_PREDICT, context.data.rows)
    larger = rows > rows_of(x) and context.fixed_rows is None
    if result.verdict is not Verdict.PASSED or not larger or _multiplications(context, x) > LITTLE:
        return result
    oracle = Rows(context, x, result, row_by_row)
    if found := _violation(oracle, rows):
        return search.with_violation(result, found, result.check, context, oracle)
    return replace(result, summary=f"{result.summary}; and so in a batch of {rows}")


def _violation(oracle: Rows, rows: int) -> Violation | None:
    """What half of the rows do as copies of one of the others, or else what their number does."""
    half, usual = rows // 2, oracle.generic
    before = Recipe(rows, dict.fromkeys(range(half), usual.at(rows - 1)), usual)
    behind = Recipe(rows, dict.fromkeys(range(half, rows), usual), usual)
    return (
        oracle.beside_others(before) or oracle.beside_others(behind) or oracle.in_its_size(before)
    )


def _multiplications(context: CheckContext, x: Nest) -> int:
    """For one row, at most: each weight with each number of it, as in a convolution."""
    numbers = sum(leaf[:1].size for leaf in flatten(x))
    weights = (int(np.prod(variable.shape)) for variable in context.subject.variables())
    return int(numbers) * sum(weights)
