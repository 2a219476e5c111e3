"""What a check decides about: a subject with its data and settings.

Nothing here imports TensorFlow by itself: tests are collected without it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    flatten,
    is_float,
    map_nest,
    rebuild,
    take_rows,
)
from pytest_bnconsistency.data.generation import generate
from pytest_bnconsistency.data.reading import Returned, doubles_in, read
from pytest_bnconsistency.data.rows import Data, some_rows
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.models import Subject, subject_of
from pytest_bnconsistency.results import CheckResult
from pytest_bnconsistency.settings import Settings

FEWEST_ROWS = 2
Made = TypeVar("Made")


@dataclass
class CheckContext:
    """A subject with its data and settings; what checks share is made `once` and kept on it.

    `data` is None where the user gave none. `asked` says that the check was asked for by name:
    then what it needs must be there, otherwise it is not applicable. `layer_facts` are those that
    the last check reported of the normalization layers, `results` those of the checks that ran on
    it, by name.
    """

    subject: Subject
    data: Data | None
    settings: Settings
    asked: bool = True
    train_step: Callable[..., Any] | None = None
    layer_facts: tuple[dict[str, Any], ...] | None = None
    # pytest shows what is given to each function under a Ctrl-C: these take it seconds.
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    results: dict[str, CheckResult] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        model: Any,
        x: Any,
        y: Any,
        settings: Settings,
        *,
        asked: bool = True,
        train_step: Callable[..., Any] | None = None,
    ) -> CheckContext:
        subject = subject_of(model)
        given, weight, notes = None, None, tuple[str, ...]()
        if isinstance(x, Returned):
            x, y, weight, notes = x.parts(subject.inputs())
        if x is not None:
            specs = _seen_as(subject, x)
            given = read(
                x,
                y,
                specs,
                settings.max_rows,
                settings.statistics_rows,
                weight,
                takes_nan=partial(_takes_nan, subject),
            )
            given = replace(given, notes=(*notes, *given.notes))
            if given.kinds:
                subject = copy.copy(subject)
                subject.kinds = given.kinds
        return cls(subject, given, settings, asked, train_step)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made when it is first asked for; `key` tells all that it hangs on."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def known(self, key: Hashable) -> Any:
        """What was made under that key, None if nobody asked for it yet."""
        return self._made.get(key)

    @property
    def predict_function(self) -> Any:
        """What `predict` was compiled into: each check leaves the model without it, the next runs
        it again.
        """
        return self.known("predict function")

    @predict_function.setter
    def predict_function(self, function: Any) -> None:
        self._made["predict function"] = function

    def specs(self) -> Nest | None:
        """The inputs that rows are generated for; None where nothing tells them."""
        from pytest_bnconsistency.execution.accepted_sizes import specs_of

        return self.once("specs", lambda: specs_of(self.subject, self.settings.shapes))

    def sample(self) -> Nest:
        """The rows that the checks of inference run on."""
        return self.once("sample", lambda: self.rows(self.fixed_rows or self.settings.rows))

    @property
    def given(self) -> Data:
        """The data, where a check has made sure that there is some, with its boundary."""
        from pytest_bnconsistency.measurement.decision_boundary import with_boundary

        data = self.data
        assert data is not None
        return self.once("given", lambda: with_boundary(self.subject, data))

    def updates(self) -> int | None:
        """How often the model was trained on a batch, as the user says or its optimizer counts."""
        said = self.settings.updates
        return self.subject.updates() if said is None else said

    @property
    def fixed_rows(self) -> int | None:
        """The only number of rows that the model takes, if there is only one."""

        def declared() -> int | None:
            self.subject.fixed_rows = self.subject.declared_rows() if self.only_size else None
            return self.subject.fixed_rows

        return self.once("fixed rows", declared)

    @property
    def only_size(self) -> str:
        """Why it takes no other number of rows, "" where it does."""
        from pytest_bnconsistency.execution.accepted_sizes import only_size

        return self.once("only size", lambda: only_size(self.subject))

    def rows(self, count: int) -> Nest:
        """`count` rows of the given data, drawn from it and made up to that number, or generated.

        Raises:
            DataError: nothing was given, and the inputs of the model are not known, or it takes
                none of the sizes that were tried.
        """
        if self.data is not None:
            fewest = max(FEWEST_ROWS, self.subject.declared_rows() or 0)
            x = _drawn(self.data, min(count, max(self.data.rows, fewest))).x
            return self._with_ids(x)
        specs = self.specs()
        if specs is None:
            name = self.subject.name
            may_build = inspect.isfunction(self.subject.model) and name != "lambda"
            raise DataError(
                f"the input shape of model {name!r} is not known, so no rows can be "
                "generated; give some rows as x, or --bn-data, or their shape: "
                "shape=(32, 32, 3), --bn-shape '(32, 32, 3)'"
                + (f"; or {name}(), if that returns the model" if may_build else "")
            )
        from pytest_bnconsistency.execution.accepted_sizes import fitting_size

        def make(size: int) -> Nest:
            return generate(specs, count, self.settings.seed, size)

        return make(fitting_size(self.subject, make))

    def _with_ids(self, x: Nest) -> Nest:
        """`x` with the floats that the model reads as ids for whole numbers, as ids must stay."""
        if not any(map(_may_be_ids, flatten(x))):
            return x
        from pytest_bnconsistency.execution.accepted_sizes import read_as_ids

        pairs = zip(flatten(x), read_as_ids(self.subject, x), strict=True)
        return rebuild(x, [leaf.astype(np.int32) if are_ids else leaf for leaf, are_ids in pairs])


def _seen_as(subject: Subject, x: Any) -> Nest | None:
    """The inputs of the model; doubles, where it tells none and takes no single floats."""
    specs = subject.inputs()
    doubles = None if specs is not None else doubles_in(x)
    if doubles is None:
        return specs
    from pytest_bnconsistency.execution.accepted_sizes import takes

    few = read(x, None, doubles, FEWEST_ROWS, takes_nan=partial(_takes_nan, subject))
    first = take_rows(few.x, slice(2))
    narrow = map_nest(lambda leaf: leaf.astype(np.float32) if is_float(leaf) else leaf, first)
    return None if takes(subject, narrow) or not takes(subject, first) else doubles


def _takes_nan(subject: Subject, x: Nest) -> bool:
    from pytest_bnconsistency.execution.accepted_sizes import takes_nan

    return takes_nan(subject, x)


def _may_be_ids(leaf: Array) -> bool:
    """Whether an array holds floats that are whole numbers, for a value or a sequence a row."""
    if not (is_float(leaf) and leaf.ndim <= 3 and leaf.size):
        return False
    return bool(leaf.min() >= 0 and leaf.max() < 2**31 and (leaf == np.floor(leaf)).all())


def _drawn(given: Data, count: int) -> Data:
    """`count` of the given rows; where there are fewer, the rest are mixtures of them."""
    if given.rows >= count:
        return given.take(some_rows(given.rows, count))
    filled = given.take(np.arange(count) % given.rows)

    def mix(leaf: Array) -> Array:
        other = np.flip(leaf, axis=tuple(range(1, leaf.ndim)))
        for row in range(given.rows, count):
            share = 1 / (1 + row // given.rows)
            if is_float(leaf):
                leaf[row] = share * leaf[row] + (1 - share) * other[(row * 3 + 1) % count]
            else:
                leaf[row] = other[row]
        return leaf

    return Data(map_nest(mix, filled.x), filled.y, filled.sample_weight, filled.notes)
