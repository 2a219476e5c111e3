"""The noise floor of a subject, and leaks injected on purpose.

Float noise is what the same computation gives by another order of operations. How much of it
reaches the outputs depends on the network, so it is measured on the network: every layer's
output is multiplied by 1 +- eps/2 with random signs, eps of that output's dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Array, Nest, distance, map_nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints
from pytest_bnconsistency.probes.state import same_bits
from pytest_bnconsistency.probes.taps import Instrument, Pass, Replay
from pytest_bnconsistency.subjects import Call, Part

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
LOWER = {"float64": 2.0**-23, "float32": 2.0**-10, "float16": 2.0**-7, "bfloat16": 2.0**-3}
"""The eps of the next lower precision: float32, float16, bfloat16, float8 (e4m3)."""
QUICK, THOROUGH = 1, 6
"""Draws for the first look, on the first row, and for a row that seems to move by more."""
AT_ONCE = 2
"""Draws that stand in one batch: outside of a graph, the outputs of all layers may be held."""
MULTIPLE = 4.0
"""The bound is this many floors; docs/reference/oracles.md says what it was calibrated on."""
UNITS = 4.0
"""A floor without layers to shake, in units of the last place of the largest output."""


class Shaken(Instrument):
    """Multiplies outputs by 1 + sign * eps/2 in copies of a row that stand side by side.

    Of `copies` of a row, the first stays as it is, and the last gets the noise of the next lower
    precision. With `sums`, the other copies get the noise that a sum over all n elements of a row
    would have, sqrt(n/2) * eps/2, each element its own. For runs outside of a graph.
    """

    def __init__(self, copies: int, *, sums: bool, seed: int) -> None:
        self.copies, self.sums = copies, sums
        self.places = 0
        self._rng = np.random.default_rng(seed)

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if isinstance(call.layer, Part):
            return outputs, None  # the noise inside is not that of its outputs
        return map_nest(self.shake, outputs), None

    def shake(self, tensor: Any) -> Any:
        if not _floating(tensor) or tensor.shape[0] == 0 or tensor.shape[0] % self.copies:
            return tensor
        self.places += 1
        eps = EPSILON.get(tensor.dtype.name, 2.0**-23)
        lower = LOWER.get(tensor.dtype.name, 2.0**-10)
        copy = np.arange(tensor.shape[0]) // (tensor.shape[0] // self.copies)
        rank, length = tensor.shape.rank, int(np.prod(tensor.shape[1:]))
        own = eps * max(1.0, math.sqrt(length / 2)) if self.sums else eps
        size = np.where(copy == 0, 0.0, np.where(copy == self.copies - 1, lower, own)) / 2
        # Otherwise a sign for each channel and place along the first inner axis: a draw for each
        # element costs more than the network itself.
        every = (0, 1, rank - 1) if not self.sums else range(rank)
        shape = [n if axis in every else 1 for axis, n in enumerate(tensor.shape)]
        signs = 2 * self._rng.integers(0, 2, shape, np.int8) - 1
        moved = signs * size.reshape([-1] + [1] * (rank - 1))
        return _with_mask(tensor + tensor * tf.cast(moved, tensor.dtype), tensor)


class Leak(Fingerprints):
    """Leaks `share` times the batch mean into row 0 at the call of index `place`.

    `placed` says whether that call has given something to leak into. For runs outside of a graph.
    """

    def __init__(self, rows: int, place: int) -> None:
        super().__init__()
        self.share, self.placed = 0.0, False
        self._rows, self.place = rows, place

    def begin(self) -> None:
        self._index = 0

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if self._index == self.place:
            outputs = map_nest(self._leak, outputs)
        self._index += 1
        return super().tap(call, outputs, replay)

    def _leak(self, tensor: Any) -> Any:
        if not _floating(tensor) or tensor.shape[0] % self._rows:
            return tensor
        self.placed = True
        own = tensor.shape[0] // self._rows
        mean = tf.reduce_mean(tensor, axis=0, keepdims=True)
        moved = tensor[:own] + tf.cast(self.share, tensor.dtype) * mean
        return _with_mask(tf.concat([moved, tensor[own:]], 0), tensor)


@dataclass(frozen=True)
class Floor:
    """Noise of one output tensor, in its own units.

    `scale` is its largest magnitude; `lower` the noise of the next lower precision.
    """

    floor: float
    scale: float
    lower: float

    @property
    def bound(self) -> float:
        # A draw is larger than what rounding does: a quarter of it is what a network computed in
        # the lower precision moves by at least.
        return min(MULTIPLE * self.floor, self.lower / 4)


@dataclass(frozen=True)
class Moved:
    """The row of an output that moves farthest beyond its noise: by `change`, against `bound`."""

    row: int
    change: float
    bound: float

    @property
    def margin(self) -> float:
        return self.change / self.bound if self.bound else float(self.change > 0) * np.inf


class Noise:
    """What float noise does to the outputs of a pass on rows `x`, measured as far as asked for.

    At first only the rounding of what layers give is measured, on the first row. A row that
    moves by more is measured itself, since the network may be ill-conditioned on it, and with the
    rounding of sums inside of layers, whose length is not known: that of a row at most.
    """

    def __init__(self, seen: Pass, x: Nest) -> None:
        self._seen, self._x = seen, x
        self._rows: dict[int, list[Floor]] = {}
        self._first: list[Floor] | None = None

    @property
    def floors(self) -> list[Floor]:
        """The noise of the first row, one for each output."""
        if self._first is None:
            self._first = self._measure(0, QUICK)
        return self._first

    def compare(
        self, output: int, mine: Array, its: Array, rows: Array, *, sides: int = 1
    ) -> Moved | None:
        """How far an output moved between two runs; None if its bits are the same.

        `mine` and `its` are the output of rows `rows` of `x`, of shape `(len(rows), ...)`;
        `sides` says how many of the two have noise of their own.
        """
        if same_bits(np.ascontiguousarray(mine), np.ascontiguousarray(its)):
            return None
        by_row = distance(mine, its).reshape(len(rows), -1).max(axis=1, initial=0.0)
        bound = self.floors[output].bound * sides
        worst = Moved(int(rows[by_row.argmax()]), float(by_row.max()), bound)
        if worst.margin <= 1:
            return worst
        own = [
            Moved(int(row), float(change), max(bound, sides * self._of_row(row)[output].bound))
            for row, change in zip(rows, by_row, strict=True)
            if change > bound
        ]
        return max(own, key=lambda moved: moved.margin)

    def _of_row(self, row: int) -> list[Floor]:
        if row not in self._rows:
            few = [
                self._measure(row, AT_ONCE, sums=True, seed=seed)
                for seed in range(0, THOROUGH, AT_ONCE)
            ]
            self._rows[row] = [
                max(drawn, key=lambda f: f.floor) for drawn in zip(*few, strict=True)
            ]
        return self._rows[row]

    def _measure(self, row: int, draws: int, *, sums: bool = False, seed: int = 0) -> list[Floor]:
        """The largest change over a few draws, which stand side by side as copies of the row."""
        copies = map_nest(lambda leaf: np.repeat(leaf[row : row + 1], draws + 2, 0), self._x)
        shaken = Shaken(draws + 2, sums=sums, seed=seed)
        if sums:
            copies = map_nest(lambda leaf: shaken.shake(tf.constant(leaf)).numpy(), copies)
        outputs = self._seen.again(copies, shaken, traced=False).run(copies).outputs
        coarsest = "" if shaken.places else max(self._seen.dtypes, key=_eps, default="")
        return [_floor(output, shaken, coarsest) for output in outputs]


def leak_into(x: Nest, share: float) -> Nest:
    """`x` with `share` times the batch mean in row 0 of every array of floating numbers."""

    def leak(leaf: Array) -> Array:
        leaked: Array = leaf.copy()
        if _is_float(leaf):
            leaked[0] += (share * leaf.astype(np.float64).mean(0)).astype(leaf.dtype)
        return leaked

    return map_nest(leak, x)


def _eps(dtype: str) -> float:
    return EPSILON.get(dtype, 0.0)


def _floor(output: Array, shaken: Shaken, coarsest: str) -> Floor:
    """`coarsest` is the dtype in which a black box computes, if that is not known better."""
    if not _is_float(output):
        return Floor(0.0, 0.0, 0.0)
    exact = output.astype(np.float64)
    scale = float(np.abs(exact).max(initial=0.0))
    dtype = max(str(output.dtype), coarsest, key=_eps)
    # An output that rounds to itself still has half a unit in its last place.
    unit, lower = EPSILON[dtype] * scale, LOWER[dtype] * scale
    if output.ndim == 0 or len(output) != shaken.copies or not shaken.places:
        return Floor(UNITS * unit, scale, lower)
    change = np.nan_to_num(np.abs(exact - exact[0]), posinf=0.0)
    largest = float(change[1:-1].max(initial=0.0))
    return Floor(max(largest, unit), scale, max(float(change[-1].max(initial=0.0)), lower))


def _with_mask(changed: Any, tensor: Any) -> Any:
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        changed._keras_mask = mask
    return changed


def _floating(tensor: Any) -> bool:
    return isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating and tensor.shape.rank > 0


def _is_float(array: Array) -> bool:
    return str(array.dtype) in EPSILON
