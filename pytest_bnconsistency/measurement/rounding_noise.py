"""The noise floor of a subject.

Float noise is what the same computation gives by another order of operations. How much of it
reaches the outputs depends on the network, so it is measured on the network: every layer's
output is multiplied by 1 +- eps/2 with random signs, eps of that output's dtype.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    distance,
    is_float,
    map_nest,
    rows_of,
    take_rows,
)
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument
from pytest_bnconsistency.execution.state import same_bits
from pytest_bnconsistency.measurement.monte_carlo_rounding import (
    EPSILON,
    LOWER,
    MonteCarloRounding,
    MonteCarloRoundingOfOperations,
)

QUICK, THOROUGH = 1, 6
"""Draws for the first look, on the first row, and for a row that seems to move by more."""
TOGETHER = 8
"""Rows that one draw measures, where many seem to move by more."""
MULTIPLE = 4.0
"""The bound is this many floors: docs/how-it-decides/batch_invariance.md has the calibration."""
UNITS = 4.0
"""A floor without layers to shake, in units of the last place of the largest output."""
FLIPS = 1e-4
"""The share of a row's whole numbers, texts or decisions that may always be others."""
NOISE_DOMINATED = 0.1
"""Where noise explains this share of the outputs' scale, nothing can be told from a change."""
TRUSTED = 2.0**13
"""What is seen of whole layers explains so many units of the outputs' scale at most.

Where it is more, single operations tell: a layer's output may cancel, or be masked away.
"""


@dataclass(frozen=True)
class Floor:
    """Noise of one output tensor in its own units; of whole numbers and texts, the share of them.

    `scale` is its largest magnitude; `lower` the noise of the next lower precision, or the least
    that it can be where that caps nothing.
    """

    floor: float
    scale: float
    lower: float
    least: float = 0.0

    @property
    def bound(self) -> float:
        # A draw is larger than what rounding does: a quarter of it is what a network computed in
        # the lower precision moves by at least. Where a draw dominates the output, rounding
        # decides, and a lower precision may move it as little.
        dominated = self.floor > NOISE_DOMINATED * self.scale > 0
        cap = self.floor if dominated else self.lower / 4
        return max(self.least, min(MULTIPLE * self.floor, cap))

    def explains(self, sides: int, believed: float) -> float:
        """What it explains between two runs, as far as it is `believed`: a share of the scale."""
        explained = sides * self.bound
        return min(explained, believed * self.scale) if self.scale else explained

    @property
    def uncapped(self) -> bool:
        """Whether more noise of the lower precision would leave the bound as it is."""
        return max(self.least, MULTIPLE * self.floor) <= max(self.least, self.lower / 4)


@dataclass(frozen=True)
class Moved:
    """The row of an output that moves farthest beyond its noise: by `change`, against `bound`."""

    row: int
    change: float
    bound: float
    scale: float

    @property
    def margin(self) -> float:
        if self.noise_dominated and not np.isfinite(self.bound):
            return 0.0  # an overflow comes and goes with rounding
        if self.bound:
            return self.change / self.bound
        return np.inf if self.change > 0 else 0.0  # other bits of one value: -0.0, or another NaN

    @property
    def beyond(self) -> bool:
        """Whether noise does not explain it."""
        return self.margin > 1 and not self.noise_dominated

    @property
    def large(self) -> bool:
        """Whether noise does not explain it, or explains it only because it drowns everything."""
        return self.beyond or (self.noise_dominated and self.change > NOISE_DOMINATED * self.scale)

    @property
    def dominated(self) -> bool:
        """Whether noise may move the output by as much as it is large."""
        return self.bound >= self.scale > 0

    @property
    def noise_dominated(self) -> bool:
        """Whether noise may move the output by so much that a change tells nothing."""
        return self.bound > NOISE_DOMINATED * self.scale > 0


