"""How far stored statistics are from the population's, in standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.normalization_layers import Role
from pytest_bnconsistency.results import Explanation, Finding, Table
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted

FAR_ERRORS, FAR = 10, 0.5
"""A mean is far from the population's beyond so many standard errors and standard deviations,
any other statistic beyond so many standard errors and this share of the population's."""
_PLURALS: Mapping[Role, str] = {
    "mean": "means",
    "variance": "variances",
    "square": "mean squares",
    "deviation": "deviations",
    "other": "statistics",
}


@dataclass(frozen=True)
class Distance:
    """How far a statistic is from the population's: the median over its channels.

    In standard errors (NaN where there are none to tell), and `off` in standard deviations of the
    layer's input for a mean, where another statistic tells these, else in shares of the
    population's own; `how` says that in words.
    """

    role: Role
    errors: float
    off: float
    how: str


@dataclass(frozen=True)
class LayerDistances:
    """The distances of a layer's statistics."""

    path: str
    distances: list[Distance]

    @property
    def errors(self) -> float:
        """The largest, in standard errors."""
        return float(max(np.nan_to_num(d.errors) for d in self.distances))

    @property
    def farthest(self) -> Distance | None:
        """The statistic that is far off, the farthest of them."""
        beyond = [d for d in self.distances if d.errors > FAR_ERRORS and d.off > FAR]
        return max(beyond, key=lambda d: d.off, default=None)

    def cells(self, rows: int) -> tuple[str, ...]:
        known = {d.role: d.errors for d in self.distances if not math.isnan(d.errors)}
        roles: tuple[Role, ...] = ("mean", "variance")
        shown = [f"{known[role]:.1f}" if role in known else "?" for role in roles]
        return (self.path, *shown, str(rows))

    def plain(self) -> dict[str, str | float]:
        """The layer, and the standard errors of each statistic."""
        errors: dict[str, str | float] = {d.role: d.errors for d in self.distances}
        return {"layer": self.path, **errors}


def distances(known: Estimated) -> list[LayerDistances]:
    """Those of each layer, the farthest first."""
    paths = {id(t.layer): t.path for t in reversed(known.tracked)}
    layers = dict.fromkeys(t.layer for t in known.tracked)
    found = [LayerDistances(paths[id(layer)], _distances_of(known, layer)) for layer in layers]
    return sorted(found, key=lambda layer: -layer.errors)


def table(layers: list[LayerDistances], rows: int) -> Table | None:
    columns = ("layer", "mean, standard errors off", "variance, standard errors off", "rows")
    return Table(columns, tuple(layer.cells(rows) for layer in layers)) if layers else None


def far_off(layers: list[LayerDistances]) -> Iterator[Finding]:
    """The warning about layers that are far from the population statistics of the data."""
    far = [(layer.path, layer.farthest) for layer in layers]
    beyond = [(path, distance) for path, distance in far if distance is not None]
    if not beyond:
        return
    path, farthest = max(beyond, key=lambda place: place[1].off)
    others = f"; {counted(len(beyond) - 1, 'more layer')} far off, too" if beyond[1:] else ""
    yield rules.FAR_OFF.finding(
        layer=path,
        layers=[place for place, _ in beyond],
        message=f"{farthest.how}{others}",
        explanation=Explanation(
            cause="not established; train_eval_agreement tries the causes",
            remedy="run train_eval_agreement on training data; or recalibrate(model, x)",
        ),
        bound=f"more than {FAR_ERRORS} standard errors, and more than {FAR} standard "
        f"deviations (of a mean) or {FAR:.0%} (of another statistic)",
        evidence={"layers": [place for place, _ in beyond]},
    )


def _distances_of(known: Estimated, layer: Any) -> list[Distance]:
    """How far each statistic of a layer is from the population's."""
    estimate, found = known.estimate, []
    by_role = {t.role: i for i, t in enumerate(known.tracked) if t.layer is layer}
    population, spread = estimate.population, estimate.spread
    deviation = _deviation({role: population[i] for role, i in by_role.items()})
    for role, i in by_role.items():
        t, value = known.tracked[i], population[i]
        stored = t.variable.numpy().astype(np.float64)
        jitter = math.sqrt((1 - t.momentum) / (1 + t.momentum)) if 0 <= t.momentum < 1 else 1.0
        error = spread[i] * math.sqrt(1 / estimate.batches + jitter**2)
        size = np.maximum(np.abs(value), 1e-12)
        unit = deviation if role == "mean" and deviation is not None else size
        usable = error > 1e-6 * unit
        away = np.abs(stored - value)
        errors = float(np.median(away[usable] / error[usable])) if usable.any() else math.nan
        off = float(np.median(away / unit))
        how = f"{off:.2g} standard deviations from those of this data"
        if unit is size:
            how = f"{float(np.median(stored / size)):.2g} times those of this data"
        found.append(Distance(role, errors, off, f"the {_PLURALS[role]} of {t.path} are {how}"))
    return found


def _deviation(population: Mapping[Role, Array]) -> Array | None:
    """The standard deviation of a layer's input, as far as its statistics tell it."""
    if "variance" in population:
        variance = population["variance"]
    elif "deviation" in population:
        variance = population["deviation"] ** 2
    elif "square" in population and "mean" in population:
        variance = population["square"] - population["mean"] ** 2
    else:
        return None
    return np.asarray(np.sqrt(np.maximum(variance, 1e-24)))
