"""What the checks said, as facts: verdicts, what they found and warned of, how much they see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_bnconsistency.checks.baseline.facts import Block, Blocks, Value
from pytest_bnconsistency.results import CheckResult, Finding, Verdict, plain

FELL = 10.0
"""So many times larger a limit must be to be told: those of detection are powers of ten."""
VERDICT = "verdict"
FINDING, WARNING = "finding", "warning"
DETECTION, SAMPLING = "detection limit", "sampling error"
"""The smallest violation that shows, and what chance explains: the smaller, the more is seen."""
COUNTED = {
    "entry_points": "entry points",
    "frozen": "frozen layers",
    "normalization_layers": "normalization layers",
}
"""What checks tell the number of, by the key in their evidence."""


def verdict_facts(results: Mapping[str, CheckResult]) -> Blocks:
    """A block for each check that ran."""
    return {name: _block(result) for name, result in results.items()}


def saw(verdict: Value) -> int:
    """How much a verdict says the check saw: all, too little, or nothing."""
    return {"passed": 2, "failed": 2, "vacuous": 1}.get(str(verdict), 0)


def word_of(verdict: Value) -> str:
    """What people read of a verdict."""
    words = {one.value: one.word for one in Verdict}
    return words.get(str(verdict), str(verdict))


def complaints(block: Block) -> dict[str, str]:
    """What a check found or warned of, by rule and place, and which of the two that is."""
    return {key: str(value) for key, value in block.items() if value in (FINDING, WARNING)}


def sees_less(was: Block, now: Block) -> Iterator[str]:
    """The facts by which a check sees less than it did."""
    for fact in was:
        before, after = _number(was[fact]), _number(now.get(fact))
        if before is None:
            continue
        if fact in COUNTED.values():
            if after is None or after < before:
                yield fact
        elif fact.endswith((DETECTION, SAMPLING)):
            gone = after is None and fact == DETECTION
            if gone or (after is not None and after > FELL * (1 + 1e-6) * before > 0):
                yield fact


def _number(value: Value) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(str(value)) if is_number else None


def _block(result: CheckResult) -> Block:
    block: dict[str, Value] = {VERDICT: result.verdict.value}
    block |= _numbers(result.evidence)
    block |= dict(_said(result.warnings, WARNING))
    block |= dict(_said(result.findings, FINDING))
    block |= {f"{one.finding.rule} ignored": one.reason for one in result.ignored}
    return block


def _said(findings: tuple[Finding, ...], kind: str) -> Iterator[tuple[str, str]]:
    for finding in findings:
        for place in finding.places:
            yield f"{finding.rule} {place}", kind


def _numbers(evidence: Mapping[str, Any]) -> dict[str, Value]:
    """How much the check saw, as far as its evidence tells."""
    found: dict[str, Value] = {}
    if limits := plain(evidence.get("resolution") or {}):
        found[DETECTION] = min(limits.values())
    for key, fact in COUNTED.items():
        value = evidence.get(key)
        if value is not None:
            found[fact] = value if isinstance(value, int) else len(value)
    for excess in plain(evidence.get("excess") or []):
        found[f"{excess['of']}: excess"] = excess["excess"]
        found[f"{excess['of']}: tolerance"] = excess["tolerance"]
        found[f"{excess['of']}: {SAMPLING}"] = excess["sampling"]
    return found
