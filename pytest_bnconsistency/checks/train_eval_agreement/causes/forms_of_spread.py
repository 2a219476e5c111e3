"""In which form a layer of preprocessing has the mean and the deviation of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.fitting import named
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.affine_layers import Affine, Spread

ALIKE, ALIKE_IN_MOST = 0.05, 0.15
"""Numbers agree that are as near to each other in the median, and in nine of ten channels."""
FEWEST = 3
"""In fewer channels a scale and an offset make anything of the data's numbers."""
SQUARE = "give {path} the variance, the square of the standard deviation"
ADAPT = "adapt {path} to the training data as the model is given it"


@dataclass(frozen=True)
class Form:
    """What a layer has instead of the data's numbers, and what to give it."""

    said: str
    remedy: str


def standardises(place: Affine) -> bool:
    """Whether the layer subtracts the data's mean and divides by its deviation."""
    return _has(place, place.given.mean, place.given.deviation)


def is_standard(place: Affine) -> bool:
    """Whether the layer is given what has mean 0 and deviation 1."""
    return _small(np.abs(place.given.mean)[place.varies]) and _small(
        np.abs(place.given.deviation - 1)[place.varies]
    )


def form(place: Affine) -> Form | None:
    """The form in which the layer has the data's numbers; None where it has them as they are, and
    where it has others.
    """
    if standardises(place):
        return None
    known = (Form(s, r) for mean, by, s, r in _forms(place.given) if _has(place, mean, by))
    return next(known, None) or _inverted(place) or _of_scaled(place)


def _forms(data: Spread) -> Iterator[tuple[Array, Array, str, str]]:
    """What a layer may subtract and divide by, by mistake."""
    mean, deviation = data.mean, np.maximum(data.deviation, 1e-12)
    yield mean, np.sqrt(deviation), "its variance is the standard deviation of the data", SQUARE
    yield (
        mean,
        deviation**2,
        "it divides by the variance of the data, not by the standard deviation",
        "give {path} the standard deviation to divide by",
    )
    yield mean, deviation**-0.5, "its variance is 1 / the standard deviation of the data", SQUARE
    yield mean, 1 / deviation, "its variance is 1 / the variance of the data", SQUARE
    logarithm = 2 * np.log(deviation)
    if (logarithm > 0).all():
        said = "its variance is the logarithm of the data's variance"
        yield mean, np.sqrt(logarithm), said, SQUARE
    if (mean > 0).all():
        yield (
            deviation**2,
            np.sqrt(mean),
            "its mean is the data's variance, and its variance the data's mean",
            "give {path} mean and variance in this order",
        )
    yield data.low, data.high - data.low, "it scales the data to [0, 1]", ADAPT
    if mean.shape[-1] >= FEWEST:
        said = "its numbers are those of the channels in reverse order"
        yield mean[..., ::-1], deviation[..., ::-1], said, ADAPT


def _inverted(place: Affine) -> Form | None:
    """As with `invert=True`: it multiplies by the deviation, and adds the mean."""
    data = place.given
    if _near(place, place.scale, data.deviation) and _beside(place, place.offset, data.mean):
        return Form(
            "it multiplies by the data's standard deviation and adds its mean",
            "build {path} with invert=False",
        )
    return None


def _of_scaled(place: Affine) -> Form | None:
    """The numbers of the data at another scale, as of images in [0, 255]."""
    data, varies = place.given, place.varies
    if varies.sum() < FEWEST or (place.scale == 0).any():
        return None
    mean, by = -place.offset / place.scale, 1 / place.scale
    scale = float(np.median(by[varies] / data.deviation[varies]))
    offset = float(np.median((mean - scale * data.mean)[varies]))
    if abs(offset) < ALIKE * abs(scale) * float(np.median(data.deviation[varies])):
        offset = 0.0
    if not scale > 0 or not _has(place, scale * data.mean + offset, scale * data.deviation):
        return None
    of = named(float(f"{scale:.3g}"), offset)
    return Form(
        f"its mean and variance are those of {of}, where x is this data",
        f"{ADAPT}, or give the model {of}",
    )


def _has(place: Affine, mean: Array, by: Array) -> bool:
    """Whether the layer subtracts these means and divides by these numbers."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = -place.offset / place.scale
        beside = np.abs(own - mean) / np.maximum(np.abs(by), 1e-12)
        return _near(place, 1 / place.scale, by) and _small(beside[place.varies])


def _near(place: Affine, mine: Array, its: Array) -> bool:
    mine, its = (np.broadcast_to(v, place.scale.shape)[place.varies] for v in (mine, its))
    if not ((mine > 0).all() and (its > 0).all()):
        return False
    return _small(np.abs(np.log(mine / its)))


def _beside(place: Affine, mine: Array, its: Array) -> bool:
    unit = np.maximum(place.given.deviation, 1e-12)
    return _small((np.abs(mine - its) / unit)[place.varies])


def _small(deviation: Array) -> bool:
    return bool(
        deviation.size
        and np.median(deviation) < ALIKE
        and np.quantile(deviation, 0.9) < ALIKE_IN_MOST
    )
