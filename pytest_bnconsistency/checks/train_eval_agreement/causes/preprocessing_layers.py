"""Layers of preprocessing whose numbers are not those of the data: the right ones are put in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import RIVALS, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.chance import fits
from pytest_bnconsistency.checks.train_eval_agreement.causes.fitting import named, usual
from pytest_bnconsistency.checks.train_eval_agreement.causes.forms_of_spread import (
    Form,
    form,
    is_standard,
    standardises,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import (
    Candidate,
    LayerTrial,
    Tried,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.affine_layers import Affine
from pytest_bnconsistency.rules import catalogue as rules

WEIGHT = 1.2
"""As well as a layer's numbers, the data may be what is wrong."""
OTHERWISE = "give {path} the numbers of training, or the model data as in training"


@dataclass(frozen=True)
class Change:
    """What a layer would give, in words, and as what it gives scaled and shifted once more.

    `form` says in which form the layer has the data's numbers, where it does not give this.
    """

    name: str
    scale: Array
    offset: Array
    form: Form | None = None


def misfit(m: Measured) -> Iterator[Cause]:
    """A layer that has the data's own numbers, in a wrong form: with the right ones in it, is
    what is stored right?
    """
    for place in m.preparing:
        wrong = form(place)
        if wrong is not None:
            change = _standardised(place, wrong)
            for tried in _explaining(LayerTrial(m, place), change):
                yield _cause(place, change, tried)


def misfits(m: Measured) -> Iterator[Candidate]:
    """A layer that gives what the stored statistics are not those of."""
    for place in m.preparing:
        trial = LayerTrial(m, place)
        for changes in (_natural(place), _global(trial, place)):
            found = [(c, tried) for c in changes for tried in _explaining(trial, c)]
            yield from (Candidate(_cause(place, c, t), t, WEIGHT) for c, t in found)
            if any(tried.decides for _, tried in found):
                return


def _explaining(trial: LayerTrial, change: Change) -> Iterator[Tried]:
    tried = trial.tried((change.scale, change.offset))
    if tried is None or not tried.explains:
        return
    if change.form is not None or tried.share > tried.initial - RIVALS:
        yield tried


def _standardised(place: Affine, wrong: Form | None = None) -> Change:
    gives = place.gives
    deviation = np.where(gives.deviation > 0, gives.deviation, 1.0) * np.sign(place.scale)
    return Change(
        "its input standardised by the mean and deviation of this data",
        1 / deviation,
        -gives.mean / deviation,
        wrong,
    )


def _natural(place: Affine) -> Iterator[Change]:
    """What the layer may be meant to give."""
    if not standardises(place) and not is_standard(place):
        yield _standardised(place)
    gives = place.gives
    turned = place.scale < 0
    low, high = np.where(turned, gives.high, gives.low), np.where(turned, gives.low, gives.high)
    width = np.where(high == low, 1.0, high - low)
    yield Change("its input scaled to [0, 1]", 1 / width, -low / width)
    yield Change("its input scaled to [-1, 1]", 2 / width, -2 * low / width - 1)
    if (place.scale != 0).all():
        yield Change("its input as it is", 1 / place.scale, -place.offset / place.scale)


def _global(trial: LayerTrial, place: Affine) -> Iterator[Change]:
    """One scale and one offset for all that the layer gives, fitted, where these are usual ones.

    Of a layer that does the same to all, they are told of what it is given.
    """
    like = np.ones_like(place.scale)
    spread = float(np.mean(place.gives.deviation)) or 1.0
    own, shift = float(place.scale.flat[0]), float(place.offset.flat[0])

    def values(scale: Array, offset: Array) -> list[Array] | None:
        return trial.values((scale[0] * like, offset[0] * like))

    for fit in fits(trial, values, np.array([spread])):
        if not fit.believed(usual=True):
            continue
        scale, offset = float(fit.scale[0]), float(fit.offset[0])
        if _is_uniform(place) and own:
            for a, b in usual(scale * own, scale * shift + offset, spread / abs(own)):
                again = a / own
                yield Change(named(a, b, "its input"), again * like, (b - again * shift) * like)
        for a, b in usual(scale, offset, spread):
            yield Change(named(a, b, "what it gives"), a * like, b * like)


def _cause(place: Affine, change: Change, tried: Tried) -> Cause:
    path = place.call.path
    said = f"the statistics are those of {change.name}, and it gives {_own(place)}"
    remedy = OTHERWISE
    if change.form is not None:
        said, remedy = change.form.said, change.form.remedy
    return Cause.tested(
        rules.SHIFT,
        cause=f"{path} does not prepare this data as in training: {said}",
        tested=f"where {path} gives {change.name}, the statistics of this data are what is "
        f"stored; {tried.said}",
        remedy=remedy.format(path=path),
        share=tried.share,
        place=path,
        sure=change.form is not None or tried.mends,
    )


def _own(place: Affine) -> str:
    if _is_uniform(place):
        return named(float(place.scale.flat[0]), float(place.offset.flat[0]), "its input")
    if standardises(place):
        return "its input standardised"
    if is_standard(place):
        return "it standardised once more"
    return "it less the means of other data, by their deviations"


def _is_uniform(place: Affine) -> bool:
    return bool(np.ptp(place.scale) == 0 and np.ptp(place.offset) == 0)
