"""Data that is preprocessed otherwise than in training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from pytest_bnconsistency.data import Array, Data, is_float, map_nest
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.cause import MOST, OF_LARGE, RIVALS, TRIED_ROWS, Cause
from pytest_bnconsistency.diagnosis.measured import Measured

UNLIKE = 0.2
"""How much of the means must lie aside, against the number that is said to move them all."""
USUAL_SCALES = (1 / 255, 255.0, 1 / 127.5, 127.5)


def preprocessed(m: Measured) -> Iterator[Cause]:
    """The data under other preprocessing: scaled and shifted, standardised, channels reversed."""
    count = min(m.data.rows, TRIED_ROWS if m.small else OF_LARGE)
    rows = np.linspace(0, m.data.rows - 1, count).round().astype(int)
    some = m.data.take(rows)
    size = len(m.batches.rows[0])

    def under(change: Callable[[Array], Array]) -> list[Array] | None:
        changed = Data(map_nest(change, some.x))
        try:
            return m.statistics_of(changed.batches(size)).population
        except Exception:  # values that the model cannot take
            return None

    # Standardised features have the statistics that a normaliser begins with.
    initial = m.explained(m.with_initial(m.initial_share))
    for name, change in itertools.chain(_changes(m), _moved(m, under)):
        values = under(change)
        if values is None:
            continue
        share = m.explained(values)
        # Some change of the data brings any statistics nearer.
        if share > max(MOST, initial - RIVALS):
            yield Cause(
                rules.SHIFT,
                f"the statistics are those of {name}: this data is preprocessed otherwise than "
                "the training data",
                "give evaluation the preprocessing of training (best inside the model)",
                f"with {name} the statistics of this data are what is stored",
                share,
            )


def _floats(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda leaf: change(leaf).astype(leaf.dtype) if is_float(leaf) else leaf


def _moved(
    m: Measured, under: Callable[[Callable[[Array], Array]], list[Array] | None]
) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """The data and its negative, moved by the number that gives the first mean that is stored.

    Where the data's own means lie along what a number moves, it brings them to any others.
    """
    first = next((i for i, t in enumerate(m.tracked) if t.role == "mean"), None)
    for scale in (1, -1) if first is not None else ():
        still, moved = under(_floats(_scaled(scale, 0))), under(_floats(_scaled(scale, 1)))
        if first is None or still is None or moved is None:
            continue
        slope, means = (moved[first] - still[first]).ravel(), still[first].ravel()
        unit = max(slope @ slope, 1e-30)
        offset = float(slope @ (m.moving[first].ravel() - means) / unit)
        left = means - slope * (slope @ means) / unit
        if np.linalg.norm(left) < UNLIKE * abs(offset) * np.linalg.norm(slope):
            continue
        named = f"x {'+' if offset >= 0 else '-'} {abs(offset):.2g}"
        yield named if scale > 0 else f"{offset:.2g} - x", _floats(_scaled(scale, offset))


def _changes(m: Measured) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    for scale in (*USUAL_SCALES, *_scales(m)):
        name = f"x * {scale:.3g}" if scale >= 1 else f"x / {1 / scale:.3g}"
        yield name, _floats(_scaled(scale, 0))
        if scale < 1:
            yield f"{name} - 1", _floats(_scaled(scale, -1))
        else:
            yield f"(x + 1) * {scale:.3g}", _floats(_scaled(scale, scale))
    yield (
        "the features standardised",
        _floats(lambda leaf: (leaf - leaf.mean(0)) / np.maximum(leaf.std(0), 1e-7)),
    )
    yield "the channels in reverse order", _floats(lambda leaf: leaf[..., ::-1])


def _scaled(scale: float, offset: float) -> Callable[[Array], Array]:
    return lambda leaf: np.asarray(leaf * scale + offset)


def _scales(m: Measured) -> list[float]:
    """The scale of the data that gives the first normaliser the variance that is stored."""
    for t, stored, value in zip(m.tracked, m.moving, m.reference, strict=True):
        if t.role == "variance":
            ratio = float(np.median(np.maximum(stored, 0) / np.maximum(value, 1e-12)))
            scale = math.sqrt(ratio)
            usual = any(abs(scale / known - 1) < 0.1 for known in (1.0, *USUAL_SCALES))
            return [scale] if scale > 0 and not usual else []
    return []
