"""The checks by name."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.checks.budget import diagnosing
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.ignored import without_ignored
from pytest_bnconsistency.checks.undisturbed import undisturbed
from pytest_bnconsistency.context import door
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.execution.traces import counted
from pytest_bnconsistency.results import CheckResult, Run
from pytest_bnconsistency.settings import FIELDS, Settings, did_you_mean


@dataclass(frozen=True)
class Check:
    """One property: its public name, which its folder has too, and what it says in a line.

    `needs` says what must be given, and `helps` what it makes use of besides. One that is about
    what the others said is `about_results`; it runs on request, after them.
    """

    name: str
    property: str
    needs: str
    helps: str
    about_results: bool = False

    def run(self, context: CheckContext) -> CheckResult:
        """The result, with what the check ran on and what it took."""
        if self.about_results:
            _run_others(context)
        begun = time.perf_counter()
        with counted() as traces:
            result = without_ignored(self.decide(context), context.settings.ignore)
        run = Run(
            model=context.subject.name,
            settings=_sourced(context.settings),
            seconds=time.perf_counter() - begun,
            traces=traces(),
            layers=_new_facts(context) if door.get().reports else (),
        )
        result = dataclasses.replace(result, run=run)
        context.results[self.name] = result
        return result

    def decide(self, context: CheckContext) -> CheckResult:
        module = importlib.import_module(f"pytest_bnconsistency.checks.{self.name}.check")
        seconds = context.settings.diagnosis_seconds
        with door.get().progress.of(self.name), diagnosing(seconds):
            result: CheckResult = undisturbed(lambda: module.check(context))
        return result


def _run_others(context: CheckContext) -> None:
    """Run what did not run yet on this model, of those that a baseline is to hold."""
    names = context.settings.baselined
    asked, context.asked = context.asked, False
    try:
        for check in named(names) if names != () else ():
            if check.name not in context.results and not check.about_results:
                check.run(context)
    finally:
        context.asked = asked


def _sourced(chosen: Settings) -> dict[str, tuple[Any, str]]:
    return {name: (getattr(chosen, name), chosen.sources.get(name, "default")) for name in FIELDS}


def _new_facts(context: CheckContext) -> tuple[dict[str, Any], ...]:
    """The facts of the normalization layers, if the last check of the model left others."""
    if "tensorflow" not in sys.modules:  # nothing ran
        return ()
    from pytest_bnconsistency.checks.layer_facts import for_the_record

    facts: tuple[dict[str, Any], ...] = ()
    with contextlib.suppress(Exception):  # a report lacks a table sooner than a verdict
        facts = for_the_record(context)
    is_new, context.layer_facts = facts != context.layer_facts, facts
    return facts if is_new else ()


CHECKS = {
    check.name: check
    for check in (
        Check(
            "batch_invariance",
            "a row's result does not depend on its batch",
            needs="model",
            helps="x: rows of yours instead of generated ones",
        ),
        Check(
            "inference_purity",
            "inference changes nothing and means one thing",
            needs="model",
            helps="x: rows of yours instead of generated ones",
        ),
        Check(
            "train_eval_agreement",
            "evaluation says what training said",
            needs="trained model, x (training data)",
            helps="y and a compiled model: loss and metrics; optimizer: the number of updates "
            "(or updates=...); train_step: a loop of your own",
        ),
        Check(
            "frozen_stability",
            "what is declared frozen stays frozen",
            needs="model with frozen layers (or frozen=...), x; y if it is compiled with a loss",
            helps="a compiled model or train_step: real training steps",
        ),
        Check(
            "statistics_health",
            "the stored statistics are usable",
            needs="model",
            helps="x (training data): distances to the statistics of the data; optimizer: whether "
            "it was trained",
        ),
        Check(
            "baseline",
            "the model behaves as its baseline in the repository says",
            needs="a baseline: pytest --bn-update-baseline=new records it",
            helps="x (training data): what the checks say of it is part of the baseline",
            about_results=True,
        ),
    )
}


ALIASES = {"healthy_statistics": "statistics_health"}


def named(names: Sequence[str] | None, *, baseline: bool = False) -> list[Check]:
    """The checks `names`, or all, that of the baseline on request; it stands last.

    Raises:
        OptionError: a name is unknown, or there is none.
    """
    if names is None:
        return [check for check in CHECKS.values() if baseline or not check.about_results]
    if not names:
        raise OptionError(
            f"checks is empty; expected some of {', '.join(CHECKS)}, or None for all"
        )
    names = [names] if isinstance(names, str) else names
    found = dict.fromkeys(_known(ALIASES.get(name, name)) for name in names)
    return sorted(found, key=lambda check: check.about_results)


def _known(name: str) -> Check:
    if name not in CHECKS:
        raise OptionError(f"unknown check {name!r}{did_you_mean(str(name), tuple(CHECKS))}")
    return CHECKS[name]
