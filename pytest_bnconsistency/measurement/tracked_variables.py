"""A variable that tracks a statistic of its layer's input, and what may be one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import name_of

Role = Literal["mean", "variance", "square", "root", "deviation", "other"]
ROLES: tuple[Role, ...] = ("mean", "variance", "square", "root", "deviation")
"""The moments of its input that a variable may track."""


@dataclass(frozen=True, eq=False)
class Tracked:
    """A variable that moves towards a statistic of its layer's input.

    `retention` is the share of the old value that a run keeps (the momentum, to the power of the
    layer's calls). `partner` is the mean that belongs to a variance. `places` says where a run's
    records hold the moments of the input, for each call: the index of the call and of the moment
    in its record; there are none where the moments are not known. `known` says that the role was
    recognised, and not guessed by its sign or by what stands beside it, `cumulative` that the
    share depends on the number of rows or of runs: then the moments are known. `begun` is the
    value that runs begin with, where what training says hangs on the stored values
    (renormalisation); else it is 0, which has no round-off.
    """

    variable: Any
    layer: Any
    path: str
    role: Role
    retention: float
    calls: int
    partner: Tracked | None = None
    places: tuple[tuple[int, int], ...] = ()
    known: bool = False
    cumulative: bool = False
    begun: Array | float = 0.0

    @property
    def momentum(self) -> float:
        if self.calls == 1:
            return self.retention
        return float(max(self.retention, 0.0) ** (1 / self.calls))

    @property
    def jitter(self) -> float:
        """The standard error of the average, come to rest: of what one batch gives, so much."""
        if not 0 <= self.momentum < 1:
            return 1.0
        return math.sqrt((1 - self.momentum) / (1 + self.momentum))

    @property
    def stored(self) -> Array:
        """What it holds now (float64)."""
        return np.asarray(self.variable.numpy(), np.float64)

    @property
    def is_matrix(self) -> bool:
        """Whether it is of pairs of channels, as a covariance is."""
        shape = tuple(self.variable.shape)
        return not self.known and len(shape) == 2 and shape[0] == shape[1] > 1

    def begin(self, first_variance: float = 1.0) -> Array | float:
        """The value that it begins with, as a rule: 0 for a mean, else 1, or the identity."""
        if self.is_matrix:
            return first_variance * np.eye(self.variable.shape[0])
        return 0.0 if self.role == "mean" else first_variance

    def value(self, moment: Moment) -> Array:
        """The statistic of its role that has these moments."""
        return statistic(self.role, moment)

    def moved_towards(self, moments: Sequence[Moment]) -> Array:
        """What the calls together move it towards: each forgets a share of those before."""
        momentum, left = self.momentum, 1.0
        whole = np.zeros_like(moments[0].mean)
        for moment in reversed(moments):
            whole = whole + left * (1 - momentum) * self.value(moment)
            left *= momentum
        return np.asarray(whole / (1 - self.retention))


def recorded_in(run: Pass, tracked: Sequence[Tracked], before: Pass) -> list[Tracked]:
    """The variables tracked in the pass `before`, with the places in the records of another `run`.

    There are none where a call is missing in it.
    """
    index = {call.label: i for i, call in enumerate(run.calls)}

    def places(t: Tracked) -> tuple[tuple[int, int], ...]:
        found = [(index.get(before.calls[i].label), place) for i, place in t.places]
        known = tuple((i, place) for i, place in found if i is not None)
        return known if len(known) == len(found) else ()

    return [dataclasses.replace(t, places=places(t)) for t in tracked]


def statistic(role: Role, moment: Moment) -> Array:
    """The statistic of a role that has these moments; of no known role, the mean."""
    if role == "variance":
        return moment.variance
    if role == "square":
        return np.asarray(moment.variance + moment.mean**2)
    if role == "root":
        return np.asarray(np.sqrt(moment.variance + moment.mean**2))
    if role == "deviation":
        return np.asarray(np.sqrt(moment.variance))
    return moment.mean


def tracked_candidates(subject: Subject, layer: Any) -> list[Any]:
    """Float variables of the layer's own that no optimizer trains."""
    return [
        variable
        for variable in subject.own_variables(layer)
        if variable.dtype.is_floating and not _trains(layer, variable)
    ]


def _trains(layer: Any, variable: Any) -> bool:
    """Whether the layer counts `variable` among the weights that train when it is not frozen."""
    if not getattr(variable, "trainable", True):
        return False
    kept = [*getattr(layer, "_non_trainable_variables", [])]
    kept += [*getattr(layer, "_non_trainable_weights", [])]
    return not any(getattr(v, "_value", v) is variable for v in kept)


def calls_by_layer(training: Pass) -> dict[int, list[Call]]:
    """The calls of each layer, by its identity; one that another runs without a call has its."""
    by_layer: dict[int, list[Call]] = {}
    for call in training.state_calls():
        by_layer.setdefault(id(call.layer), []).append(call)
    for call in training.calls:
        # A wrapper may run the layer inside without calling it.
        for inside in training.subject.sublayers(call.layer) if call.is_layer else ():
            path = f"{call.path}/{name_of(inside)}"
            by_layer.setdefault(
                id(inside), [dataclasses.replace(call, layer=inside, path=path, number=0)]
            )
    return by_layer


def write_statistics(tracked: Sequence[Tracked], values: Sequence[Array]) -> None:
    """Put statistics into the model."""
    for t, value in zip(tracked, values, strict=True):
        t.variable.assign(as_stored(t, value))


def as_stored(t: Tracked, value: Array) -> Array:
    """A statistic in the dtype that it is stored in: Inf where that holds no such number."""
    with np.errstate(over="ignore"):
        stored: Array = value.astype(t.variable.dtype.as_numpy_dtype)
    return stored
