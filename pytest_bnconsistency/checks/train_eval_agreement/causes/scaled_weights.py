"""Weights that were scaled after the last step, by a number or by the normalization behind them.

Both are undone: with the weights divided again, what is stored are the statistics of the data.
Statistics that the scale of the data reaches prove nothing: other data gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, MOST, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.changed_weights import REMEDY
from pytest_bnconsistency.checks.train_eval_agreement.causes.factors import one_factor
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import (
    MOVED,
    InputTrial,
    float_inputs,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.batches import in_batches
from pytest_bnconsistency.execution.state import restored
from pytest_bnconsistency.measurement.affine_layers import Affine, scaled_and_shifted
from pytest_bnconsistency.measurement.compared_outputs import gap
from pytest_bnconsistency.measurement.tracked_variables import write_statistics
from pytest_bnconsistency.measurement.trained_weights import weights_of
from pytest_bnconsistency.models import Call
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits, listed

LEAST_FACTOR = 1.5
"""Training itself may scale weights by less while the statistics follow."""
FEWEST, SHOWN = 3, 3
READ = 256
"""Rows that tell what a layer does in inference, and what the scale of the data reaches."""
UNFOLD = (
    "leave the normalization layer out where its numbers are in the weights before it; or put "
    "the weights of training back"
)


@dataclass(frozen=True)
class Fed:
    """A normalization layer with wrong statistics, and the weights behind which it stands.

    `mean` and `variance` are the indices of these among what is tracked.
    """

    path: str
    label: str
    mean: int
    variance: int
    weights_path: str
    kernel: Any
    bias: Any


def scaled(m: Measured) -> Cause | None:
    """Weights that were multiplied by one number for all channels, or hold a normalization."""
    fed = list(_fed(m))
    reached = _reached_by_data(m) if fed else frozenset()
    inside = [each for each in fed if each.mean not in reached]
    if not inside:
        return None
    return _multiplied(m, fed, inside) or _folded(m, fed)


def _reached_by_data(m: Measured) -> frozenset[int]:
    """The statistics that move if the data is doubled; all, where that can't be tried."""
    inputs = float_inputs(m)
    if not inputs:
        return frozenset()
    moved = InputTrial(m, inputs).moved_by_scale(MOVED)
    return frozenset(range(len(m.tracked)) if moved is None else moved)


def _multiplied(m: Measured, fed: Sequence[Fed], inside: Sequence[Fed]) -> Cause | None:
    known = [(each, factor) for each in fed if (factor := _factor(m, each)) is not None]
    blamed = [each for each, _ in known if each in inside]
    if not blamed:
        return None
    kernels = [(each.kernel, each.kernel.numpy() * by) for each, by in known]
    biases = [(e.bias, e.bias.numpy() * by) for e, by in known if e.bias is not None]
    for undone in (kernels, [*kernels, *biases])[: 2 if biases else 1]:
        share, tested = _undone(m, undone)
        if share > MOST:
            which = listed(
                [f"those of {each.weights_path} by {1 / by:.3g}" for each, by in known], most=SHOWN
            )
            return Cause.tested(
                rules.OTHER_WEIGHTS,
                cause=f"weights were multiplied after the last step ({which}), or what they are "
                "applied to was",
                tested=f"with the weights divided by that again, {tested}",
                remedy=REMEDY,
                share=share,
                place=blamed[0].path,
            )
    return None


def _factor(m: Measured, fed: Fed) -> float | None:
    """What the weights must be multiplied by for the variances that are stored; None where it is
    not one number.
    """
    if m.moving[fed.variance].size < FEWEST:
        return None
    squared = one_factor(m.moving[fed.variance], m.reference[fed.variance])
    if squared is None or abs(math.log(squared)) <= 2 * math.log(LEAST_FACTOR):
        return None
    return math.sqrt(squared)


def _folded(m: Measured, fed: Sequence[Fed]) -> Cause | None:
    """Weights that do already what the normalization layer after them does once more.

    One layer alone proves nothing: what it gets may be standardised for another reason.
    """
    places = {each.label: each for each in fed if each.bias is not None}
    if len(places) < 2:
        return None
    write_statistics(m.tracked, m.moving)
    some = in_batches(m.data, np.arange(min(READ, m.data.rows)), m.size, ragged=True)
    calls = scaled_and_shifted(m.inference, list(places), some)
    known = [(places[affine.call.label], affine) for affine in calls]
    twice = [(each, affine) for each, affine in known if _is_done_before(m, each, affine)]
    if len(twice) < 2:
        return None
    share, tested = _undone(m, [pair for each in twice for pair in _unfolded(*each)])
    if not share > MOST:
        return None
    into = [f"{each.path} into those of {each.weights_path}" for each, _ in twice]
    return Cause.tested(
        rules.OTHER_WEIGHTS,
        cause="normalization is folded into the weights before it, and runs once more after them "
        f"({listed(into, most=SHOWN)})",
        tested=f"with these weights as they were before, {tested}",
        remedy=UNFOLD,
        share=share,
        place=twice[0][0].path,
    )


