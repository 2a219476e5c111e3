"""What the user's own calls had `predict` compiled for: run on such rows, beside inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import Case
from pytest_bnconsistency.checks.entry_points import (
    Entry,
    arrays_of,
    held_variables,
    measured_noise,
    rows_between,
    traced_entry,
)
from pytest_bnconsistency.checks.inference_purity.explain import Runner
from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    flatten,
    is_float,
    is_text,
    rebuild,
    rows_of,
)
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.state import Variables
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.models.base import Compiled

WHOLE_NUMBERS = 100
"""What numbers of a wider range become at most, where a function was compiled for integers."""


@dataclass(frozen=True)
class CompiledRun:
    """An entry point as it was compiled before the check, and inference on the same rows."""

    name: str
    rows: Nest
    expected: list[Array]
    noise: Noise
    observed: Observation
    runner: Runner


def compiled_runs(case: Case, x: Nest) -> Iterator[CompiledRun]:
    """Each function that `predict` was compiled into before the check, on rows as it takes them.

    A compiled function keeps what Python said when it was traced, for rows of that shape and
    dtype alone. Rows that inference does not take are left out.
    """
    for compiled in case.subject.compiled_for():
        rows = _fitting(x, compiled)
        if rows is None:
            continue
        try:
            expected, noise = _inference(case, x, rows)
            yield CompiledRun(
                f"predict as compiled before for {_spelled(rows)}",
                rows,
                expected,
                noise,
                _run(case, x, compiled, rows),
                _runner(case, x, compiled, rows),
            )
        except RefusedError:
            continue


def _runner(case: Case, x: Nest, compiled: Compiled, rows: Nest) -> Runner:
    def anew() -> list[Array]:
        case.subject.compile_anew()
        return arrays_of(compiled.run(rows))

    return Runner(anew, case.subject.own_inference(), held_variables(case, x))


def _run(case: Case, x: Nest, compiled: Compiled, rows: Nest) -> Observation:
    before = Variables(held_variables(case, x))
    try:
        outputs = arrays_of(compiled.run(rows))
        return Observation(outputs, [], tuple(before.moved()), {})
    finally:
        before.restore()


def _inference(case: Case, x: Nest, rows: Nest) -> tuple[list[Array], Noise]:
    """What inference gives for rows, and its noise there."""
    if _spelled(x, 1) == _spelled(rows, 1):
        count = rows_of(rows)
        batch, _ = rows_between(x, 0, count)
        seen = traced_entry(case, x, False)
        return seen.run(batch, rows).outputs, measured_noise(case, x)
    other = Pass(case.subject, rows, training=False)
    return Entry("", other.run, other.written).run("", rows).outputs, Noise(other, rows)


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


def _spelled(x: Nest, start: int = 0) -> str:
    return ", ".join(f"{leaf.shape[start:]} {leaf.dtype}" for leaf in flatten(x))
