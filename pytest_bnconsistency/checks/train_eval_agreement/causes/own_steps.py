"""What a model's own training steps do to its statistics while the weights stand still.

Towards the statistics of the data: then what is stored was taken under other weights, or of other
data. If steps leave it where it is, the step itself keeps it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.steps_at_fixed_weights import Rested
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import counted, digits, listed

OF_NOTE = 0.25
"""How far steps must carry the statistics from those of the data, in distances as stored."""
UNLIKE = 2
"""Inputs of one step are unlike if they are farther apart than chance takes one, so many times."""
MOST_KEPT = 0.99999
ROUNDING = 2.0**-22
"""Of a stored value, so much may be round-off of the value that a step leaves."""


def reached(m: Measured, steps: Sequence[Rested], *, others: bool = True) -> list[Array]:
    """Where steps like these would carry the stored statistics, weights at rest.

    To those of the data, as far as the round-off of huge values lets steps tell.
    """
    kept = _kept(m, steps) if others else _by_momentum(m, steps)
    values = []
    for i, stored in enumerate(m.moving):
        moved = np.mean([step.after[i] - stored for step in steps], axis=0)
        value = stored + moved / (1 - kept[i])
        round_off = ROUNDING * np.abs(stored) / (1 - kept[i])
        untold = np.abs(value - m.reference[i]) <= round_off
        values.append(np.where(untold, m.reference[i], value))
    return values


def _kept(m: Measured, steps: Sequence[Rested]) -> list[float]:
    """The share of a statistic that a step keeps: as seen in one, else by the layer's momentum."""
    try:
        seen = [update.kept for update in m.observed]
    except Exception:  # whatever the user's step raises
        seen = []
    own = _by_momentum(m, steps)
    return [
        kept if 0 <= kept < MOST_KEPT else other
        for kept, other in zip(seen or own, own, strict=True)
    ]


def _by_momentum(m: Measured, steps: Sequence[Rested]) -> list[float]:
    return [
        t.momentum ** max(calls_in(steps, i), t.calls) if 0 < t.momentum < 1 else 0.0
        for i, t in enumerate(m.tracked)
    ]


def calls_in(steps: Sequence[Rested], index: int) -> int:
    """How often a step has the layer of a tracked variable update it, as far as can be seen."""
    return max((len(step.by_layer(index)) for step in steps), default=0)


def away(m: Measured) -> float | None:
    """How far from this data's statistics steps carry those that are stored, weights at rest.

    In distances of the stored ones from them; None where no step runs, or none moves any.
    """
    moves = any(
        not np.array_equal(after, before)
        for step in m.rested
        for after, before in zip(step.after, m.moving, strict=True)
    )
    whole = m.deviation(m.moving, m.reference)
    if not moves or not whole:
        return None
    return m.deviation(reached(m, m.rested), m.reference) / whole


def own_steps(m: Measured) -> Iterator[Cause]:
    """Run steps from what is stored, the weights put back after each: where do they carry it?"""
    far = away(m)
    if far is None or not far > OF_NOTE:
        return
    overwritten = _overwritten(m, far)
    there = reached(m, m.rested)
    kept = 0.0 if _by_random_layers(m, there) else m.explained(there)
    if overwritten is not None:
        yield overwritten
    elif kept > HALF:
        yield _of_other_inputs(m, kept)


def _by_random_layers(m: Measured, there: Sequence[Array]) -> bool:
    """Whether steps carry the statistics to those with random layers on, as they run these."""
    return m.noisy is not None and m.deviation(there, m.noisy) < HALF * m.deviation(
        there, m.reference
    )


