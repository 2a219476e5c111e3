"""How far stored statistics are from the population's, in standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.population_statistics import Estimated, in_parts
from pytest_bnconsistency.measurement.population_distances import (
    Channel,
    Distance,
    distances_by_layer,
)
from pytest_bnconsistency.measurement.tracked_variables import Role
from pytest_bnconsistency.results import Explanation, Finding, Table
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted, digits

FAR_ERRORS, FAR = 10, 0.5
"""A mean is far from the population's beyond so many standard errors and standard deviations,
any other statistic beyond so many standard errors and this share of the population's."""
FAR_CHANNEL = 9.0
"""Where a single channel is told: a mean is so many standard deviations off, any other statistic
so many times the population's own."""
_PLURALS: Mapping[Role, str] = {
    "mean": "means",
    "variance": "variances",
    "square": "mean squares",
    "root": "root mean squares",
    "deviation": "deviations",
    "other": "statistics",
}


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

    @property
    def channel(self) -> tuple[Distance, Channel] | None:
        """The single channel that is far off, the farthest of them, and its statistic."""
        channels = [(d, d.farthest) for d in self.distances if d.farthest is not None]
        beyond = [p for p in channels if p[1].errors > FAR_ERRORS and p[1].off > FAR_CHANNEL]
        return max(beyond, key=lambda pair: pair[1].off, default=None)

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
    found = [
        LayerDistances(paths[layer], own)
        for layer, own in distances_by_layer(
            known.tracked, known.estimate, in_parts(known)
        ).items()
    ]
    return sorted(found, key=lambda layer: -layer.errors)


def table(layers: list[LayerDistances], rows: int) -> Table | None:
    columns = ("layer", "mean, standard errors off", "variance, standard errors off", "rows")
    return Table(columns, tuple(layer.cells(rows) for layer in layers)) if layers else None


def far_off(layers: list[LayerDistances]) -> Iterator[Finding]:
    """The warning about layers that are far from the population statistics of the data; where
    none is, about single channels that are.
    """
    beyond = [
        (layer.path, distance.off, _how_far(distance))
        for layer in layers
        if (distance := layer.farthest) is not None
    ]
    in_a_channel = [
        (layer.path, channel[1].off, _how_far_in_a_channel(*channel))
        for layer in layers
        if (channel := layer.channel) is not None
    ]
    if beyond:
        yield _far_off(beyond, "far off, too", FAR, f"{FAR:.0%}")
    elif in_a_channel:
        yield _far_off(in_a_channel, "with such a channel", FAR_CHANNEL, f"{FAR_CHANNEL:.0%}")


def _far_off(
    beyond: Sequence[tuple[str, float, str]], more: str, deviations: float, share: str
) -> Finding:
    """The finding about layers, each with how far it is off, as a number and in words."""
    path, _, how_far = max(beyond, key=lambda place: place[1])
    others = f"; {counted(len(beyond) - 1, 'more layer')} {more}" if beyond[1:] else ""
    paths = [place for place, _, _ in beyond]
    return rules.FAR_OFF.finding(
        layer=path,
        layers=paths,
        message=f"{how_far}{others}",
        explanation=Explanation(
            cause="not established; train_eval_agreement tries the causes",
            remedy="run train_eval_agreement on training data; or recalibrate(model, x)",
        ),
        bound=f"more than {FAR_ERRORS} standard errors, and more than {deviations:g} standard "
        f"deviations (of a mean) or {share} (of another statistic)",
        evidence={"layers": paths},
    )


def _how_far_in_a_channel(distance: Distance, channel: Channel) -> str:
    how = f"{digits(channel.off, 2)} standard deviations from"
    if not distance.in_deviations:
        how = f"{digits(channel.ratio, 2)} times"
    role = _PLURALS[distance.role].removesuffix("s")
    return (
        f"the {role} of {distance.path} is {how} that of this data in channel {channel.index}, "
        "and near it in most others"
    )


def _how_far(distance: Distance) -> str:
    how = f"{digits(distance.off, 2)} standard deviations from"
    if not distance.in_deviations:
        how = f"{digits(distance.ratio, 2)} times"
    return f"the {_PLURALS[distance.role]} of {distance.path} are {how} those of this data"
