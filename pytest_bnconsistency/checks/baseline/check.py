"""The model behaves as its baseline in the repository says.

A baseline is recorded on purpose and reviewed like code. What moves beyond rounding fails, and so
does a model without one: nothing passes that nobody has looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_bnconsistency.checks.baseline import explain, file, update
from pytest_bnconsistency.checks.baseline.aligned import aligned
from pytest_bnconsistency.checks.baseline.compare import Compared, compared
from pytest_bnconsistency.checks.baseline.facts import Facts
from pytest_bnconsistency.checks.baseline.names import Place, place_of
from pytest_bnconsistency.checks.baseline.noise import OutputNoise
from pytest_bnconsistency.checks.baseline.observe import NAME, facts_of
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.context import door
from pytest_bnconsistency.errors import BaselineError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.results import CheckResult, Verdict
from pytest_bnconsistency.words import counted


def check(context: CheckContext) -> CheckResult:
    place, mode = place_of(context.settings), door.get().baselines.update
    was = _recorded(place, mode)
    with preserve_state(context.subject):
        now, noise = facts_of(context, place.model), OutputNoise(context)
        if was is None:
            return _written(place, noise.put_down(now), "recorded")
        now, names = aligned(was, now)
        here = update.here(was, now)
        found = compared(here, now, noise, context.settings.weights)
        if mode == "changed":
            if found.moved or found.weights or found.better:
                return _written(place, update.merged(was, noise.put_down(now), found), "updated")
            # Another model that would change the same file must not pass unseen.
            door.get().baselines.write(place.path, place.path.read_text(encoding="utf-8"))
        if mode == "version" and found.moved:
            entries = update.with_version(was, noise.put_down(now), found)
            return _written(place, entries, f"completed for {update.version_of(now)}")
        if mode == "new" and (missing := update.with_missing(was, noise.put_down(now))):
            return _written(place, missing, "completed")
    return _judged(place, here, now, found, names)


def _recorded(place: Place, mode: str) -> Facts | None:
    """The facts in the baseline; None if there is none, and it is to be recorded."""
    if not place.path.exists():
        if mode:
            return None
        raise BaselineError(
            f"{place.model} has no baseline: there is no file {place.shown}; record it with "
            "pytest --bn-update-baseline=new, or record_baseline in a script; look at it and "
            "commit it"
        )
    was = file.read(place.path)
    if was.model != place.model:
        raise BaselineError(
            f"baseline {place.shown} is that of {was.model}, and {place.model} has the same "
            "name; expected one of its own: baseline_name='...'"
        )
    return was


def _written(place: Place, facts: Facts, how: str) -> CheckResult:
    door.get().baselines.write(place.path, file.written(facts))
    return CheckResult(
        check=NAME,
        verdict=Verdict.PASSED,
        summary=f"the baseline {place.shown} is {how}: look at it and commit it",
        evidence={"file": str(place.path)},
    )


def _judged(
    place: Place, was: Facts, now: Facts, found: Compared, names: Mapping[str, str]
) -> CheckResult:
    result = CheckResult(
        check=NAME,
        verdict=Verdict.FAILED,
        findings=explain.findings(was, now, found),
        notes=tuple(explain.notes(was, now, found, names)),
        evidence={
            "file": str(place.path),
            "facts": found.facts,
            "rounding": found.rounding,
            "partial": not (found.values or found.on_request),
        },
    )
    if result.findings:
        return result
    weights = "" if found.values else ", of which the weights are others"
    return replace(
        result,
        verdict=Verdict.PASSED,
        summary=f"{counted(found.facts, 'fact')} are as {place.shown} says{weights}",
    )
