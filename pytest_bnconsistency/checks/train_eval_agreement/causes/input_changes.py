"""What may have been done to inputs since training: what is usual, or what the statistics say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import MOST
from pytest_bnconsistency.checks.train_eval_agreement.causes.chance import Fit, fits
from pytest_bnconsistency.checks.train_eval_agreement.causes.features import features
from pytest_bnconsistency.checks.train_eval_agreement.causes.fitting import (
    ENOUGH_STATISTICS,
    ROUNDS,
    SNAP,
    Values,
    fitted,
    named,
    usual,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import (
    How,
    InputTrial,
    Transform,
)
from pytest_bnconsistency.data.arrays import Array

FAR_LESS = 4
MOST_CHANNELS = 4
OTHER_WEIGHTS = "the first weights were multiplied by as much"
LARGE_ROUNDS = 2
NEAR_USUAL, FITTED = 1.5, 2.0
"""Weights of numbers that were fitted, and are usual ones or not."""
USUAL_CHANGES = (
    (255.0, 0.0),
    (1 / 255, 0.0),
    (1 / 127.5, -1.0),
    (127.5, 127.5),
    (2.0, -1.0),
    (0.5, 0.5),
    (-1.0, 1.0),
    (-1.0, 255.0),
)
CAFFE = np.array([103.939, 116.779, 123.68])
MEANS, DEVIATIONS = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
"""The means of many images, blue first, in [0, 255], and means and deviations in [0, 1]."""


@dataclass(frozen=True)
class Change(Generic[How]):
    """What is done to the data, in words and as a trial takes it.

    `weight` grows with the numbers that were found by the statistics themselves; `free` says that
    these are no usual ones. `rival` is what would do the same to what the model makes of it. Where
    the opposite fits the statistics as well, `doubted` is the sign of its scale.
    """

    name: str
    apply: How
    weight: float = 1.0
    free: bool = False
    rival: str = ""
    doubted: tuple[int, ...] = ()


def usual_changes(trial: InputTrial) -> Iterator[Change[Transform]]:
    for scale, offset in USUAL_CHANGES:
        yield Change(named(scale, offset), _scaled(scale, offset, _same))
    yield Change("the features standardised", lambda x: _standardised(x, (0,)))
    yield Change("each row standardised", lambda x: _standardised(x, tuple(range(1, x.ndim))))
    yield Change("the features scaled to [0, 1]", _to_unit_interval)
    if all(leaf.min() > -1 for leaf in trial.leaves):
        yield Change("log(1 + x)", np.log1p)
    if any(leaf.shape[-1] > 1 for leaf in trial.leaves):
        yield Change("the channels in reverse order", _reversed)
    if all(leaf.ndim > 2 for leaf in trial.leaves):
        yield Change(
            "each channel standardised", lambda x: _standardised(x, tuple(range(x.ndim - 1)))
        )
        if all(leaf.shape[-1] == 3 for leaf in trial.leaves):
            yield from _usual_images()


def _usual_images() -> Iterator[Change[Transform]]:
    """As `preprocess_input` of two modes does, of images in [0, 255] and in [0, 1]."""
    for scale, of in ((1.0, "x"), (255.0, "255 * x")):
        yield Change(
            f"{of}, the channels in reverse order and less {CAFFE.tolist()} (preprocess_input of "
            "mode 'caffe')",
            _scaled(scale, -CAFFE, _reversed),
        )
    for scale, of in ((1 / 255, "x / 255"), (1.0, "x")):
        yield Change(
            f"{of}, the channels less {MEANS.tolist()} and by {DEVIATIONS.tolist()} "
            "(preprocess_input of mode 'torch')",
            _scaled(scale / DEVIATIONS, -MEANS / DEVIATIONS, _same),
        )


def by_feature(trial: InputTrial) -> Iterator[Change[Transform]]:
    """The features of a table, as the first layer's statistics say that they were."""
    for found in features(trial):
        weight = FITTED if found.fitted else NEAR_USUAL
        yield Change(found.name, found.apply, weight, free=found.fitted)


def one_for_all(trial: InputTrial) -> Iterator[Change[Transform]]:
    """One scale and one offset for all, fitted, the channels as they are and reversed."""
    spread = float(np.mean([leaf.std() for leaf in trial.leaves])) or 1.0
    for order, of in _orders(trial):

        def values(scale: Array, offset: Array, order: Transform = order) -> list[Array] | None:
            return trial.values(_scaled(scale[0], offset[0], order))

        for fit in fits(trial, values, np.array([spread]), _rounds(trial)):
            scale, offset = float(fit.scale[0]), float(fit.offset[0])
            for a, b in usual(scale, offset, spread):
                if fit.believed(usual=True):
                    rival = "" if b else OTHER_WEIGHTS
                    yield Change(named(a, b, of), _scaled(a, b, order), NEAR_USUAL, rival=rival)
            doubted = _doubted(fit, scale)
            if fit.explains and (
                order is _same if doubted else _is_particular(trial, values, spread, fit)
            ):
                yield Change(
                    named(scale, offset, of),
                    _scaled(scale, offset, order),
                    FITTED,
                    free=True,
                    rival=OTHER_WEIGHTS if abs(offset) < SNAP * abs(scale) * spread else "",
                    doubted=doubted,
                )


