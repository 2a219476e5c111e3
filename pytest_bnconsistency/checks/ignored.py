"""Findings that the user accepts on purpose, taken out of a result once it is decided."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_bnconsistency.results import CheckResult, Finding, Ignored, Verdict
from pytest_bnconsistency.rules.catalogue import check_of
from pytest_bnconsistency.words import counted

DECIDED = (Verdict.PASSED, Verdict.FAILED)


@dataclass(frozen=True)
class Entry:
    """One entry of the option `ignore`: `BN303 backbone/*` and why."""

    text: str
    reason: str

    def takes(self, finding: Finding, layer: str) -> bool:
        rule, _, pattern = self.text.partition(" ")
        return finding.rule == rule and fnmatch.fnmatchcase(layer, pattern or "*")

    def is_for(self, check: str) -> bool:
        return check_of(self.text.partition(" ")[0]) == check


def without_ignored(result: CheckResult, ignore: Mapping[str, str] | None) -> CheckResult:
    """`result` without the findings and warnings that `ignore` accepts: it passes if none is left.

    A finding about several layers is accepted only if all of them are. Entries that no finding
    of their own check matches are `unmatched`: what they accepted is gone.
    """
    if not ignore or result.verdict not in DECIDED:
        return result
    left = _left(result, [Entry(text, reason) for text, reason in ignore.items()])
    if result.verdict is not Verdict.FAILED or left.findings:
        return left
    said = "nothing was found but what is accepted"
    return dataclasses.replace(left, verdict=Verdict.PASSED, summary=said, hint="")


def _left(result: CheckResult, entries: Sequence[Entry]) -> CheckResult:
    found = (*result.findings, *result.warnings)
    ignored = tuple(one for finding in found if (one := _ignored(finding, entries)))
    taken = [one.finding for one in ignored]
    used = {entry for finding in found for entry in _taking(finding, entries)}
    return dataclasses.replace(
        result,
        findings=_without(result.findings, taken),
        warnings=_without(result.warnings, taken),
        ignored=ignored,
        unmatched=tuple(e.text for e in entries if e.is_for(result.check) and e not in used),
        notes=(*result.notes, *_partly(found, entries)),
    )


def _ignored(finding: Finding, entries: Sequence[Entry]) -> Ignored | None:
    by_layer = [
        next((entry for entry in entries if entry.takes(finding, layer)), None)
        for layer in finding.places
    ]
    taking = [entry for entry in dict.fromkeys(by_layer) if entry]
    if None in by_layer:
        return None
    reasons = "; ".join(dict.fromkeys(entry.reason for entry in taking))
    return Ignored(finding, reasons, tuple(entry.text for entry in taking))


def _partly(found: Iterable[Finding], entries: Sequence[Entry]) -> Iterable[str]:
    """Why a finding still counts, of which an entry accepts some layers."""
    for finding in found:
        if _ignored(finding, entries):
            continue
        for entry in _taking(finding, entries):
            taken = sum(entry.takes(finding, layer) for layer in finding.places)
            yield (
                f"{finding.rule} is about {counted(len(finding.places), 'layer')}, and ignore "
                f"{entry.text!r} matches {taken} of them: it still counts"
            )


def _taking(finding: Finding, entries: Sequence[Entry]) -> list[Entry]:
    return [e for e in entries if any(e.takes(finding, layer) for layer in finding.places)]


def _without(findings: Sequence[Finding], taken: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(f for f in findings if not any(f is one for one in taken))
