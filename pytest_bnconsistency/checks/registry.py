"""The checks by name, and the case that each of them decides."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_bnconsistency import data
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.results import CheckResult
from pytest_bnconsistency.settings import Settings, did_you_mean
from pytest_bnconsistency.subjects import Subject, subject_of


@dataclass
class Case:
    """A subject with its data and settings; traces that checks share are kept on it.

    `data` is None where the user gave none. `asked` says that the check was asked for by name:
    then what it needs must be there, otherwise it is not applicable.
    """

    subject: Subject
    data: data.Data | None
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
        given = None if x is None else data.read(x, y, subject.inputs(), settings.max_rows)
        return cls(subject, given, settings, asked, train_step)


@dataclass(frozen=True)
class Check:
    """One property: its public name, what it says in a line, and where its code is."""

    name: str
    property: str

    def run(self, case: Case) -> CheckResult:
        module = importlib.import_module(f"pytest_bnconsistency.checks.{self.name}")
        result: CheckResult = module.check(case)
        return result


CHECKS = {
    check.name: check
    for check in (
        Check("batch_invariance", "a row's result does not depend on its batch"),
        Check("train_eval_agreement", "evaluation says what training said"),
        Check("frozen_stability", "what is declared frozen stays frozen"),
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
