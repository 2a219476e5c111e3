"""The scale and offset under which the first layers' statistics become those stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.swapped_statistics import NEAR_ZERO, typical

ENOUGH_STATISTICS = 2
"""Numbers that are fitted must explain so many times as many statistics."""
RESPONDS = 0.2
"""A statistic that doubling moves by more is one to go by."""
ROUNDS, HALVINGS = 4, 3
STEP = 0.05
SMALL = 0.2
"""A smaller scale is told as a division."""
SNAP = 0.05
"""Numbers as near to usual ones, in shares and in standard deviations, may be these."""
USUAL_SCALES = (1.0, 2.0, 10.0, 16.0, 100.0, 127.5, 255.0, 1000.0)
USUAL_OFFSETS = (0.0, 0.5, 1.0, 2.0, 127.5, 255.0)

Values = Callable[[Array, Array], list[Array] | None]
"""The statistics under scales and offsets, one for each group of channels."""


def fitted(
    m: Measured,
    among: Sequence[int],
    stored: Sequence[Array],
    values: Values,
    spread: Array,
    rounds: int = ROUNDS,
) -> Iterator[tuple[Array, Array]]:
    """The scales and offsets that fit `stored` best, with the sign as it is and turned round.

    They are fitted to the statistics `among`, which are those of whole layers: first to those of
    the first layer, whose means and deviations follow the numbers as straight lines. `spread` is
    the standard deviation of what is scaled, for each group.
    """
    groups = spread.size
    ones, zeros = np.ones(groups), np.zeros(groups)
    doubled = values(2 * ones, zeros)
    if doubled is None:
        return
    respond = [i for i in among if float(np.mean(m.far[i](m.reference[i], doubled[i]))) > RESPONDS]
    places = [i for i in m.of_layers(respond) if m.tracked[i].role in ("mean", "variance")]
    start = _scale(m, stored, places)
    if not places or not 0 < start < math.inf:
        return

    def residual(of: Sequence[int], at: Array) -> Array | None:
        now = values(at[:groups], at[groups:])
        return None if now is None else _residual(m, stored, of, now)

    first = [i for i in m.of_layers(respond[:1]) if i in places]
    stages = [first, places] if _are_enough(m, first, groups) else [places]
    units = np.concatenate([STEP * start * ones, 2 * STEP * start * spread])
    for sign in (1.0, -1.0):
        at: Array | None = np.concatenate([sign * start * ones, zeros])
        for of in stages:
            at = None if at is None else _descended(partial(residual, of), at, units, rounds)
        if at is not None:
            yield at[:groups], at[groups:]


def _are_enough(m: Measured, places: Sequence[int], groups: int) -> bool:
    """Whether statistics tell a scale and an offset of each group."""
    return sum(m.moving[i].size for i in places) >= ENOUGH_STATISTICS * 2 * groups


def usual(scale: float, offset: float, spread: float) -> Iterator[tuple[float, float]]:
    """Usual numbers near to these; nothing where there are none."""
    margin = max(2 * SNAP * abs(scale) * spread, SNAP * abs(offset))
    for known in dict.fromkeys([*USUAL_SCALES, *(1 / s for s in USUAL_SCALES)]):
        if abs(abs(scale) / known - 1) > SNAP:
            continue
        for size in (*USUAL_OFFSETS, known, known / 2):
            if abs(abs(offset) - size) < margin:
                yield math.copysign(known, scale), math.copysign(size, offset) if size else 0.0
                break


def named(scale: float, offset: float, of: str = "x") -> str:
    """`2 * x - 1`, as one would write it."""
    size = abs(scale)
    product = f"{size:.3g} * {of}" if size > SMALL else f"{of} / {1 / size:.4g}"
    product = of if abs(size - 1) < 1e-6 else product
    if scale < 0:
        return f"{offset:.3g} - {product}" if offset else f"-{product}"
    return f"{product} {'+' if offset > 0 else '-'} {abs(offset):.3g}" if offset else product


def _scale(m: Measured, stored: Sequence[Array], places: Sequence[int]) -> float:
    """The scale that gives the median variance that is stored."""
    ratios = [
        np.maximum(stored[i], 0) / np.maximum(m.reference[i], 1e-12)
        for i in places
        if m.tracked[i].role == "variance"
    ]
    return float(np.sqrt(np.median(np.concatenate(ratios)))) if ratios else 1.0


def _residual(
    m: Measured, stored: Sequence[Array], places: Sequence[int], now: Sequence[Array]
) -> Array:
    """What is left between statistics and the stored ones, in the stored deviations."""
    variances = {id(m.tracked[i].layer): stored[i] for i in places if _is_variance(m, i)}
    parts = []
    for i in places:
        if _is_variance(m, i):
            floor = NEAR_ZERO * typical(stored[i])
            ratio = (np.abs(now[i]) + floor) / (np.abs(stored[i]) + floor)
            parts.append(np.log(ratio).ravel())
        else:
            own = variances.get(id(m.tracked[i].layer), stored[i] ** 2)
            unit = np.sqrt(np.maximum(own, NEAR_ZERO * typical(own)))
            parts.append(((now[i] - stored[i]) / unit).ravel())
    return np.asarray(np.clip(np.concatenate(parts), -1e6, 1e6))


def _is_variance(m: Measured, place: int) -> bool:
    return m.tracked[place].role == "variance"


def _descended(
    residual: Callable[[Array], Array | None], at: Array, units: Array, rounds: int
) -> Array | None:
    """Gauss and Newton's way down from `at`, with differences of `units` for derivatives."""
    left = residual(at)
    if left is None:
        return None
    for _ in range(rounds):
        slopes = []
        for index, unit in enumerate(units):
            moved = at.copy()
            moved[index] += unit
            after = residual(moved)
            if after is None:
                return at
            slopes.append((after - left) / unit)
        step = np.linalg.lstsq(np.stack(slopes, 1), -left, rcond=1e-6)[0]
        for _ in range(HALVINGS):
            after = residual(at + step)
            if after is not None and after @ after < left @ left:
                break
            step = step / 2
        else:
            return at
        done = after @ after > 0.98 * (left @ left)
        at, left = at + step, after
        if done:
            break
    return at
