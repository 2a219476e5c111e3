"""A record as SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pytest_bnconsistency.reporting.problems import WITHOUT_A_RULE, Problem, problems
from pytest_bnconsistency.reporting.summary import missing
from pytest_bnconsistency.rules import pages
from pytest_bnconsistency.rules.catalogue import ALL

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ROOT = "%SRCROOT%"


def render(record: Mapping[str, Any]) -> str:
    found = list(problems(record))
    rules = list(dict.fromkeys(problem.rule for problem in found))
    run = {
        "tool": {
            "driver": {
                "name": "pytest-bnconsistency",
                "version": str(record["versions"]["pytest-bnconsistency"]),
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "invocations": [_invocation(record)],
        "originalUriBaseIds": {
            ROOT: {"description": {"text": "The top of the repository that holds the tests."}}
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, rules) for problem in found],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _rule(name: str) -> dict[str, Any]:
    for rule in ALL:
        if rule.id == name:
            page = pages.markdown(rule)
            return {
                "id": rule.id,
                "name": rule.slug,
                "shortDescription": {"text": rule.summary},
                "fullDescription": {"text": rule.summary},
                "help": {"text": pages.plain(rule), "markdown": page},
                "defaultConfiguration": {"level": "error"},
            }
    meanings = dict(WITHOUT_A_RULE.values())
    text = {"text": meanings.get(name, name)}
    return {"id": name, "shortDescription": text, "defaultConfiguration": {"level": "error"}}


def _result(problem: Problem, rules: list[str]) -> dict[str, Any]:
    logical = [{"fullyQualifiedName": name} for name in (problem.layer, problem.test) if name]
    location: dict[str, Any] = {"logicalLocations": logical}
    if problem.path:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(problem.path), "uriBaseId": ROOT},
            "region": {"startLine": problem.line},
        }
    result = {
        "ruleId": problem.rule,
        "ruleIndex": rules.index(problem.rule),
        "level": problem.level,
        "message": {"text": f"{problem.title}: {problem.text}"},
        "locations": [location],
        "partialFingerprints": {"bnconsistency/v1": problem.fingerprint},
    }
    if problem.ignored:
        result["suppressions"] = [{"kind": "external", "justification": problem.ignored}]
    return result


def _invocation(record: Mapping[str, Any]) -> dict[str, Any]:
    run = record["run"]
    return {
        "executionSuccessful": run["complete"],
        "exitCode": run["exit_status"],
        "startTimeUtc": run["started"].replace("+00:00", "Z"),
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": text}} for text in missing(record)
        ],
    }
