"""How far stored statistics are from the population's, in standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.population import Estimate
from pytest_bnconsistency.measurement.tracked_variables import Role, Tracked

NOISE = 0.05
"""What chance may add to a share of all."""


ALIVE = 0.01
"""A channel counts whose population's statistic is more than this share of the median one."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """How far a channel is off, in the units of `Distance`; `index` is its place, from 0."""

    index: int
    errors: float
    off: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far a statistic is from the population's: the median over its channels.

    `errors` is in standard errors, NaN where there are none to tell. `off` is in standard
    deviations of the layer's input for a mean, where another statistic tells these, and then
    `in_deviations` is True; else in shares of the population's own. `error` is a standard error in
    the same unit, 0 where there is none to tell. `ratio` is what is stored over the population's.
    `farthest` is the channel that is farthest off, None where none varies.
    """

    role: Role
    path: str
    errors: float
    off: float
    error: float
    in_deviations: bool
    ratio: float
    farthest: Channel | None


def distances_by_layer(
    tracked: Sequence[Tracked], estimate: Estimate, varying: Estimate | None = None
) -> dict[int, list[Distance]]:
    """How far each statistic is off, by identity of its layer.

    The standard errors are those of the batches of the estimate, or of the one that is `varying`.
    """
    layers = dict.fromkeys(t.layer for t in tracked)
    return {id(t): _distances_of(tracked, estimate, varying or estimate, t) for t in layers}


def _distances_of(
    tracked: Sequence[Tracked], estimate: Estimate, varying: Estimate, layer: Any
) -> list[Distance]:
    """How far each statistic of a layer is from the population's."""
    found = []
    by_role = {t.role: i for i, t in enumerate(tracked) if t.layer is layer}
    population, spread = estimate.population, varying.spread
    deviation = _deviation({role: population[i] for role, i in by_role.items()})
    for role, i in by_role.items():
        t, value = tracked[i], population[i]
        error = spread[i] * math.sqrt(1 / varying.batches + t.jitter**2)
        size = np.maximum(np.abs(value), 1e-12)
        unit = deviation if role == "mean" and deviation is not None else size
        usable = error > 1e-6 * unit
        away = np.abs(t.stored - value)
        errors = float(np.median(away[usable] / error[usable])) if usable.any() else math.nan
        off = float(np.median(away / unit))
        found.append(
            Distance(
                role=role,
                path=t.path,
                errors=errors,
                off=off,
                error=float(np.median(error / unit)),
                in_deviations=unit is not size,
                ratio=float(np.median(t.stored / size)),
                farthest=_farthest(away, error, unit, t.stored / size, usable),
            )
        )
    return found


def _farthest(
    away: Array, error: Array, unit: Array, ratio: Array, usable: Array
) -> Channel | None:
    """The channel that is farthest off, of those that are alive and vary."""
    counted = (usable & (unit > ALIVE * np.median(unit))).ravel()
    if not counted.any():
        return None
    off = np.where(counted, (away / unit).ravel(), -1.0)
    index = int(off.argmax())
    return Channel(
        index=index,
        errors=float((away / np.where(usable, error, 1.0)).ravel()[index]),
        off=float(off[index]),
        ratio=float(ratio.ravel()[index]),
    )


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


def initial_share(
    tracked: Sequence[Tracked], moving: Sequence[Array], reference: Sequence[Array]
) -> float:
    """The share of the initial values (mean 0, variance 1) in the moving statistics.

    The least-squares s of `moving = s * initial + (1 - s) * reference`, every channel in units
    of its own size. Below 0 or above 1 it is no share: then nothing of the initial values is known
    to be left.
    """
    above = below = 0.0
    for t, stored, value in zip(tracked, moving, reference, strict=True):
        if t.role == "other" and not t.is_matrix:
            continue
        initial = t.begin()
        unit = 1.0 + np.abs(value)
        away, start = (stored - value) / unit, (initial - value) / unit
        above += float((away * start).sum())
        below += float((start * start).sum())
    share = above / below if below else 0.0
    return min(share, 1.0) if 0 <= share <= 1 + NOISE else 0.0
