"""A record as GitLab's code quality report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pytest_bnconsistency.reporting.problems import problems

SEVERITY = {"error": "major", "warning": "minor"}


def render(record: Mapping[str, Any]) -> str:
    """GitLab wants each fingerprint once: what one test says of one layer again is left out."""
    issues: dict[str, dict[str, Any]] = {}
    for problem in problems(record):
        if not problem.ignored:
            said = problem.text.replace("\n", "; ")
            issue = {
                "description": f"{problem.title}: {said}",
                "check_name": problem.rule,
                "fingerprint": problem.fingerprint,
                "severity": SEVERITY[problem.level],
                "location": {"path": problem.path or ".", "lines": {"begin": problem.line}},
            }
            issues.setdefault(problem.fingerprint, issue)
    return json.dumps(list(issues.values()), indent=1) + "\n"
