"""A cause of what frozen layers do, and the words that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import brief_line

MIND_TRAINABLE = (
    "in the layer: if training and self.trainable: update; or call it with training=False"
)

FLAGS, WRITERS = "freezing by flag", "what writes to the state"


@dataclass(frozen=True)
class Cause:
    """A rule with the layers that are explained by it."""

    rule: Rule
    layers: Sequence[Frozen]
    explanation: Explanation


def explanation_of(cause: str, remedy: str, proof: str) -> Explanation:
    """`proof` is empty where undoing the cause didn't help."""
    tried = "freezing by flag, compiling again, inference mode forced"
    return Explanation(cause=cause, remedy=remedy, tested=proof or tried, established=bool(proof))


def time_for(what: str) -> bool:
    return Tries().may(what)


def refusal(error: BNConsistencyError) -> str:
    """That the user's step can't run so, with what it raised itself."""
    return f"the step can't run ({brief_line(error.__cause__ or error)})"
