"""What a layer takes its statistics for: what it keeps in training, and as what it reads them.

The layer is run by itself. Inference mode, under some statistics of a batch, must say of that
batch what training mode says: which statistics these are tells as what each variable is read. What
training keeps in it is read off two updates, from 0 and from 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.isolated_layer import IsolatedLayer
from pytest_bnconsistency.measurement.population import Moment
from pytest_bnconsistency.measurement.tracked_variables import (
    ROLES,
    Role,
    statistic,
    tracked_candidates,
)
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import variable_name

MOST_READ = 3
"""Of more statistics than that there are too many combinations."""
SAME = 1e-3
"""Outputs are alike that differ by less, in the median and in standard deviations."""
ALIKE = 0.01
"""Statistics are alike that differ by less, in their own size."""
UNMOVED = 1e-6
"""A variable that forgets less of what it held does not move."""


@dataclass(frozen=True)
class Use:
    """A variable: as what evaluation reads it, and what training keeps in it.

    `kept_as` is None where training never moves it and "other" where it keeps none of the known
    statistics; `times` is then by how much it is more than what evaluation reads, NaN where this
    is not one factor.
    """

    name: str
    variable: Any
    read_as: Role
    kept_as: Role | None
    times: float = 1.0

    @property
    def agrees(self) -> bool:
        return self.read_as == self.kept_as


@dataclass(frozen=True)
class LeftOut:
    """A trained variable that training uses and evaluation does not; at `neutral` they agree."""

    name: str
    variable: Any
    neutral: float


@dataclass(frozen=True)
class Formulas:
    """What evaluation does with a layer's statistics.

    `uses` is empty where under no statistics of a batch evaluation says what training says of it;
    `left_out` are then what evaluation leaves out, if that is all that tells the modes apart.
    """

    uses: tuple[Use, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def agree(self) -> bool:
        return bool(self.uses) and all(use.agrees for use in self.uses)


def formulas(subject: Subject, layer: Any) -> Formulas | None:
    """The formulas of a layer that tracks statistics or should; None where nothing tells them.

    It must run by itself on a float array, always give the same, read statistics in inference
    mode, and in training mode none.
    """
    try:
        return _Trial(subject, layer).formulas()
    except Exception:  # it can't run by itself
        return None


class _Trial:
    def __init__(self, subject: Subject, layer: Any) -> None:
        self.vectors = [v for v in tracked_candidates(subject, layer) if v.shape.rank]
        self.trained = [
            v
            for v in subject.own_variables(layer)
            if v.dtype.is_floating and not any(v is vector for vector in self.vectors)
        ]
        self.isolated = IsolatedLayer(layer, self.vectors)
        self.x = self.isolated.batch()

    def formulas(self) -> Formulas | None:
        given, other = (
            self.isolated.call(self.x, training=True, under=[(v, value) for v in self.vectors])
            for value in (1.0, 2.0)
        )
        if not np.array_equal(other, given) or not np.isfinite(given).all():
            return None
        read = [v for v in self.vectors if self._hangs_on(v, training=False)]
        if not 0 < len(read) <= MOST_READ:
            return None
        kept = self._kept(read)
        found = self._read_as(read, kept, given)
        if found is not None:
            uses = zip(read, found, kept, strict=True)
            return Formulas(tuple(self._use(v, role, value) for v, role, value in uses))
        return Formulas((), tuple(self._left_out(read, kept)))

    def _hangs_on(self, variable: Any, *, training: bool) -> bool:
        """Whether what a mode says hangs on a variable."""
        rest = [(v, 1.0) for v in self.vectors if v is not variable]
        one, two = (
            self.isolated.call(self.x, training=training, under=[*rest, (variable, value)])
            for value in (1.0, 2.0)
        )
        return not np.array_equal(one, two)

    def _kept(self, read: Sequence[Any]) -> list[Array | None]:
        """What an update moves each towards; None where it does not move."""
        low, high = (self.isolated.trained(self.x, start) for start in (0.0, 1.0))
        found: list[Array | None] = []
        for v, after, from_one in zip(self.vectors, low, high, strict=True):
            if not any(v is one for one in read):
                continue
            share = float(np.median(from_one - after))
            unmoved = abs(1 - share) < UNMOVED and not after.any()
            with np.errstate(divide="ignore", invalid="ignore"):  # a sum forgets nothing
                found.append(None if unmoved else after / (1 - share))
        return found

    def _read_as(
        self,
        read: Sequence[Any],
        kept: Sequence[Array | None],
        given: Array,
        under: Sequence[tuple[Any, float]] = (),
    ) -> tuple[Role, ...] | None:
        """As what each is read, so that inference mode gives what training mode gave."""
        known = [self._role(v, value) for v, value in zip(read, kept, strict=True)]

        def mismatches(roles: tuple[Role, ...]) -> int:
            return sum(role != its for role, its in zip(roles, known, strict=True))

        for roles in sorted(itertools.product(ROLES, repeat=len(read)), key=mismatches):
            values = [(v, self._statistic(v, role)) for v, role in zip(read, roles, strict=True)]
            said = self.isolated.call(self.x, training=False, under=[*values, *under])
            if float(np.median(np.abs(said - given))) < SAME * float(given.std()):
                return roles
        return None

    def _left_out(self, read: Sequence[Any], kept: Sequence[Array | None]) -> list[LeftOut]:
        """Trained variables that training uses and evaluation does not, and that are all that
        tells the modes apart.
        """
        found = [
            v
            for v in self.trained
            if self._hangs_on(v, training=True) and not self._hangs_on(v, training=False)
        ]
        for neutral in (0.0, 1.0) if found else ():
            under = [(v, neutral) for v in found]
            given = self.isolated.call(self.x, training=True, under=under)
            if given.std() > 0 and self._read_as(read, kept, given, under) is not None:
                return [LeftOut(variable_name(self.isolated.layer, v), v, neutral) for v in found]
        return []

    def _use(self, variable: Any, read_as: Role, kept: Array | None) -> Use:
        if kept is None:
            return Use(variable_name(self.isolated.layer, variable), variable, read_as, None)
        role = self._role(variable, kept, first=read_as)
        ratios = kept / self._statistic(variable, read_as)
        times = float(np.median(ratios))
        even = bool(np.ptp(ratios) < ALIKE * abs(times))
        return Use(
            variable_name(self.isolated.layer, variable),
            variable,
            read_as,
            role or "other",
            times if even else float("nan"),
        )

    def _role(self, variable: Any, value: Array | None, first: Role = "mean") -> Role | None:
        """Which statistic of the batch a value is; a variance may carry N/(N-1)."""
        if value is None:
            return None
        count = self.x.size / variable.shape.num_elements()
        unbiased = count / (count - 1)
        for role in sorted(ROLES, key=lambda role: role != first):
            own = self._statistic(variable, role)
            factors = {"variance": unbiased, "deviation": np.sqrt(unbiased)}
            for factor in (1.0, factors.get(role, 1.0)):
                if np.abs(value - own * factor).mean() < ALIKE * np.abs(own).mean():
                    return role
        return None

    def _statistic(self, variable: Any, role: Role) -> Array:
        """A statistic of the batch, in the variable's shape."""
        length = variable.shape.num_elements()
        axis = max(a for a in range(1, self.x.ndim) if self.x.shape[a] == length)
        others = tuple(a for a in range(self.x.ndim) if a != axis)
        moment = Moment(self.x.size / length, self.x.mean(others), self.x.var(others))
        return np.asarray(statistic(role, moment).reshape(variable.shape))
