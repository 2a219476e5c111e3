"""Which layer it is whose result depends on the number of rows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, Nest, flatten, map_nest, rebuild, rows_of
from pytest_bnconsistency.probes.taps import Instrument, Pass, Replay
from pytest_bnconsistency.subjects import Call

APART = 2.0**-10
"""A layer depends on the size if its values move by this share of their scale: above noise."""


@dataclass(frozen=True)
class Place:
    """A layer, and whether undoing what it does to the batch mends the outputs."""

    label: str
    tested: bool


class Values(Instrument):
    """Keeps the outputs of each call, also of a run that raises, and returns others for some.

    `instead` maps a call's label to arrays, or to shapes that its outputs are to have.
    """

    def __init__(self, instead: dict[str, list[Any]] | None = None) -> None:
        self.seen: dict[str, list[Array]] = {}
        self._instead = instead or {}

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if call.label in self._instead:
            others = zip(flatten(outputs), self._instead[call.label], strict=True)
            outputs = rebuild(
                outputs,
                [
                    tf.constant(other)
                    if isinstance(other, np.ndarray)
                    else tf.reshape(mine, other)
                    for mine, other in others
                ],
            )
        self.seen[call.label] = [np.asarray(leaf) for leaf in flatten(outputs)]
        return outputs, None


def loses_axis(seen: Pass, x: Nest, start: int, stop: int) -> Place | None:
    """The first call that gives some rows another shape than it gives them among all."""
    rows = stop - start
    base, found = _run(seen, x), _run(seen, _rows(x, start, stop))
    for label, wholes in base.seen.items():
        parts = found.seen.get(label)
        if parts is None:
            return Place(label, False)  # it raises
        wanted = [
            (rows, *whole.shape[1:]) if whole.ndim and len(whole) == rows_of(x) else whole.shape
            for whole in wholes
        ]
        if [part.shape for part in parts] != wanted:
            mended = _outputs(seen, _rows(x, start, stop), {label: wanted})
            expected = _outputs(seen, x, {})
            shapes = [(rows, *output.shape[1:]) for output in expected or []]
            return Place(label, mended is not None and [m.shape for m in mended] == shapes)
    return None


def depends_on_size(seen: Pass, x: Nest, start: int, stop: int, bound: float) -> Place | None:
    """The first call that gives some rows other values than it gives them among all."""
    base, found = _run(seen, x), _run(seen, _rows(x, start, stop))
    for label, wholes in base.seen.items():
        parts = found.seen.get(label, [])
        mine = [w[start:stop] if w.ndim and len(w) == rows_of(x) else w for w in wholes]
        if len(parts) == len(mine) and any(map(_differ, mine, parts)):
            mended = _outputs(seen, _rows(x, start, stop), {label: mine})
            whole = _outputs(seen, x, {}) or []
            tested = mended is not None and all(
                float(np.abs(a.astype(float) - b[start:stop].astype(float)).max()) <= bound
                for a, b in zip(mended, whole, strict=True)
            )
            return Place(label, tested)
    return None


def _differ(mine: Array, its: Array) -> bool:
    if mine.shape != its.shape:
        return True
    scale = float(np.abs(mine.astype(float)).max(initial=0.0)) or 1.0
    moved = np.abs(mine.astype(float) - its.astype(float))
    return bool(moved.max(initial=0.0) > APART * scale)


def _run(seen: Pass, x: Nest) -> Values:
    values = Values()
    with contextlib.suppress(Exception):  # how far it came is what is asked for
        seen.again(x, values, traced=False).run(x)
    return values


def _outputs(seen: Pass, x: Nest, instead: dict[str, list[Any]]) -> list[Array] | None:
    try:
        return seen.again(x, Values(instead), traced=False).run(x).outputs
    except Exception:
        return None


def _rows(x: Nest, start: int, stop: int) -> Nest:
    return map_nest(lambda leaf: leaf[start:stop], x)