class Noise:
    """What float noise does to the outputs of a pass on rows `x`, measured as far as asked for.

    At first only the rounding of what layers give is measured, on the first row. A row that
    moves by more is measured itself, since the network may be ill-conditioned on it, and with the
    rounding of sums inside of layers, whose length is not known: that of a row at most. What so
    is measured is believed as far as it is small: a layer may take huge values back, or mask them
    away. If a row moves by more than that, the rounding of single operations tells.

    A draw is a run of a row beside the next one, beside others that are measured with it, or
    beside all if two rows are refused. `undisturbed` is what the pass gives outside of a graph for
    the first two rows, where that is known.
    """

    def __init__(self, seen: Pass, x: Nest, undisturbed: list[Array] | None = None) -> None:
        self._seen, self._x, self._count = seen, x, 2
        self._undisturbed: dict[tuple[int, ...], list[Array]] = {}
        if undisturbed is not None:
            self._undisturbed[0,] = undisturbed
        self._rows: dict[int, list[Floor]] = {}
        self._first: list[Floor] | None = None
        self._inner: dict[int, list[Floor]] = {}

    @property
    def floors(self) -> list[Floor]:
        """The noise of the first row, one for each output."""
        if self._first is None:
            (self._first,) = self._measure((0,), QUICK, sums=False)
        return self._first

    def compare(
        self, output: int, mine: Array, its: Array, rows: Array, *, sides: int = 1
    ) -> Moved | None:
        """How far an output moved between two runs; None if its bits are the same.

        `mine` and `its` are the output of rows `rows` of `x`, of shape `(len(rows), ...)`;
        `sides` says how many of the two have noise of their own. The scale is that of both.
        """
        if same_bits(np.ascontiguousarray(mine), np.ascontiguousarray(its)):
            return None
        by_row, scales = _changes(mine, its), np.maximum(_scales(mine), _scales(its))
        overflowing = _overflow(mine, its) | _overflow(its, mine)

        def moved(row: int, floors: list[Floor], believed: float) -> Moved:
            known = [(self.floors[output], self._trusted), (floors[output], believed)]
            bound = max(floor.explains(sides, share) for floor, share in known)
            if overflowing[row]:
                bound = np.inf
            scale = max(float(scales[row]), *(floor.scale for floor, _ in known))
            return Moved(int(rows[row]), float(by_row[row]), bound, scale)

        worst = moved(int(by_row.argmax()), self.floors, self._trusted)
        if worst.margin <= 1:
            return worst
        explained = []
        farthest = np.argsort(-by_row, kind="stable")[: np.count_nonzero(by_row > worst.bound)]
        for place, row in enumerate(farthest):
            if place:  # where the noise of one explains it, that of the others mostly does
                self._measure_ahead(rows[farthest[place : place + TOGETHER]])
            for measured, believed in ((self.of_row, self._trusted), (self._inside, np.inf)):
                found = moved(int(row), measured(int(rows[row])), believed)
                if not found.beyond:
                    break
            else:
                return found  # one row tells; to measure each costs many runs
            explained.append(found)
        return max(explained, key=lambda one: one.margin)

    def noise_dominates(self, output: int, mine: Array, its: Array, rows: Array) -> bool:
        """Whether noise that explained how far an output moved would drown it: see `Moved.large`.

        The arguments are those of `compare`. No noise has to be measured for the answer.
        """
        by_row, scales = _changes(mine, its), np.maximum(_scales(mine), _scales(its))
        row = int(by_row.argmax())
        drawn = (self._undisturbed_of((place,))[output] for place in (0, int(rows[row])))
        scale = max(float(scales[row]), *(_scale(output) for output in drawn))
        return bool(by_row[row] > NOISE_DOMINATED * scale > 0)

    @functools.cached_property
    def _trusted(self) -> float:
        """The share of their scale that what is seen of whole layers explains at most."""
        units = [_eps(dtype) for dtype in self._seen.dtypes]
        return min(TRUSTED * max(units, default=1.0), NOISE_DOMINATED)

    def compare_whole(
        self, output: int, mine: Array, its: Array, *, sides: int = 1
    ) -> Moved | None:
        """The same for an output whose rows are not known: the noise of any row may explain it."""
        found = None
        for row in range(rows_of(self._x)):
            found = self.compare(output, mine[None], its[None], np.array([row]), sides=sides)
            if found is None or not found.beyond:
                break
        return found

    def _inside(self, row: int) -> list[Floor]:
        """The noise of a row by the rounding of each operation, where there is a trace."""
        if row not in self._inner:
            rounding, traced = self._operations
            floors, x = self.of_row(row), self._batch((row,))
            if traced.is_traced:
                undisturbed, *draws = (
                    rounding.run(traced, x, mode, seed)
                    for mode, seed in [
                        (rounding.UNDISTURBED, 0),
                        *((rounding.ROUNDED, seed) for seed in range(THOROUGH)),
                    ]
                )
                floors = _floors(0, undisturbed, draws, [], self._count, "")
                if not all(floor.uncapped for floor in floors):
                    lower = [rounding.run(traced, x, rounding.LOWERED, s) for s in range(THOROUGH)]
                    floors = _floors(0, undisturbed, draws, lower, self._count, "")
            self._inner[row] = floors
        return self._inner[row]

    @functools.cached_property
    def _operations(self) -> tuple[MonteCarloRoundingOfOperations, Pass]:
        rounding = MonteCarloRoundingOfOperations()
        with rounding.within():
            return rounding, self._seen.again(self._batch((0,)), Instrument())

    def of_row(self, row: int) -> list[Floor]:
        """The noise of a row of its own, by several draws: one floor for each output."""
        if row not in self._rows:
            (self._rows[row],) = self._measure((row,), THOROUGH, sums=True)
        return self._rows[row]

    def _measure_ahead(self, rows: Array) -> None:
        """Measures rows whose noise will be asked for, in the same draws."""
        new = tuple(int(row) for row in rows if int(row) not in self._rows)
        if self._count == 2 and len(new) > 1:
            with contextlib.suppress(DataError):  # of a model that takes two rows and no others
                self._rows.update(zip(new, self._measure(new, THOROUGH, sums=True), strict=True))

    def _batch(self, rows: tuple[int, ...]) -> Nest:
        """The rows of a draw, first those that are measured."""
        others = (rows[0] + np.arange(self._count)) % rows_of(self._x)
        places = np.array(rows) if len(rows) > 1 else others
        return take_rows(self._x, places)

    def _measure(self, rows: tuple[int, ...], draws: int, *, sums: bool) -> list[list[Floor]]:
        """The largest change of each row over a few draws, in the place where it stood.

        A draw has few rows: outside of a graph, the outputs of all layers may be held at once.
        """
        rounding = [MonteCarloRounding(seed, EPSILON, sums=sums) for seed in range(draws)]
        undisturbed = self._undisturbed_of(rows)
        x = self._batch(rows)
        seen = [self._run(x, s) for s in rounding]
        known = rows_of(x) if any(s.places for s in rounding) else 0
        coarsest = "" if known else max(self._seen.dtypes, key=_eps, default="")

        def floors(lower: list[list[Array]]) -> list[list[Floor]]:
            return [
                _floors(place, undisturbed, seen, lower, known, coarsest)
                for place in range(len(rows))
            ]

        found = floors([])
        if all(floor.uncapped for row in found for floor in row):
            return found
        return floors([self._run(x, MonteCarloRounding(draws, LOWER, sums=False))])

    def _undisturbed_of(self, rows: tuple[int, ...]) -> list[Array]:
        """What the pass gives for a draw in which nothing is rounded."""
        if rows not in self._undisturbed:
            try:
                self._undisturbed[rows] = self._run(self._batch(rows), Instrument())
            except DataError:
                if len(rows) > 1:
                    raise
                self._count = rows_of(self._x)
                self._undisturbed[rows] = self._run(self._batch(rows), Instrument())
        return self._undisturbed[rows]

    def _run(self, x: Nest, instrument: Instrument) -> list[Array]:
        if isinstance(instrument, MonteCarloRounding) and instrument.sums:
            round_randomly = instrument.round_randomly
            x = map_nest(lambda leaf: round_randomly(tf.constant(leaf)).numpy(), x)
        return self._seen.again(x, instrument, traced=False).run(x).outputs


