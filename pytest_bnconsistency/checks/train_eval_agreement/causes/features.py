"""Features of rows that were in another order, scale or place in training.

The first normalization layer sees an affine function of a row: the features themselves, or what a
dense layer makes of them. So its statistics tell the mean and the deviation that each feature had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.channel_orders import one_each
from pytest_bnconsistency.checks.train_eval_agreement.causes.fitting import (
    ENOUGH_STATISTICS,
    named,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import InputTrial
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.words import listed

MOST_FEATURES = 64
"""Each costs a forward pass in training mode."""
AFFINE = 0.02
"""An affine function has the variances that its slopes and the covariances of the rows give, but
for such a share in the median."""
STEPS, DAMPINGS = 40, (0.0, 0.01, 0.1, 1.0, 10.0)
BLUR = 0.05
"""Stored statistics are not nearer to the mean of their batches: shares, or deviations."""
SURELY, OTHERWISE = 3, 0.1
"""A feature is another one by so many standard errors, and by so much: a share of its deviation,
or deviations of its mean."""
FARTHER, WIDER = 2.0, 1.5
"""Some of the rows have means that are fewer deviations away, and deviations that are fewer times
as large.
"""
FEW = 1 / 3
"""The share of the features that may be otherwise where the others are as they were."""
CHANCE = 4
"""Standard errors by which features that were standardised on more rows are off on some."""
UNIT = 0.02
"""Features that lie between 0 and 1 reach as near to both."""
SHOWN = 3


@dataclass(frozen=True)
class Features:
    """What was done to the features: words, their order, and a factor and an offset of each.

    `fitted` says that it is nothing usual.
    """

    name: str
    order: Array
    scale: Array
    offset: Array
    fitted: bool = False

    def apply(self, x: Array) -> Array:
        return np.asarray(x[..., self.order] * self.scale + self.offset)


def features(trial: InputTrial) -> Iterator[Features]:
    """What the features were in training, the simplest first."""
    seen = _first_layer(trial)
    if seen is None:
        return
    fit, index = seen.fit(np.full(len(seen.mean), True)), np.arange(len(seen.mean))
    if (order := seen.reordered(fit)) is not None:
        ones, zeros = np.ones(len(order)), np.zeros(len(order))
        yield Features(f"the features in the order {_first(order)}", order, ones, zeros)
    if fit.beyond_any_rows:
        for what in _usual_scalings(_by_rows(trial.every_row)):
            yield Features(f"the features before they were {what}", index, *seen.change(fit))
    free = seen.to_fit(fit)
    if seen.is_multiplied or not free.any():
        return
    change = seen.change(seen.fit(free))
    if not seen.is_one(*change):
        said = seen.said(np.flatnonzero(free), *change)
        yield Features(f"x with {said}", index, *change, fitted=True)


@dataclass(frozen=True)
class Fit:
    """The features of training against those given, and the standard errors of both numbers.

    `moved` is how far their means are away, in the deviations given, and `logarithm` that of the
    factor of their deviations.
    """

    moved: Array
    logarithm: Array
    moved_error: Array
    logarithm_error: Array

    @property
    def otherwise(self) -> Array:
        """Which features are surely others."""
        both = ((self.moved, self.moved_error), (self.logarithm, self.logarithm_error))
        moved, scaled = (np.abs(v) > np.maximum(OTHERWISE, SURELY * error) for v, error in both)
        return np.asarray(moved | scaled)

    @property
    def beyond_any_rows(self) -> bool:
        """Whether some feature has another place, or is wider, than it is among any of the rows.

        Statistics of some of the rows, as of the last batches or of one class, are those of
        features that lie among the given ones.
        """
        farther = np.abs(self.moved) - SURELY * self.moved_error > FARTHER
        wider = self.logarithm - SURELY * self.logarithm_error > np.log(WIDER)
        return bool((farther | wider).any())


@dataclass(frozen=True)
class FirstLayer:
    """The first normalization layer of a model, as an affine function of the features.

    `slopes`, (features, channels), say how far a channel's mean moves where a feature moves by
    its deviation. The other numbers are those of the features given and of the channels: as given
    and as stored. `jitter` is by how much the stored means, in deviations, and variances, as
    shares, vary with the last batches.
    """

    mean: Array
    deviation: Array
    correlation: Array
    slopes: Array
    given_mean: Array
    stored_mean: Array
    stored: Array
    jitter: tuple[Array, Array]

    @property
    def determined(self) -> bool:
        """Whether the channels tell all features from one another."""
        slopes = self.slopes / max(float(np.abs(self.slopes).max()), 1e-30)
        return bool(np.linalg.matrix_rank(slopes, 1e-4) == len(slopes))

    @property
    def is_multiplied(self) -> bool:
        """Whether one number takes the variances to those stored, and the means stay or go by it
        as well: it tells what otherwise each feature has two numbers for.
        """
        logs, unit = np.log(self.stored / self.variances()), np.sqrt(self.stored)
        one = float(np.median(logs))
        moved = min(
            float((np.abs(self.stored_mean - times * self.given_mean) / unit).max())
            for times in (1.0, np.exp(one))
        )
        alike = max(moved, float(np.abs(logs - one).max())) < SURELY * OTHERWISE
        return alike and abs(one) > OTHERWISE

    def variances(self, scales: Array | float = 1.0) -> Array:
        scaled = self.slopes * np.reshape(scales, (-1, 1))
        variances = np.einsum("ju,jk,ku->u", scaled, self.correlation, scaled)
        return np.asarray(np.maximum(variances, 1e-12))

    def fit(self, free: Array) -> Fit:
        """The features under which the layer has what is stored; those not `free` are as given."""
        unit = np.sqrt(self.stored)
        slopes = (self.slopes[free] / unit).T
        aim = (self.stored_mean - self.given_mean) / unit
        moved = np.linalg.lstsq(slopes, aim, rcond=1e-6)[0]
        logarithm, left, jacobian = self._scales(free)
        means, variances = self.jitter
        error = (
            _errors(slopes, aim - slopes @ moved, means),
            _errors(jacobian, left, variances),
        )
        found = np.zeros((4, len(free)))
        found[:, free] = moved, logarithm, *error
        return Fit(*found)

    def _scales(self, free: Array) -> tuple[Array, Array, Array]:
        """The factors of deviations, as logarithms, what they leave, and its derivatives.

        Levenberg and Marquardt's way down, from one factor for all that are free.
        """

        def left(at: Array) -> tuple[Array, Array]:
            scales = np.ones(len(free))
            scales[free] = np.exp(at)
            variances, scaled = self.variances(scales), self.slopes * scales[:, None]
            jacobian = 2 * scaled * (self.correlation @ scaled) / variances
            return np.log(variances / self.stored), jacobian[free].T

        start = -left(np.zeros(free.sum()))[0].mean() / 2 if free.all() else 0.0
        at = np.full(free.sum(), start)
        now, jacobian = left(at)
        for _ in range(STEPS):
            square = jacobian.T @ jacobian + 1e-9 * np.eye(len(at))
            for damping in DAMPINGS:
                damped = square + damping * np.diag(np.diag(square))
                step = np.clip(np.linalg.solve(damped, -jacobian.T @ now), -2, 2)
                then, its = left(at + step)
                if then @ then < now @ now:
                    break
            else:
                break
            at, now, jacobian = at + step, then, its
        return at, now, jacobian

    def change(self, fit: Fit) -> tuple[Array, Array]:
        """Factors and offsets that make the features given those of training."""
        scale = np.exp(fit.logarithm)
        return scale, self.mean + fit.moved * self.deviation - scale * self.mean

    def to_fit(self, fit: Fit) -> Array:
        """Which features are to be fitted: a few, or all, or none if nothing tells them."""
        off = fit.otherwise
        if off.sum() <= FEW * len(off):
            return off
        enough = ENOUGH_STATISTICS * len(off) <= len(self.stored_mean)
        return np.full(len(off), fit.beyond_any_rows and enough)

    def is_one(self, scale: Array, offset: Array) -> bool:
        """Whether all features have about one factor and one offset."""
        same_scale = np.ptp(np.log(scale)) < SURELY * OTHERWISE
        places = (offset - offset.mean()) / (scale * self.deviation)
        return bool(same_scale and np.abs(places).max() < SURELY * OTHERWISE)

    def reordered(self, fit: Fit) -> Array | None:
        """Where each feature of training stands now, by the nearest; None where none is moved."""
        deviations = np.exp(fit.logarithm) * self.deviation
        means = self.mean + fit.moved * self.deviation
        distance = np.abs(means[:, None] - self.mean) / deviations[:, None]
        distance += np.abs(np.log(deviations[:, None] / self.deviation))
        order = one_each(distance)
        return None if (order == np.arange(len(order))).all() else order

    def said(self, which: Array, scale: Array, offset: Array) -> str:
        """`feature 0 as 2 * x - 1`, of each; an offset of a tenth of a deviation is none."""
        none = np.abs(offset) < OTHERWISE * self.deviation * scale
        offset = np.where(none, 0.0, offset)
        each = [f"feature {i} as {named(float(scale[i]), float(offset[i]))}" for i in which]
        return listed(each, most=SHOWN)


def _errors(jacobian: Array, left: Array, jitter: Array) -> Array:
    """The standard errors of numbers fitted by least squares to what varies by `jitter`."""
    freedom = max(len(left) - jacobian.shape[1], 1)
    blur = np.maximum(max(float(left @ left) / freedom, BLUR**2), jitter**2)
    inverse = np.linalg.pinv(jacobian)
    return np.asarray(np.sqrt(inverse**2 @ blur))


def _jitter(m: Measured, place: int) -> Array:
    """The standard error of a moving average over batches, in units of the statistic."""
    over_batches = np.std([batch.values[place] for batch in m.seen], axis=0)
    return np.asarray(over_batches * m.tracked[place].jitter)


def _by_rows(x: Array) -> Array:
    """The features of each row, or of each step or place in it: (number, features)."""
    return x.reshape(-1, x.shape[-1])


def _first_layer(trial: InputTrial) -> FirstLayer | None:
    """The first layer that the inputs reach, where it sees an affine function of the features, of
    enough channels.
    """
    m, rows = trial.m, _rows(trial)
    if rows is None:
        return None
    roles = {m.tracked[place].role: place for place in trial.first}
    if not {"mean", "variance"} <= roles.keys():
        return None
    mean, variance = roles["mean"], roles["variance"]
    stored = m.moving[mean], np.maximum(m.moving[variance], 1e-12)
    vectors = (len(v) >= rows.shape[1] and np.isfinite(v).all() for v in stored if v.ndim == 1)
    if list(vectors) != [True, True]:
        return None
    base = trial.values(lambda x: x)
    slopes = None if base is None else _slopes(trial, mean, base[mean], rows.std(0))
    if base is None or slopes is None:
        return None
    correlation = np.corrcoef(rows, rowvar=False)
    spread = np.maximum(base[variance], 1e-12)
    jitter = _jitter(m, mean) / np.sqrt(spread), _jitter(m, variance) / spread
    given = rows.mean(0), rows.std(0), correlation
    found = FirstLayer(*given, slopes, base[mean], *stored, jitter)
    unlike = np.abs(found.variances() / np.maximum(base[variance], 1e-12) - 1)
    return found if found.determined and np.median(unlike) < AFFINE else None


def _rows(trial: InputTrial) -> Array | None:
    """The features of some rows, if there are several, and none of them is constant."""
    if len(trial.leaves) != 1:
        return None
    rows = _by_rows(trial.leaves[0])
    return rows if 1 < rows.shape[1] <= MOST_FEATURES and (rows.std(0) > 0).all() else None


def _slopes(trial: InputTrial, mean: int, base: Array, deviation: Array) -> Array | None:
    """By how much the layer's means move from `base` where a feature moves by its deviation."""
    tried = (trial.values(partial(_moved, by=step)) for step in np.diag(deviation))
    moved = [value[mean] - base for value in tried if value is not None]
    return np.stack(moved) if len(moved) == len(deviation) else None


def _moved(x: Array, by: Array) -> Array:
    return np.asarray(x + by)


def _usual_scalings(rows: Array) -> Iterator[str]:
    """Which usual scaling all features of these rows have gone through."""
    error = CHANCE / np.sqrt(len(rows))
    if (np.abs(rows.mean(0)) < error).all() and (np.abs(rows.std(0) - 1) < error).all():
        yield "standardised"
    if (np.abs(rows.min(0)) < UNIT).all() and (np.abs(rows.max(0) - 1) < UNIT).all():
        yield "scaled to [0, 1]"


def _first(order: Array) -> str:
    shown = ", ".join(map(str, order[: 4 * SHOWN]))
    return f"[{shown}{', ...' if len(order) > 4 * SHOWN else ''}]"