def _is_particular(trial: InputTrial, values: Values, spread: float, fit: Fit) -> bool:
    """Whether no two numbers bring the data to the stored statistics in the next channel's place,
    or they leave far more unexplained than those that fit here.

    Where the channels are alike, they bring it to any others.
    """
    limit = max(MOST, 1 - FAR_LESS * (1 - fit.share))
    moved = [np.roll(value, 1) for value in trial.m.moving]
    for numbers in fitted(trial.m, trial.among, moved, values, np.array([spread]), _rounds(trial)):
        now = values(*numbers)
        if now is not None and trial.explained(now, stored=moved) > limit:
            return False
    return True


def by_channel(trial: InputTrial) -> Iterator[Change[Transform]]:
    """An offset for each of a few channels, with one usual scale or one for each, fitted."""
    lasts = {leaf.shape[-1] for leaf in trial.leaves}
    channels = max(lasts)
    numbers = sum(trial.m.moving[i].size for i in trial.among[:2])
    if lasts != {channels} or not 1 < channels <= MOST_CHANNELS:
        return
    if numbers < ENOUGH_STATISTICS * 2 * channels:
        return
    rows = np.concatenate([leaf.reshape(-1, channels) for leaf in trial.leaves])
    spread = np.where((deviations := rows.std(0)) > 0, deviations, 1.0)
    for order, of in _orders(trial):
        means = order(rows).mean(0)

        def values(scale: Array, offset: Array, order: Transform = order) -> list[Array] | None:
            return trial.values(_scaled(scale, offset, order))

        for fit in fits(trial, values, spread, _rounds(trial)):
            if not fit.explains:
                continue
            yield from _centred(fit, order, of, means, spread)
            yield Change(
                f"{of} scaled and shifted channel by channel ({_listed(fit.scale)} and "
                f"{_listed(fit.offset)})",
                _scaled(fit.scale, fit.offset, order),
                FITTED * 2 * channels,
                free=True,
                doubted=_doubted(fit, fit.scale),
            )


def _centred(
    fit: Fit, order: Transform, of: str, means: Array, spread: Array
) -> Iterator[Change[Transform]]:
    """Offsets of channels of these means, with one usual scale; none where one offset does."""
    for scale, _ in usual(float(np.median(fit.scale)), 0.0, 1.0):
        offset = fit.offset + (fit.scale - scale) * means
        if np.ptp(offset) > 2 * SNAP * abs(scale) * spread.mean():
            yield Change(
                f"{named(scale, 0.0, of)} + {_listed(offset)}, channel by channel",
                _scaled(scale, offset, order),
                FITTED * len(means),
                free=True,
                doubted=_doubted(fit, scale),
            )


def _doubted(fit: Fit, scale: float | Array) -> tuple[int, ...]:
    """The signs of the scales, where the opposite ones fit as well."""
    return () if fit.believed() else tuple(sorted({int(s) for s in np.ravel(np.sign(scale))}))


def _listed(numbers: Array) -> str:
    return str([float(f"{number:.3g}") for number in numbers])


def _orders(trial: InputTrial) -> Iterator[tuple[Transform, str]]:
    """The channels as they are, and reversed; nobody reverses the features of a table."""
    yield _same, "x"
    if any(leaf.ndim > 2 and leaf.shape[-1] > 1 for leaf in trial.leaves):
        yield _reversed, "x[..., ::-1]"


def _rounds(trial: InputTrial) -> int:
    return ROUNDS if trial.m.small else LARGE_ROUNDS


def _scaled(scale: float | Array, offset: float | Array, order: Transform) -> Transform:
    return lambda x: np.asarray(order(x) * scale + offset)


def _same(x: Array) -> Array:
    return x


def _reversed(x: Array) -> Array:
    return x[..., ::-1]


def _standardised(x: Array, axes: tuple[int, ...]) -> Array:
    deviation = x.std(axes, keepdims=True)
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.maximum(deviation, 1e-7))


def _to_unit_interval(x: Array) -> Array:
    low, high = x.min(0, keepdims=True), x.max(0, keepdims=True)
    return np.asarray((x - low) / np.maximum(high - low, 1e-7))