class NoiseLike(Noise):
    """The noise of outputs that only code around a pass gives, which can't be run in it.

    It is what noise does to the outputs of the pass, as a share of their scale, at most.
    """

    def __init__(self, usual: Noise, outputs: Sequence[Array]) -> None:
        super().__init__(usual._seen, usual._x)
        shares = [f.floor / f.scale for f in usual.floors if f.scale]
        lower = [f.lower / f.scale for f in usual.floors if f.scale]

        def floor(output: Array) -> Floor:
            known = _floor(0, output, [], [], 0, max(usual._seen.dtypes, key=_eps, default=""))
            if not known.scale:
                return known
            mine = max([known.floor, *(share * known.scale for share in shares)])
            return replace(
                known, floor=mine, lower=max([known.lower, *(s * known.scale for s in lower)])
            )

        self._first = [floor(output) for output in outputs]

    def of_row(self, row: int) -> list[Floor]:
        return self.floors

    _inside = of_row


def _eps(dtype: str) -> float:
    return EPSILON.get(dtype, 0.0)


def _floors(
    place: int,
    undisturbed: list[Array],
    draws: list[list[Array]],
    lower: list[list[Array]],
    known: int,
    coarsest: str,
) -> list[Floor]:
    """The floor of each output, by what it gives still, in draws, and in the lower precision.

    It is that of the row at `place`; of the whole output, where rows are not first.
    """
    by_output = zip(undisturbed, zip(*draws, strict=True), strict=True)
    return [
        _floor(place, output, seen, [run[index] for run in lower], known, coarsest)
        for index, (output, seen) in enumerate(by_output)
    ]


