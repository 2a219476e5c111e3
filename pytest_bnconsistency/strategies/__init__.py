"""Hypothesis strategies for batches.

    @given(strategies.batches(model))
    def test_rows_stay_finite(x): ...

A batch is drawn as a small recipe for each row (kind, scale, seed) and then expanded: drawing is
fast however large the rows are, and shrinking works on rows, kinds, scales and sizes.
"""

from pytest_bnconsistency.strategies.arrays import (
    Pair,
    batch_pairs,
    batch_sizes,
    batches,
    batches_like,
    from_recipe,
    splits,
)

__all__ = [
    "Pair",
    "batch_pairs",
    "batch_sizes",
    "batches",
    "batches_like",
    "from_recipe",
    "splits",
]
