"""Before training: whether a schedule of so many updates warms up the statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_bnconsistency.checks.train_eval_agreement.causes.initial_values import SETTLED_SHARE
from pytest_bnconsistency.checks.train_eval_agreement.measured import CERTAIN_SHARE
from pytest_bnconsistency.checks.train_eval_agreement.summary import layers_of
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.results import CheckResult, Explanation, Finding, Verdict
from pytest_bnconsistency.rules import catalogue as rules


def judged(name: str, tracked: Sequence[Tracked], planned: int) -> CheckResult:
    """The answer for a model that is not trained yet: nothing has failed, all can be warned of."""
    warned = warnings(tracked, planned)
    share = max((_left(t, planned) for t in tracked), default=0.0)
    return CheckResult(
        check=name,
        verdict=Verdict.PASSED,
        summary=f"not trained yet; {planned} planned updates leave {share:.2%} of the initial "
        f"values in the slowest of {layers_of(tracked)}; {CERTAIN_SHARE:.0%} would have been "
        "warned of",
        evidence={"planned_updates": planned, "initial_share": share},
        warnings=tuple(warned),
    )


def warnings(tracked: Sequence[Tracked], planned: int) -> list[Finding]:
    """What `planned` updates cannot warm up, the slowest layer's arithmetic in one finding."""
    slow = [t for t in tracked if _left(t, planned) >= CERTAIN_SHARE]
    if not slow:
        return []
    worst = max(slow, key=lambda t: _left(t, planned))
    momentum = _momentum(worst)
    largest = math.floor(100 * SETTLED_SHARE ** (1 / (planned * worst.calls))) / 100
    enough = ""
    if momentum < 1:
        needed = math.ceil(math.log(SETTLED_SHARE) / math.log(momentum) / worst.calls)
        enough = f"plan {needed} updates or more; or "
    return [
        rules.STALE.finding(
            layer=worst.path,
            layers=dict.fromkeys(t.path for t in slow),
            message=f"{planned} planned updates leave {_left(worst, planned):.1%} of the initial "
            f"values in the statistics of {worst.path} (momentum {momentum:.5g}; so in "
            f"{layers_of(slow)})",
            explanation=Explanation(
                cause="the schedule is too short for the momentum",
                tested="measured: the share of the old value that one update keeps",
                remedy=f"{enough}momentum <= {largest:.2f} for {planned} updates; or "
                "recalibrate(model, x) after training",
                established=True,
            ),
            bound=f"{CERTAIN_SHARE:.0%} of the initial values",
            evidence={"planned_updates": planned, "initial_share": _left(worst, planned)},
        )
    ]


def _momentum(t: Tracked) -> float:
    """The layer's own momentum where it holds the statistics still, else as measured."""
    own = getattr(t.layer, "momentum", None)
    return float(own) if isinstance(own, (int, float)) and own >= 1 else t.momentum


def _left(t: Tracked, updates: int) -> float:
    return float(min(max(_momentum(t), 0.0), 1.0) ** (updates * t.calls))