def _floor(
    place: int,
    undisturbed: Array,
    draws: Sequence[Array],
    lower: Sequence[Array],
    known: int,
    coarsest: str,
) -> Floor:
    """The change of the row at `place`, or of all where rows are not first.

    `known` is the number of rows of a draw, 0 of a black box; it computes in `coarsest`.
    """
    rounding = known > 0 and all(y.shape == undisturbed.shape for y in (*draws, *lower))
    in_rows = bool(undisturbed.ndim) and len(undisturbed) == known

    def mine(output: Array) -> Array:
        return output[place : place + 1] if in_rows else output[None]

    def largest(values: Sequence[Array]) -> float:
        changes = (float(_changes(mine(undisturbed), mine(y)).max(initial=0.0)) for y in values)
        return max(changes, default=0.0)

    noise, low = (largest(draws), largest(lower)) if rounding else (0.0, 0.0)
    if not is_float(undisturbed):
        return Floor(noise, 0.0, low, FLIPS)
    scale = _scale(undisturbed[[place, (place + 1) % known]] if in_rows else undisturbed)
    dtype = max(str(undisturbed.dtype), coarsest, key=_eps)
    # An output that rounds to itself still has half a unit in its last place.
    unit = EPSILON[dtype] * scale
    floor = max(unit, noise) if rounding else UNITS * unit
    return Floor(floor, scale, max(low, LOWER[dtype] * scale))


def _scale(output: Array) -> float:
    """The largest magnitude of an output, as far as it is a finite number."""
    return float(_scales(output[None])[0])


def _scales(output: Array) -> Array:
    """The largest magnitude of each row, as far as it is a finite number."""
    if not is_float(output):
        return np.zeros(len(output))
    sizes = np.abs(output.astype(np.float64)).reshape(len(output), -1)
    return np.asarray(np.where(np.isfinite(sizes), sizes, 0.0).max(axis=1, initial=0.0))


def _overflow(mine: Array, its: Array) -> Array:
    """The rows in which rounding may have taken `mine` beyond what its type holds, as `its`."""
    if not is_float(mine):
        return np.zeros(len(mine), bool)
    name = str(mine.dtype)
    largest = float(tf.as_dtype(name).max) * (1 - EPSILON[name])
    a, b = (values.astype(np.float64).reshape(len(mine), -1) for values in (mine, its))
    return np.asarray(
        (np.isinf(b) & (np.abs(a) >= largest) & (np.sign(a) == np.sign(b))).any(axis=1)
    )


def _changes(mine: Array, its: Array) -> Array:
    """By how much each row changes: at most, or, of what is no float, the share that does."""
    if is_float(mine) or mine.dtype.kind == "c":
        return np.asarray(distance(mine, its).reshape(len(mine), -1).max(axis=1, initial=0.0))
    return np.asarray(np.mean((mine != its).reshape(len(mine), -1), axis=1))
