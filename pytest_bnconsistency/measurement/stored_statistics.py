"""The statistics that a model holds, read without a run, or known by what a run did."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.isolated_layer import IsolatedLayer
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.measurement.tracked_variables import (
    ROLES,
    Role,
    Tracked,
    tracked_candidates,
)
from pytest_bnconsistency.measurement.tracked_variables import statistic as role_statistic
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import is_of_library

ROUNDING = 1e-5
"""A deviation of this share of a mean may be one of rounding: what was averaged did not vary."""
MOVING = 0.01
"""An update that keeps less than this share, or all but this share, tells no momentum."""
ALIKE = 0.01
"""Shares of the old value that are as near count as one momentum."""


def is_variance(name: str) -> bool:
    """Whether an attribute of this name holds a variance: nothing runs that would tell."""
    return "var" in name.lower()


@dataclass(frozen=True)
class NormalizationLayer:
    """A layer that holds statistics: its path, and its vectors by attribute.

    `measured` is its momentum by what it does; None where nothing was run that tells. `known` are
    the roles of its variables that a run told, by identity.
    """

    layer: Any
    path: str
    vectors: dict[str, Any]
    trainable: bool
    measured: float | None = None
    known: Mapping[int, Role] = field(default_factory=dict)

    def variances(self) -> Iterator[tuple[str, Array]]:
        for name, variable in self.vectors.items():
            role = self.known.get(id(variable))
            if is_variance(name) if role is None else role == "variance":
                yield name, np.asarray(variable.numpy(), np.float64)

    @property
    def declared(self) -> float | None:
        momentum = getattr(self.layer, "momentum", None)
        return float(momentum) if isinstance(momentum, (int, float)) else None

    @property
    def momentum(self) -> float | None:
        return self.declared if self.measured is None else self.measured

    @property
    def epsilon(self) -> float | None:
        epsilon = getattr(self.layer, "epsilon", None)
        return float(epsilon) if isinstance(epsilon, float) else None

    @property
    def adapts(self) -> bool:
        """Whether its statistics are taken by `adapt`, before training."""
        return callable(getattr(self.layer, "adapt", None))

    @property
    def fresh(self) -> bool:
        """Whether it holds nothing but zeros and ones, as layers begin."""
        values = [np.asarray(v.numpy(), np.float64) for v in self.vectors.values()]
        return all(value.flat[0] in (0, 1) and (value == value.flat[0]).all() for value in values)

    @property
    def scale(self) -> Array | None:
        """What the layer multiplies normalised channels by, where an attribute tells."""
        return self._weight("gamma")

    @property
    def learnt(self) -> bool:
        """Whether its scale or offset is no longer one number throughout."""
        own = (self.scale, self._weight("beta"))
        return any(value is not None and np.ptp(value) > 0 for value in own)

    def in_use(self) -> None:
        """Have it use what its variables hold: one that adapts may keep copies of these."""
        getattr(self.layer, "finalize_state", lambda: None)()

    def dead(self, variance: Array) -> Array:
        """Which channels have next to no variance: none that could be told from rounding, of a
        layer that adapts; against its epsilon, of any other.
        """
        if not self.adapts:
            return (variance >= 0) & (variance < (self.epsilon or 0.0) / 100)
        means = [
            np.asarray(variable.numpy(), np.float64)
            for name, variable in self.vectors.items()
            if not is_variance(name) and variable.shape == variance.shape
        ]
        largest = np.max(np.abs([np.zeros_like(variance), *means]), axis=0)
        return np.asarray((variance >= 0) & (variance <= (ROUNDING * largest) ** 2))

    def gains(self, variance: Array) -> Array:
        """What an input of each channel is multiplied by in inference; of a layer that adapts,
        the largest, measured.
        """
        if self.adapts:
            layer = IsolatedLayer(self.layer, list(self.vectors.values()))
            return np.full(variance.shape, layer.gain(1.0))
        scale = self.scale
        known = scale is not None and scale.size == variance.size
        own = np.abs(scale).reshape(variance.shape) if known and scale is not None else 1.0
        return np.asarray(own / np.sqrt(np.maximum(variance, 0) + (self.epsilon or 0.0)))

    def _weight(self, name: str) -> Array | None:
        weight = getattr(self.layer, name, None)
        numbers = getattr(getattr(weight, "_value", weight), "numpy", None)
        return None if numbers is None else np.asarray(numbers(), np.float64)

    @property
    def axis(self) -> tuple[int, int] | None:
        """The axis of the statistics and the rank of the input, where both are told."""
        spec = getattr(self.layer, "input_spec", None)
        axes, rank = getattr(spec, "axes", None), getattr(spec, "ndim", None)
        if not axes or not rank or len(axes) != 1:
            return None
        return int(next(iter(axes))) % rank, int(rank)


def normalization_layers(subject: Subject) -> Iterator[NormalizationLayer]:
    """Layers with an epsilon, a momentum or `adapt`, and vectors that no optimizer trains."""
    for layer in subject.layers():
        if not any(hasattr(layer, name) for name in ("epsilon", "momentum", "adapt")):
            continue
        known = {id(v) for v in tracked_candidates(subject, layer)}
        vectors = {
            name: variable
            for name, variable in attributes(layer).items()
            if id(variable) in known and variable.shape.num_elements()
        }
        if vectors:
            yield NormalizationLayer(layer, subject.path(layer), vectors, subject.trainable(layer))


def by_isolated_runs(known: Sequence[NormalizationLayer]) -> list[NormalizationLayer]:
    """`known`, with the momenta and the variances that layers of the user's own show alone.

    A library's own do what their attributes say. Whoever asks restores the state of the subject.
    """
    return [n if is_of_library(n.layer) else _by_isolated_run(n) for n in known]


def _by_isolated_run(n: NormalizationLayer) -> NormalizationLayer:
    layer = IsolatedLayer(n.layer, list(n.vectors.values()))
    try:
        x = layer.batch()
        low, high = (layer.trained(x, start) for start in (0.0, 1.0))
    except Exception:  # it can't run by itself
        return n
    known, shares = dict(n.known), []
    for variable, zero, one in zip(n.vectors.values(), low, high, strict=True):
        kept = float(np.median(one - zero))
        if MOVING < kept < 1 - MOVING:
            shares.append(kept)
            role = _role_of(zero / (1 - kept), x)
            known |= {} if role is None else {id(variable): role}
    if n.declared is None or n.fresh or not shares or abs(shares[0] - n.declared) <= ALIKE:
        return dataclasses.replace(n, known=known)
    return dataclasses.replace(n, known=known, measured=round(shares[0], 6))


def _role_of(statistic: Array, x: Array) -> Role | None:
    """Which moment of each channel of `x` a statistic is; None if it is none."""
    channels = x.reshape(-1, x.shape[-1]).astype(np.float64)
    if statistic.size != channels.shape[1]:
        return None
    moment = Moment(len(channels), channels.mean(axis=0), channels.var(axis=0))
    for role in ROLES:
        expected = role_statistic(role, moment)
        off = np.abs(statistic.ravel() / expected - 1).max()
        if off < ALIKE or (role == "variance" and off < 2 / len(channels)):
            return role
    return None


def by_behaviour(
    known: Sequence[NormalizationLayer], tracked: Sequence[Tracked]
) -> list[NormalizationLayer]:
    """`known`, all other layers that track statistics, and momenta as measured.

    Of what normalises inside itself, the roles are as likely as can be told.
    """
    found = {id(n.layer): n for n in known}
    for layer in dict.fromkeys(t.layer for t in tracked):
        own = [t for t in tracked if t.layer is layer]
        telling = [t for t in own if t.known] or own
        n = found.get(id(layer)) or NormalizationLayer(layer, own[0].path, _by_role(own), True)
        n = dataclasses.replace(n, known={id(t.variable): t.role for t in telling})
        found[id(layer)] = _with_momentum(n, telling[0])
    return list(found.values())


def _with_momentum(n: NormalizationLayer, measured: Tracked) -> NormalizationLayer:
    """With what was measured, where the layer does not do what it declares and has a momentum."""
    kept = measured.momentum
    as_declared = n.declared is not None and abs(n.declared - kept) < ALIKE
    if as_declared or n.adapts or n.fresh:
        return n
    return dataclasses.replace(n, measured=_momentum(measured))


def _by_role(tracked: Sequence[Tracked]) -> dict[str, Any]:
    """The variables by their attributes, or by their roles where an attribute would mislead."""
    vectors: dict[str, Any] = {}
    for t in tracked:
        names = [name for name, v in attributes(t.layer).items() if v is t.variable]
        fitting = [n for n in names if is_variance(n) == (t.role == "variance")]
        vectors[next(iter(fitting), f"its {t.role}")] = t.variable
    return vectors


def _momentum(t: Tracked) -> float | None:
    """The share that an update keeps, where it is one share: that of a mean of all rows so far
    depends on their number.
    """
    kept = t.retention if t.calls == 1 else t.momentum
    try:
        isolated = IsolatedLayer(t.layer, [t.variable]).kept()
    except Exception:  # it can't run by itself
        return None
    return round(kept, 6) if abs(isolated - kept) < ALIKE else None


def attributes(layer: Any) -> dict[str, Any]:
    """The attributes of a layer by name; of a library's variable, what holds its value."""
    known = getattr(layer, "__dict__", {})
    return {name.lstrip("_"): getattr(v, "_value", v) for name, v in known.items()}
