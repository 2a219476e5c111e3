"""What GitHub Actions shows on the lines of a change, by commands in the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_bnconsistency.reporting.problems import Problem, problems

MOST = 10
"""GitHub shows no more of a kind for a step."""


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """A command for each problem, the first of each kind."""
    shown: dict[tuple[str, str, int, str], Problem] = {}
    for problem in problems(record):
        key = (problem.level, problem.path, problem.line, problem.text)
        if not problem.ignored:
            shown.setdefault(key, problem)
    for level in ("error", "warning"):
        for problem in [one for one in shown.values() if one.level == level][:MOST]:
            place = f"file={_value(problem.path)},line={problem.line}," if problem.path else ""
            yield f"::{level} {place}title={_value(problem.title)}::{_data(problem.text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _value(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
