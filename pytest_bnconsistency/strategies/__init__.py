"""Hypothesis strategies for batches, and for what happens to a model in its life.

    @given(strategies.batches(model))
    def test_rows_stay_finite(x): ...

A batch is drawn as a small recipe for each row (kind, scale, seed) and then expanded: drawing is
fast however large the rows are, and shrinking works on rows, kinds, scales and sizes.
"""

import importlib
from typing import Any

from pytest_bnconsistency import libraries

libraries.tensorflow()
libraries.needs_hypothesis("pytest_bnconsistency.strategies")

from pytest_bnconsistency.strategies.arrays import (  # noqa: E402
    Pair,
    batch_pairs,
    batch_sizes,
    batches,
    batches_like,
    from_recipe,
    splits,
)

__all__ = [
    "Lifecycle",
    "Pair",
    "batch_pairs",
    "batch_sizes",
    "batches",
    "batches_like",
    "from_recipe",
    "lifecycle_machine",
    "splits",
]


def __getattr__(name: str) -> Any:
    """The life of a model asks the checks, which stand above strategies: loaded when used."""
    if name in ("Lifecycle", "lifecycle_machine"):
        return getattr(importlib.import_module("pytest_bnconsistency.lifecycle"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