def _unfolded(fed: Fed, affine: Affine) -> Iterator[tuple[Any, Array]]:
    """The weights with the values that they had before the layer after them was folded in."""
    scale, offset = affine.scale.ravel(), affine.offset.ravel()
    shape = _of_channels(fed.kernel, scale.size)
    if shape is not None and fed.bias.shape.num_elements() == scale.size:
        yield fed.kernel, fed.kernel.numpy() / scale.reshape(shape)
        yield fed.bias, (fed.bias.numpy() - offset) / scale


def _of_channels(kernel: Any, channels: int) -> tuple[int, ...] | None:
    """The shape that numbers for the outputs of a kernel need to be laid on it.

    They are last in most, last but one in transposed convolutions, and both in depthwise ones.
    """
    *_, first, last = kernel.shape
    return {first * last: (first, last), first: (first, 1), last: (last,)}.get(channels)


def _is_done_before(m: Measured, fed: Fed, affine: Affine) -> bool:
    """Whether the layer's input is what it would make of one with the statistics it stores."""
    scale, offset = affine.scale.ravel(), affine.offset.ravel()
    mean, variance = m.moving[fed.mean].ravel(), m.moving[fed.variance].ravel()
    if scale.size != mean.size or scale.size < FEWEST or not (np.abs(scale) > 1e-6).all():
        return False
    expected = {fed.mean: scale * mean + offset, fed.variance: scale**2 * variance}
    off, now = 0.0, 0.0
    for i, value in expected.items():
        far, reference = m.far[i], m.reference[i]
        off += float(np.median(far(value.reshape(reference.shape), reference)))
        now += float(np.median(far(m.moving[i], reference)))
    return off < (1 - MOST) * now


def _undone(m: Measured, values: Sequence[tuple[Any, Array]]) -> tuple[float, str]:
    """With these weights in the model: how much of what is stored are the data's statistics?"""
    before = gap(m.stored, m.population, m.data).outputs
    with restored([weight for weight, _ in values]):
        for weight, value in values:
            weight.assign(value)
        found = m.statistics_of(m.batches).population
        after = gap(m.under(m.moving), m.under(found), m.data).outputs
    closes = after < HALF * min(before, 1.0)
    return m.explained(found) if closes else 0.0, (
        f"what is stored are the statistics of this data; evaluation is then {digits(after, 2)} "
        f"standard deviations from that under population statistics, as it is {digits(before, 2)}"
    )


def _fed(m: Measured) -> Iterator[Fed]:
    """The layers with wrong means and variances that stand behind weights of their own."""
    calls, tracked = m.training.calls, {id(t.layer) for t in m.tracked}
    train = {id(weight) for weight in weights_of(m.subject)}
    others = [call for call in calls if id(call.layer) not in tracked]
    weights = {id(call): own for call in others if (own := _weights(m, call, train))}
    seen = set[int]()
    before = m.training.reaching(lambda c: id(c) in weights or id(c.layer) in tracked)
    for call, sources in zip(calls, before, strict=True):
        if id(call.layer) not in tracked or not sources or id(sources[-1]) not in weights:
            continue
        behind = weights[id(sources[-1])]
        if id(behind[1]) not in seen and (at := _moments(m, call)):
            seen.add(id(behind[1]))
            if any(place in m.wrong for place in at):
                yield Fed(call.path, call.label, *at, *behind)


def _weights(m: Measured, call: Call, train: set[int]) -> tuple[str, Any, Any] | None:
    """The path of a layer with one kernel that trains, that kernel, and its bias or None."""
    own = [v for v in m.subject.own_variables(call.layer) if id(v) in train]
    kernels, biases = [v for v in own if v.shape.rank > 1], [v for v in own if v.shape.rank == 1]
    if len(kernels) != 1:
        return None
    return call.path, kernels[0], biases[0] if len(biases) == 1 else None


def _moments(m: Measured, call: Call) -> tuple[int, int] | None:
    """Which of what is tracked are the mean and the variance of a layer."""
    at = {t.role: i for i, t in enumerate(m.tracked) if t.layer is call.layer}
    return (at["mean"], at["variance"]) if {"mean", "variance"} <= at.keys() else None
