"""What a record says that belongs on a line of a file: for annotations, SARIF and GitLab."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.reporting.record import checks
from pytest_bnconsistency.words import printable

LONGEST = 1000
"""Characters of a text that a server shows beside a line."""
WITHOUT_A_RULE = {
    "vacuous": ("inconclusive", "A check could not have seen a violation"),
    "not applicable": ("nothing-to-check", "A check found nothing to check"),
    "misuse": ("misuse", "A check could not run"),
    "error": ("model-not-built", "The model or its data could not be had"),
    "collection": ("not-collected", "Tests could not be collected"),
}
"""The names under which what is no finding stands, and what each means."""


@dataclass(frozen=True)
class Problem:
    """A finding or an error, in harmless text. `ignored` says why a finding is accepted.

    `path` is from the top of the repository on; it is empty for a file outside.
    """

    level: str
    rule: str
    title: str
    text: str
    model: str
    test: str
    path: str
    line: int
    layer: str = ""
    ignored: str = ""

    @property
    def fingerprint(self) -> str:
        """The same in each run that meets the same problem."""
        said = "\0".join((self.rule, self.layer, self.model, self.test))
        return hashlib.sha256(said.encode()).hexdigest()[:40]


def problems(record: Mapping[str, Any]) -> Iterator[Problem]:
    """What fails first, then what is unusual or ignored."""
    for model, check in checks(record):
        yield from _of_check(record, model, check)
    for error in record["errors"]:
        yield _of_error(record, error)
    for model, check in checks(record):
        for finding in check["warnings"]:
            yield _of_finding(record, model, check, finding, "warning")
        for one in check["ignored"]:
            yield _of_finding(record, model, check, one["finding"], "note", one["reason"])


def cut(text: str, longest: int = LONGEST) -> str:
    """`text` as a harmless line; the middle of a long one is left out."""
    if len(text) <= longest:
        return printable(text)
    half = longest // 2
    return printable(f"{text[:half]} ... {text[-half:]}")


def _of_check(
    record: Mapping[str, Any], model: Mapping[str, Any], check: Mapping[str, Any]
) -> Iterator[Problem]:
    """What fails in a check, or is said of one that could not decide."""
    if check["findings"] and check["outcome"] == "fail":
        for finding in check["findings"]:
            yield _of_finding(record, model, check, finding, "error")
    elif not check["findings"] and check["outcome"] in ("fail", "warn"):
        yield _of_verdict(record, model, check)


def _of_finding(
    record: Mapping[str, Any],
    model: Mapping[str, Any],
    check: Mapping[str, Any],
    finding: Mapping[str, Any],
    level: str,
    ignored: str = "",
) -> Problem:
    said = {
        "": finding["message"],
        "layer": finding["layer"],
        "cause": finding["cause"],
        "tested" if finding["cause_tested"] else "tried": finding["tested"],
        "remedy": finding["remedy"],
        "reproduce": check["reproduce"],
    }
    return Problem(
        level=level,
        rule=printable(finding["rule"]),
        title=cut(f"{finding['rule']} {finding['slug']}", 200),
        text=_text(said),
        layer=cut(finding["layer"]),
        ignored=cut(ignored),
        **_place(record, model, check),
    )


def _of_verdict(
    record: Mapping[str, Any], model: Mapping[str, Any], check: Mapping[str, Any]
) -> Problem:
    name, _ = WITHOUT_A_RULE[check["verdict"]]
    said = {"": check["headline"], "hint": check["hint"], "reproduce": check["reproduce"]}
    return Problem(
        level="error" if check["outcome"] == "fail" else "warning",
        rule=name,
        title=cut(f"{check['check']} {name}", 200),
        text=_text(said),
        **_place(record, model, check),
    )


def _of_error(record: Mapping[str, Any], error: Mapping[str, Any]) -> Problem:
    name, meaning = WITHOUT_A_RULE[error["kind"]]
    text = _text({"": error["message"]})
    place = _place(record, error, error)
    return Problem(level="error", rule=name, title=meaning, text=text, **place)


def _text(said: Mapping[str, str]) -> str:
    return "\n".join(
        f"{label}: {cut(words)}" if label else cut(words) for label, words in said.items() if words
    )


def _place(
    record: Mapping[str, Any], model: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    """Which model is meant, by which test, and where that is written."""
    path = posixpath.normpath(posixpath.join(record["run"]["folder"], said["path"]))
    is_inside = said["path"] and not path.startswith(("../", "/")) and ":" not in path[:2]
    return {
        "model": cut(model["title"]),
        "test": cut(said["test"]),
        "path": path if is_inside else "",
        "line": said["line"],
    }
