"""What a real training step does to the statistics: once, towards its batch, and no more."""

from __future__ import annotations

from typing import Any

from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.measured import Measured
from pytest_bnconsistency.results import Finding

REAL_STEPS = "one real step from statistics at 0, and one from statistics at 1, both undone"
NEVER, SEVERAL = 0.5, 1.5
"""Fewer updates a step than the first are none, more than the second are several."""


def warnings(m: Measured, evidence: dict[str, Any]) -> list[Finding]:
    """Normalisers that a step does not update exactly once; what was seen goes to `evidence`."""
    try:
        seen = m.observe()
    except Exception as error:  # the user's step: its fault is not what was asked
        evidence["updates_per_step"] = f"the step raised {type(error).__name__}"
        return []
    counted = {u.tracked.path: u.times for u in seen if u.times is not None}
    if not counted and all(t.calls == 1 for t in m.tracked):
        return []
    if not counted:  # no step can run: what one pass does
        counted = {t.path: float(t.calls) for t in m.tracked}
    evidence["updates_per_step"] = {path: round(times, 2) for path, times in counted.items()}
    found = []
    never = [path for path, times in counted.items() if times < NEVER]
    if never:
        found.append(
            _warning(
                never,
                rules.NEVER_UPDATED.id,
                rules.NEVER_UPDATED.slug,
                f"a training step does not update the statistics of {never[0]}",
                "the step runs the layer in inference mode, or holds it still",
                "call model(x, training=True) in the step; or freeze the layer, to say so",
                f"{REAL_STEPS}: it leaves them there, and a pass in training mode moves them",
            )
        )
    several = [path for path, times in counted.items() if times > SEVERAL]
    if several:
        path, times = several[0], counted[several[0]]
        found.append(
            _warning(
                several,
                rules.SEVERAL_UPDATES.id,
                rules.SEVERAL_UPDATES.slug,
                f"a training step updates the statistics of {path} {times:.3g} times",
                several_by(m, path),
                "normalise outside of the loop over timesteps or micro-batches; or a momentum of "
                f"{_rooted(m, path, times):.4g}, whose {times:.3g} updates keep as much as one",
                REAL_STEPS,
            )
        )
    return found


def several_by(m: Measured, path: str) -> str:
    """Why a step updates more than once: the layer's calls in a pass, or passes in a step."""
    calls = next(t.calls for t in m.tracked if t.path == path)
    if calls > 1:
        return f"one pass runs the layer {calls} times, as for each timestep or each input"
    return "the step makes several passes in training mode, as for micro-batches"


def _rooted(m: Measured, path: str, times: float) -> float:
    momentum = next(t.momentum for t in m.tracked if t.path == path)
    return float(momentum ** (1 / times))


def _warning(
    paths: list[str], rule: str, slug: str, message: str, cause: str, remedy: str, tested: str
) -> Finding:
    more = f"; so in {len(paths) - 1} more" if len(paths) > 1 else ""
    return Finding(
        rule,
        slug,
        paths[0],
        message + more,
        cause,
        True,
        remedy,
        tested,
        "exactly once a step",
        evidence={"layers": paths},
    )
