"""What a check says where it can't answer."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pytest_bnconsistency.results import CheckResult, Verdict


class Unanswered(NamedTuple):
    """Why a check can't answer, and what would let it, "" where nothing would."""

    why: str
    hint: str = ""

    def not_applicable(self, check: str) -> CheckResult:
        """There is nothing to answer."""
        verdict = Verdict.NOT_APPLICABLE
        return CheckResult(check=check, verdict=verdict, summary=self.why, hint=self.hint)

    def inconclusive(self, check: str) -> CheckResult:
        """A violation could not have been seen."""
        return self.left_open(CheckResult(check=check, verdict=Verdict.VACUOUS))

    def left_open(self, result: CheckResult) -> CheckResult:
        """The same, with all that a result holds besides."""
        return replace(result, verdict=Verdict.VACUOUS, summary=self.why, hint=self.hint)
