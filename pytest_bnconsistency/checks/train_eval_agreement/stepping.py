"""What a real training step does to the statistics: once, towards its batch, and no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import (
    calls_in,
    other_writers,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import counted, listed

REAL_STEPS = "one real step from statistics at 0, and one from statistics at 1, both undone"
NEVER, SEVERAL = 0.5, 1.5
"""Fewer updates a step than the first are none, more than the second are several."""


@dataclass(frozen=True)
class Stepped:
    """Layers that a step does not update exactly once, and what was seen of all of them."""

    warnings: tuple[Finding, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


def stepped(m: Measured) -> Stepped:
    if not Tries().may("real steps from other statistics"):
        return Stepped(evidence={"updates_per_step": "no time was left for real steps"})
    try:
        times_of = _updates_per_step(m)
    except Exception as error:  # the user's step: its fault is not what was asked
        return Stepped(evidence={"updates_per_step": f"the step raised {type(error).__name__}"})
    if not times_of:
        return Stepped()
    rounded = {path: round(times, 2) for path, times in times_of.items()}
    return Stepped(tuple(_warned(m, times_of)), {"updates_per_step": rounded})


def _warned(m: Measured, times_of: Mapping[str, float]) -> Iterator[Finding]:
    if never := [path for path, times in times_of.items() if times < NEVER]:
        yield _never(never)
    if several := [path for path, times in times_of.items() if times > SEVERAL]:
        yield _several(m, several, times_of[several[0]])


def _updates_per_step(m: Measured) -> dict[str, float]:
    """By the path of the layer; empty where no step tells, and one pass makes one update."""
    times_of = {u.tracked.path: u.times for u in m.observed if u.times is not None}
    if not times_of and any(t.calls != 1 for t in m.tracked):
        return {t.path: float(t.calls) for t in m.tracked}
    return times_of


def _never(paths: list[str]) -> Finding:
    return _warning(
        rules.NEVER_UPDATED,
        paths,
        f"a training step does not update the statistics of {paths[0]}",
        Explanation(
            cause="the step runs the layer in inference mode, or holds it still",
            tested=f"{REAL_STEPS}: it leaves them there, and a pass in training mode moves them",
            remedy="call model(x, training=True) in the step; or freeze the layer, to say so",
            established=True,
        ),
    )


def _several(m: Measured, paths: list[str], times: float) -> Finding:
    """What forgets as after several updates: they are counted, or others write as well."""
    path, tries = paths[0], Tries()
    steps = m.rested if tries.may("what writes to the statistics in real steps") else []
    index = next(i for i, t in enumerate(m.tracked) if t.path == path)
    written, writers = other_writers(m, steps)
    if path in written:
        who = listed(writers)
        return _warning(
            rules.STEP_WRITES,
            [path for path in paths if path in written],
            f"a training step writes to the statistics of {path} beside the layer's own update",
            Explanation(
                cause=f"{who} {'writes' if len(writers) == 1 else 'write'} to them",
                tested=f"{counted(len(steps), 'real step')}, with every write to the statistics "
                "noted down",
                remedy="write to model.trainable_variables only",
                established=True,
            ),
        )
    calls = calls_in(steps, index)
    return _warning(
        rules.SEVERAL_UPDATES,
        paths,
        f"a training step updates the statistics of {path} {times:.3g} times",
        Explanation(
            cause=tries.without_cause(several_by(m.tracked[index].calls, calls)),
            tested=REAL_STEPS,
            remedy="normalise outside of the loop over timesteps or micro-batches; or a momentum "
            f"of {_rooted(m, path, times):.4g}, whose {times:.3g} updates keep as much as one",
            established=not tries.cut and (calls > 1 or m.tracked[index].calls > 1),
        ),
    )


def several_by(in_pass: int, in_step: int) -> str:
    """Why a step updates more than once: the layer's calls in a pass, or passes in a step."""
    if in_pass > 1:
        return f"one pass runs the layer {in_pass} times, as for each timestep or each input"
    if in_step > 1:
        return (
            f"the step calls the layer {in_step} times: it makes several passes in training "
            "mode, as for micro-batches"
        )
    return "not established; no second update by the layer was seen in a step"


def _rooted(m: Measured, path: str, times: float) -> float:
    momentum = next(t.momentum for t in m.tracked if t.path == path)
    return float(momentum ** (1 / times))


def _warning(rule: Rule, paths: list[str], message: str, explanation: Explanation) -> Finding:
    more = f"; so in {len(paths) - 1} more" if len(paths) > 1 else ""
    return rule.finding(
        layer=paths[0],
        layers=paths,
        message=message + more,
        explanation=explanation,
        bound="exactly once a step",
        evidence={"layers": paths},
    )
