"""A cause of a disagreement, and what all that are tried have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.rules.catalogue import Rule

HALF, MOST = 0.5, 0.8
RIVALS = 0.05
"""Two explanations whose shares are as near to each other explain as much."""
BY_CHANCE = 0.05
"""Standard deviations: distances below it are told by chance."""
TRIED_ROWS, OF_LARGE = 64, 8
"""Causes that need runs of their own are tried on so many rows, and so many of large models."""


@dataclass(frozen=True)
class Cause:
    """A rule with its explanation; `share` is how much of what is stored it explains. `place` is
    the path of the layer to blame, where it is known, and `sure` says that what was found in the
    model itself leaves no room for another.
    """

    rule: Rule
    explanation: Explanation
    share: float
    place: str = ""
    sure: bool = False

    @classmethod
    def tested(
        cls,
        rule: Rule,
        *,
        cause: str,
        tested: str,
        remedy: str,
        share: float,
        place: str = "",
        sure: bool = False,
    ) -> Cause:
        """A cause that counts only if undoing it explains enough."""
        explanation = Explanation(cause=cause, tested=tested, remedy=remedy, established=True)
        return cls(rule, explanation, share, place, sure)


Try = Callable[[Measured], Iterator[Cause]]
