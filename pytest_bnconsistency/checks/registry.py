"""The checks by name, and the case that each of them decides."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array, Data, Nest, generate, map_nest, read
from pytest_bnconsistency.errors import DataError, OptionError
from pytest_bnconsistency.results import CheckResult
from pytest_bnconsistency.settings import Settings, did_you_mean
from pytest_bnconsistency.subjects import Subject, subject_of

SIZES = (32, 96, 224)
"""Sizes tried for axes that may be of any."""


@dataclass
class Case:
    """A subject with its data and settings; traces that checks share are kept on it.

    `data` is None where the user gave none. `asked` says that the check was asked for by name:
    then what it needs must be there, otherwise it is not applicable.
    """

    subject: Subject
    data: Data | None
    settings: Settings
    asked: bool = True
    train_step: Callable[..., Any] | None = None
    shared: dict[Any, Any] = field(default_factory=dict)

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
    ) -> Case:
        subject = subject_of(model)
        given = None if x is None else read(x, y, subject.inputs(), settings.max_rows)
        return cls(subject, given, settings, asked, train_step)

    def rows(self, count: int) -> Nest:
        """`count` rows of the given data, spread over it and made up to that number, or generated.

        Raises:
            DataError: nothing was given, and the model does not tell its inputs or takes none
                of the sizes that were tried.
        """
        if self.data is not None:
            return _spread(self.data, count).x
        specs = self.subject.inputs()
        if specs is None:
            raise DataError(
                f"model {self.subject.name!r} does not tell the shape of its inputs, so no rows "
                "can be generated; give some rows as x"
            )
        reasons = []
        for size in SIZES:
            x = generate(specs, count, self.settings.seed, size)
            try:
                self.subject.forward(map_nest(lambda leaf: leaf[:1], x), False)
            except Exception as error:
                reasons.append(f"{size}: {str(error).strip().splitlines()[0]}")
            else:
                return x
        raise DataError(
            f"generated rows do not run through model {self.subject.name!r} ({reasons[0]}); give "
            "some rows as x"
        )


@dataclass(frozen=True)
class Check:
    """One property: its public name, what it says in a line, and where its code is."""

    name: str
    property: str

    def run(self, case: Case) -> CheckResult:
        module = importlib.import_module(f"pytest_bnconsistency.checks.{self.name}")
        result: CheckResult = module.check(case)
        return result


def _spread(given: Data, count: int) -> Data:
    """`count` of the given rows; where there are fewer, the rest are mixtures of them."""
    if given.rows >= count:
        return given.take(np.linspace(0, given.rows - 1, count).round().astype(int))
    filled = given.take(np.arange(count) % given.rows)

    def mix(leaf: Array) -> Array:
        other = np.flip(leaf, axis=tuple(range(1, leaf.ndim)))
        for row in range(given.rows, count):
            share = 1 / (1 + row // given.rows)
            if np.issubdtype(leaf.dtype, np.floating):
                leaf[row] = share * leaf[row] + (1 - share) * other[(row * 3 + 1) % count]
            else:
                leaf[row] = other[row]
        return leaf

    return Data(map_nest(mix, filled.x), filled.y, filled.sample_weight, filled.notes)


CHECKS = {
    check.name: check
    for check in (
        Check("batch_invariance", "a row's result does not depend on its batch"),
        Check("inference_purity", "inference changes nothing and means one thing"),
        Check("train_eval_agreement", "evaluation says what training said"),
        Check("frozen_stability", "what is declared frozen stays frozen"),
        Check("statistics_health", "the stored statistics are usable"),
    )
}


def named(names: Sequence[str] | None) -> list[Check]:
    """The checks `names`, or all.

    Raises:
        OptionError: a name is unknown.
    """
    if isinstance(names, str):
        names = [names]
    for name in names or ():
        if name not in CHECKS:
            raise OptionError(f"unknown check {name!r}{did_you_mean(name, tuple(CHECKS))}")
    return [CHECKS[name] for name in names] if names is not None else list(CHECKS.values())


def listed(items: Iterable[object]) -> str:
    """Words as in a sentence: `a, b and c`."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
