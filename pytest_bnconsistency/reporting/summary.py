"""The last lines of a run on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_bnconsistency.reporting.record import checks
from pytest_bnconsistency.results import Verdict
from pytest_bnconsistency.words import counted, listed

SLOW = 1.0
"""Seconds from which on it is worth to say what took longest."""
NAMES = {**{verdict.value: verdict.word for verdict in Verdict}, "expected": "failed as expected"}


def lines(record: Mapping[str, Any], reports: Sequence[str]) -> Iterator[str]:
    """How much was checked, what came of it, what is missing, and where the reports are."""
    counts = record["counts"]
    if not (counts["models"] or counts["errors"]):
        return
    yield headline(record)
    by_time = sorted(checks(record), key=lambda one: -float(one[1]["seconds"]))
    for model, check in by_time[:1]:
        if check["seconds"] >= SLOW:
            yield f"slowest    {check['check']} of {model['title']}: {check['seconds']:.1f} s"
    for line in missing(record):
        yield f"missing    {line}"
    if reports:
        yield f"reports    {', '.join(reports)}"


def headline(record: Mapping[str, Any]) -> str:
    """`2 models, 8 checks: 7 passed, 1 failed; 1 error`: an error is not among the checks."""
    counts = record["counts"]
    verdicts = [f"{counts[key]} {name}" for key, name in NAMES.items() if counts[key]]
    beside = [", ".join(verdicts)] if verdicts else []
    if counts["ignored"]:
        beside.append(f"{counted(counts['ignored'], 'finding')} ignored")
    if counts["errors"]:
        beside.append(counted(counts["errors"], "error"))
    checked = f"{counted(counts['models'], 'model')}, {counted(counts['checks'], 'check')}"
    return f"{checked if counts['checks'] else 'nothing was checked'}: {'; '.join(beside)}"


def state(record: Mapping[str, Any]) -> str:
    """`failed`, `passed`, or what a run that did not end came to so far."""
    counts = record["counts"]
    known = "failed" if counts["failing"] or counts["errors"] else "passed"
    return known if record["run"]["complete"] else f"{known}, and incomplete"


def missing(record: Mapping[str, Any]) -> Iterator[str]:
    """What the record does not hold, and why."""
    run = record["run"]
    for crash in run["crashed"]:
        yield crash["message"]
    if run["not_run"]:
        tests = f"{counted(len(run['not_run']), 'test')} did not run to the end"
        yield f"{tests}: {listed(run['not_run'], most=3)}"
    if run["stopped"]:
        yield f"the run was stopped: {run['stopped']}"
