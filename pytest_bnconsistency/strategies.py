"""Hypothesis strategies for batches.

A batch is drawn as a small recipe for each row (kind, scale, seed) and then expanded: drawing is
fast however large the rows are, and shrinking works on rows, kinds and scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pytest_bnconsistency.data import Array, Nest, Spec, flatten, map_nest, numpy_dtype
from pytest_bnconsistency.errors import DataError

KINDS = ("zero", "constant", "random")


@dataclass(frozen=True)
class Row:
    """The recipe of one row: `random` rows are normal, or uniform over the ids of an integer."""

    kind: str
    scale: float
    seed: int

    def expand(self, spec: Spec, size: int) -> Array:
        """The row for one input, without the batch axis."""
        shape = tuple(size if axis is None else axis for axis in spec.shape)
        dtype = numpy_dtype(spec.dtype)
        if np.issubdtype(dtype, np.floating):
            drawn = np.zeros(shape)
            if self.kind == "constant":
                drawn = np.full(shape, self.scale)
            elif self.kind == "random":
                drawn = np.random.default_rng(self.seed).standard_normal(shape) * self.scale
            return drawn.astype(dtype)
        values = 2 if dtype == np.bool_ else spec.vocabulary
        if self.kind == "random":
            return np.random.default_rng(self.seed).integers(0, values, shape).astype(dtype)
        return np.full(shape, 0 if self.kind == "zero" else values - 1, dtype)


def batches(
    model_or_spec: Any,
    *,
    min_rows: int = 1,
    max_rows: int = 8,
    max_scale: float = 100.0,
    size: int = 32,
) -> st.SearchStrategy[Nest]:
    """Batches that fit a model's inputs.

    Args:
        model_or_spec: a built model, or a nest of `Spec`.
        min_rows: the smallest number of rows.
        max_rows: the largest.
        max_scale: the largest magnitude of a constant row, and standard deviation of a random one.
        size: the length of axes that may be of any.

    Raises:
        DataError: the model does not tell its inputs, or the bounds exclude every batch.
    """
    if not 1 <= min_rows <= max_rows:
        raise DataError(f"min_rows={min_rows} and max_rows={max_rows}; expected 1 <= min <= max")
    if not max_scale > 0:
        raise DataError(f"max_scale={max_scale}; expected a positive number")
    specs = _specs(model_or_spec)
    scales = st.floats(0, max_scale, allow_nan=False, width=32)
    row = st.builds(Row, st.sampled_from(KINDS), scales, st.integers(0, 2**16 - 1))

    def expand(rows: list[Row]) -> Nest:
        return map_nest(lambda spec: np.stack([r.expand(spec, size) for r in rows]), specs)

    return st.lists(row, min_size=min_rows, max_size=max_rows).map(expand)


def _specs(model_or_spec: Any) -> Nest:
    if model_or_spec is not None and all(isinstance(s, Spec) for s in flatten(model_or_spec)):
        return model_or_spec
    from pytest_bnconsistency.subjects import subject_of

    subject = subject_of(model_or_spec)
    specs = subject.inputs()
    if specs is None:
        raise DataError(
            f"model {subject.name!r} does not tell the shape of its inputs; give a Spec instead: "
            "Spec((32, 32, 3), 'float32')"
        )
    return specs
