"""Which layers' statistics make the gap: closing it one by one, and opening it one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.data.arrays import Array, is_float
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.compared_outputs import spread_of
from pytest_bnconsistency.measurement.tracked_variables import Tracked, write_statistics
from pytest_bnconsistency.results import Table

HALF = 0.5
LAYERS, ROWS = 24, 4
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


@dataclass(frozen=True)
class Share:
    """How much of the gap closes when only this layer gets its population statistics, and opens
    when only this one keeps its moving ones; NaN where no time was left to try it.

    And how far its moving statistics are from the population's: the mean in standard deviations,
    and the ratio of the variances.
    """

    path: str
    closes: float
    opens: float
    mean_shift: float
    variance_ratio: float

    @property
    def cells(self) -> tuple[str, ...]:
        return self.path, _share(self.closes), _share(self.opens)

    def plain(self) -> dict[str, str | float]:
        return {
            "layer": self.path,
            "closes": self.closes,
            "opens": self.opens,
            "mean_shift": self.mean_shift,
            "variance_ratio": self.variance_ratio,
        }


@dataclass(frozen=True)
class Attribution:
    """What each layer does to the gap, the one that does most first, and that as a table."""

    shares: Sequence[Share]
    table: Table

    @property
    def worst(self) -> str:
        return self.shares[0].path

    @property
    def none_by_itself(self) -> bool:
        """Whether there are several layers, and none alone closes half of the gap."""
        return len(self.shares) > 1 and all(share.closes < HALF for share in self.shares)


def attributed(
    inference: Pass,
    data: Data,
    tracked: Sequence[Tracked],
    moving: Sequence[Array],
    reference: Sequence[Array],
    updates: int | None,
    shares: Mapping[int, float],
) -> Attribution:
    """What each layer does to the gap, the one that closes or opens most of it first.

    `shares` of the initial values, by identity of the layer, were measured: without, the share is
    what the updates leave.

    One trace, `inference`, serves all: a layer's statistics are put in, the rows run, and the
    statistics are put back. Without time for a layer, what it does to the gap stays open.
    """
    tries = Tries()
    rows = data.take(np.linspace(0, data.rows - 1, min(ROWS, data.rows)).round().astype(int))
    layers = {id(t.layer): t for t in tracked}
    shift = {key: _shift(tracked, moving, reference, t.layer) for key, t in layers.items()}
    tried = sorted(layers, key=lambda key: -_distance(*shift[key]))[:LAYERS]

    def said() -> list[Array]:
        return [output for output in inference.over([rows]) if is_float(output)]

    def outputs(all_have: Sequence[Array]) -> list[Array]:
        write_statistics(tracked, all_have)
        return said()

    def one_by_one(all_have: Sequence[Array], one_has: Sequence[Array]) -> dict[int, list[Array]]:
        outputs_of = {}
        for key in tried:
            if not tries.may("how much of the gap each layer makes"):
                break
            own = [i for i, t in enumerate(tracked) if id(t.layer) == key]
            variables = [tracked[i] for i in own]
            write_statistics(variables, [one_has[i] for i in own])
            outputs_of[key] = said()
            write_statistics(variables, [all_have[i] for i in own])
        return outputs_of

    start = outputs(moving)
    closing_each = one_by_one(moving, reference)
    target = outputs(reference)
    opening_each = one_by_one(reference, moving)
    whole = _difference(start, target) or 1.0
    found = []
    for key in tried:
        t = layers[key]
        closing = opening = float("nan")
        if key in closing_each and key in opening_each:
            closing = 1 - _part(_difference(closing_each[key], target), whole)
            opening = _part(_difference(opening_each[key], target), whole)
        share = Share(t.path, closing, opening, *shift[key])
        found.append((share, (*share.cells, *_cells(t, shift[key], updates, shares.get(key)))))
    write_statistics(tracked, moving)
    if not tries.cut:  # else they stand by how far their statistics are off
        found.sort(key=lambda row: (-max(row[0].closes, row[0].opens), row[1]))
    table = Table(COLUMNS, tuple(cells for _, cells in found), more=len(layers) - len(tried))
    return Attribution([share for share, _ in found], table)


def _part(difference: float, whole: float) -> float:
    """Of a whole that is NaN or Inf, what is so too is all, and numbers are nothing."""
    return difference / whole if math.isfinite(whole) else float(not math.isfinite(difference))


def _cells(
    t: Tracked, shift: tuple[float, float], updates: int | None, share: float | None
) -> tuple[str, ...]:
    """How far the statistics of a layer are off, and what is left of their initial values."""
    moved = ("?" if np.isnan(value) else f"{value:.2f}" for value in shift)
    if share is not None:
        left = f"{share:.0%} (measured)"
    elif updates is not None and 0 <= t.momentum <= 1:
        left = f"{t.momentum ** (updates * t.calls):.1%}"
    else:
        left = "?"
    return (*moved, "?" if updates is None else str(updates * t.calls), left)


def _share(value: float) -> str:
    """A share of the gap: statistics of one layer alone may also make it larger than it was."""
    if not np.isfinite(value):
        return "?"
    return "none" if value < 0.005 else "all" if value > 0.995 else f"{value:.0%}"


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
    return (float("nan") if mean is None else mean, float("nan") if ratio is None else ratio)


def _distance(mean: float, ratio: float) -> float:
    return float(
        np.nan_to_num(mean) + abs(np.log(np.clip(np.nan_to_num(ratio, nan=1), 1e-6, 1e6)))
    )


def _difference(a: list[Array], target: list[Array]) -> float:
    """The root mean squares of what outputs differ by, in deviations of the target's rows."""
    pairs = ((x.astype(float), y.astype(float)) for x, y in zip(a, target, strict=True))
    return float(sum(np.sqrt(np.mean((x - y) ** 2)) / spread_of(y) for x, y in pairs))