def _overwritten(m: Measured, far: float) -> Cause | None:
    """Leave out what others than the layers write to the statistics."""
    paths, writers = other_writers(m, m.rested)
    if not writers:
        return None
    without = m.steps_at_rest(others=False)
    whole = m.deviation(m.moving, m.reference)
    left = m.deviation(reached(m, without, others=False), m.reference) / whole if without else far
    if not left < HALF * far:
        return None
    who = listed(writers)
    verb = "writes" if len(writers) == 1 else "write"
    return Cause.tested(
        rules.STEP_WRITES,
        cause=f"{who} {verb} to the statistics of {paths[0]}, beside the layer's own update of "
        "them",
        tested=f"with the weights put back after each, {counted(len(m.rested), 'real step')} "
        f"carry the statistics to {digits(far * whole, 2)} standard deviations from those of "
        f"this data; without what {who} {verb}, to {digits(left * whole, 2)}",
        remedy="write to model.trainable_variables only; then train again, or recalibrate(model, "
        "x)",
        share=1.0,
        sure=True,
    )


def other_writers(m: Measured, steps: Sequence[Rested]) -> tuple[list[str], list[str]]:
    """The layers whose statistics others write as well as they themselves, and who writes."""
    paths, writers = [], []
    for i, t in enumerate(m.tracked):
        others = [write.by for step in steps for write in step.writes[i] if write.by]
        if others and calls_in(steps, i):
            paths.append(t.path)
            writers += others
    return list(dict.fromkeys(paths)), list(dict.fromkeys(writers))


def _of_other_inputs(m: Measured, kept: float) -> Cause:
    steps = m.rested
    said = (
        f"{counted(len(steps), 'real step')}, the weights put back after each, keep what is "
        f"stored ({kept:.0%} of its distance from the statistics of this data)"
    )
    unlike = {i: inputs for i in range(len(m.tracked)) if len(inputs := _inputs(m, steps, i)) > 1}
    deviation = {i: _unlikeness(m, i, inputs) for i, inputs in unlike.items()}
    whole = m.deviation(m.moving, m.reference)
    if deviation and max(deviation.values()) > HALF * whole:
        first = max(deviation, key=deviation.__getitem__)
        t, inputs = m.tracked[first], unlike[first]
        channel = int(np.ptp([value.ravel() for value in inputs], axis=0).argmax())
        levels = [float(value.ravel()[channel]) for value in inputs]
        return replace(
            unlike_inputs(t.path, t.role, levels, said), share=kept, place=t.path, sure=True
        )
    path = m.tracked[0].path
    return Cause.tested(
        rules.SHIFT,
        cause=f"the training step gives {path} other inputs than the model gives it of the same "
        "rows: they are preprocessed, or augmented, in the step alone",
        tested=said,
        remedy="do the same to the rows before evaluation (best inside the model), or leave it "
        "out for the last epochs; or recalibrate(model, x)",
        share=kept,
        sure=True,
    )


def unlike_inputs(path: str, role: str, levels: Sequence[float], tested: str) -> Cause:
    """That a layer normalises several inputs, each at a level of its own, by one statistic."""
    shown = " and ".join(digits(level, 2) for level in levels[:3])
    return Cause.tested(
        rules.DOMAINS,
        cause=f"{path} normalises {len(levels)} inputs of unlike distribution in one step "
        f"({role}s {shown}): training normalises each by itself, evaluation all by one mixture",
        tested=tested,
        remedy="give each input a normalization layer of its own, or join the inputs in one batch",
        share=1.0,
    )


def _inputs(m: Measured, steps: Sequence[Rested], index: int) -> list[Array]:
    """What each call of the layer in a step moved a variable towards, the mean over the steps."""
    momentum = m.tracked[index].momentum
    if not 0 <= momentum < 1:
        return []
    calls = [step.by_layer(index) for step in steps]
    return [
        np.asarray(
            np.mean([(w.after - momentum * w.before) / (1 - momentum) for w in call], axis=0)
        )
        for call in zip(*calls, strict=False)
    ]


def _unlikeness(m: Measured, index: int, inputs: Sequence[Array]) -> float:
    """How far the most unlike of them is from the first, as `Measured.distance` counts; 0 where
    chance alone takes the first as far from one half of the steps to the other.
    """
    far = max(m.distance(index, inputs[0], other) for other in inputs[1:])
    halves = [_inputs(m, m.rested[start::2], index) for start in (0, 1)]
    if not all(halves):
        return far
    by_chance = m.distance(index, halves[0][0], halves[1][0])
    return far if far > UNLIKE * by_chance else 0.0
