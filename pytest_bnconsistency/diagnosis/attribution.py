"""Which layers' statistics make the gap: closing it one by one, and opening it one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array, Data, is_float
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.statistics import Tracked
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import Table
from pytest_bnconsistency.subjects import Subject

LAYERS, ROWS = 24, 8
"""The layers that moved farthest are tried, on this many rows: the cost stays bounded."""
COLUMNS = (
    "layer",
    "closes the gap",
    "opens the gap",
    "|mean shift| / sd",
    "variance ratio",
    "updates",
    "initial share",
)


def initial_share(
    tracked: Sequence[Tracked], moving: Sequence[Array], reference: Sequence[Array]
) -> float:
    """The share of the initial values (mean 0, variance 1) in the moving statistics.

    The least-squares s of `moving = s * initial + (1 - s) * reference`, every channel in units
    of its own size.
    """
    above = below = 0.0
    for t, stored, value in zip(tracked, moving, reference, strict=True):
        if t.role == "other":
            continue
        initial = 0.0 if t.role == "mean" else 1.0
        unit = 1.0 + np.abs(value)
        away, start = (stored - value) / unit, (initial - value) / unit
        above += float((away * start).sum())
        below += float((start * start).sum())
    return above / below if below else 0.0


def table(
    subject: Subject,
    data: Data,
    tracked: Sequence[Tracked],
    moving: Sequence[Array],
    reference: Sequence[Array],
    updates: int | None,
) -> Table:
    """One row a layer, the one that closes most of the gap first."""
    x = data.take(np.linspace(0, data.rows - 1, min(ROWS, data.rows)).round().astype(int)).x
    inference = Pass(subject, x, training=False)
    layers = {id(t.layer): t for t in tracked}
    shift = {key: _shift(tracked, moving, reference, t.layer) for key, t in layers.items()}
    tried = sorted(layers, key=lambda key: -_distance(*shift[key]))[:LAYERS]

    def outputs(chosen: Any) -> list[Array]:
        values = [reference[i] if chosen(t) else moving[i] for i, t in enumerate(tracked)]
        statistics.write(tracked, values)
        return inference.run(x).outputs

    target, start = outputs(lambda t: True), outputs(lambda t: False)
    whole = _apart(start, target) or 1.0
    rows = []
    for key in tried:
        t = layers[key]
        closing = 1 - _apart(outputs(lambda o, k=key: id(o.layer) == k), target) / whole
        opening = _apart(outputs(lambda o, k=key: id(o.layer) != k), target) / whole
        mean, ratio = shift[key]
        left = "?" if updates is None else f"{t.momentum ** (updates * t.calls):.1%}"
        rows.append(
            (
                (closing, opening),
                (
                    t.path,
                    _share(closing),
                    _share(opening),
                    "?" if np.isnan(mean) else f"{mean:.2f}",
                    "?" if np.isnan(ratio) else f"{ratio:.2f}",
                    "?" if updates is None else str(updates * t.calls),
                    left,
                ),
            )
        )
    statistics.write(tracked, moving)
    rows.sort(key=lambda row: (-max(row[0]), row[1]))
    return Table(COLUMNS, tuple(row for _, row in rows), more=len(layers) - len(tried))


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else "?"


def _shift(
    tracked: Sequence[Tracked], moving: Sequence[Array], reference: Sequence[Array], layer: Any
) -> tuple[float, float]:
    """|moving - population mean| in standard deviations, and moving over population variance."""
    mean = ratio = None
    variances = {
        t.role: value for t, value in zip(tracked, reference, strict=True) if t.layer is layer
    }
    sd = np.sqrt(np.maximum(variances.get("variance", np.ones(1)), 1e-12))
    for t, stored, value in zip(tracked, moving, reference, strict=True):
        if t.layer is not layer:
            continue
        if t.role == "mean":
            mean = float(np.median(np.abs(stored - value) / sd))
        elif t.role == "variance":
            ratio = float(np.median(stored / np.maximum(value, 1e-12)))
    return (
        float("nan") if mean is None else mean,
        float("nan") if ratio is None else ratio,
    )


def _distance(mean: float, ratio: float) -> float:
    return float(
        np.nan_to_num(mean) + abs(np.log(np.clip(np.nan_to_num(ratio, nan=1), 1e-6, 1e6)))
    )


def _apart(a: list[Array], b: list[Array]) -> float:
    return float(
        sum(
            np.sqrt(np.mean((x.astype(float) - y.astype(float)) ** 2))
            for x, y in zip(a, b, strict=True)
            if is_float(y)
        )
    )
