"""The checks by name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.results import CheckResult
from pytest_bnconsistency.settings import did_you_mean


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
        Check("inference_purity", "inference changes nothing and means one thing"),
        Check("train_eval_agreement", "evaluation says what training said"),
        Check("frozen_stability", "what is declared frozen stays frozen"),
        Check("statistics_health", "the stored statistics are usable"),
    )
}


def named(names: Sequence[str] | None) -> list[Check]:
    """The checks `names`, or all.

    Raises:
        OptionError: a name is unknown, or there is none.
    """
    if isinstance(names, str):
        names = [names]
    if names is not None and not names:
        raise OptionError(
            f"checks is empty; expected some of {', '.join(CHECKS)}, or None for all"
        )
    for name in names or ():
        if name not in CHECKS:
            near = did_you_mean(str(name), tuple(CHECKS))
            raise OptionError(f"unknown check {name!r}{near}")
    return [CHECKS[name] for name in names] if names is not None else list(CHECKS.values())
