"""What the user's own calls had `predict` compiled for: run on such rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import arrays_of, changeable_variables
from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    flatten,
    is_float,
    is_text,
    rebuild,
    rows_of,
)
from pytest_bnconsistency.execution.state import restored
from pytest_bnconsistency.models.calls import Compiled
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules.catalogue import SIZE_MATTERS

WHOLE_NUMBERS = 100
"""What numbers of a wider range become at most, where a function was compiled for integers."""
PLACE = "the compiled function"
"""What a finding names of a function that keeps what was so when it was compiled."""


@dataclass(frozen=True)
class CompiledBefore:
    """A function that `predict` was compiled into before the check, and rows as it takes them.

    `any_number` says that it takes any number of rows, `as_checked` that these rows have the
    shapes and dtypes of those that are checked. `may_change` are the variables that it may change.
    """

    rows: Nest
    any_number: bool
    as_checked: bool
    may_change: list[Any]
    _context: CheckContext
    _compiled: Compiled

    @property
    def name(self) -> str:
        shapes = ", ".join(f"{leaf.shape} {leaf.dtype}" for leaf in flatten(self.rows))
        return f"predict as compiled before for {shapes}"

    def run(self) -> list[Array]:
        with restored(self.may_change):
            return arrays_of(self._compiled.run(self.rows))

    def compiled_again(self) -> list[Array]:
        """What it gives after it was compiled once more; what that changes stays changed."""
        self._context.subject.recompile()
        return arrays_of(self._compiled.run(self.rows))


def compiled_before(context: CheckContext, x: Nest) -> Iterator[CompiledBefore]:
    """Each function that `predict` was compiled into before the check, with rows made of `x`.

    A compiled function keeps what Python said when it was traced, for rows of that shape and
    dtype alone.
    """
    for compiled in context.subject.compiled_for():
        if (rows := _fitting(x, compiled)) is not None:
            yield CompiledBefore(
                rows,
                compiled.rows is None,
                _inner(rows) == _inner(x),
                changeable_variables(context),
                context,
                compiled,
            )


def _inner(x: Nest) -> list[tuple[tuple[int, ...], Any]]:
    return [(leaf.shape[1:], leaf.dtype) for leaf in flatten(x)]


def _fitting(x: Nest, compiled: Compiled) -> Nest | None:
    """Rows as a function was compiled for, made of those given; None where they can't be."""
    leaves, specs = flatten(x), flatten(compiled.specs)
    if len(leaves) != len(specs):
        return None
    if any(leaf.ndim != spec.shape.rank for leaf, spec in zip(leaves, specs, strict=True)):
        return None
    count = compiled.rows or rows_of(x)
    fitted = []
    for leaf, spec in zip(leaves, specs, strict=True):
        cast = _cast(leaf, spec.dtype)
        if cast is None:
            return None
        fitted.append(_shaped(cast, (count, *spec.shape[1:])))
    return rebuild(x, fitted)


def _cast(leaf: Array, dtype: Any) -> Array | None:
    if is_text(leaf) or dtype.as_numpy_dtype is object:
        return leaf if is_text(leaf) and dtype.as_numpy_dtype is object else None
    if is_float(leaf) and dtype.is_integer and np.any(leaf != np.rint(leaf)):
        leaf = np.rint(WHOLE_NUMBERS * (leaf - leaf.min()) / np.ptp(leaf))
    return leaf.astype(dtype.as_numpy_dtype)


def _shaped(leaf: Array, shape: tuple[int | None, ...]) -> Array:
    """The array repeated or cut along each axis to that length."""
    for axis, length in enumerate(shape):
        if length is not None and length != leaf.shape[axis]:
            leaf = leaf.take(np.arange(length) % leaf.shape[axis], axis)
    return leaf


def because(tested: str) -> Explanation:
    """Why a function keeps what was so when it was compiled."""
    return Explanation(
        cause="it was compiled before the model changed",
        tested=tested,
        remedy="have it compiled anew: model.predict_function = None, or compile the model again",
        established=True,
    )


def size_matters(message: str, evidence: Mapping[str, Any]) -> Finding:
    """The finding for a batch size for which `predict` was compiled before the model changed."""
    return SIZE_MATTERS.finding(
        layer=PLACE,
        message=message,
        explanation=because("compiled again, it gives each row the same in all batches"),
        bound="the noise bound, measured on this model",
        evidence=evidence,
    )
