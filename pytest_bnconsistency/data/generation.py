"""The arrays that a recipe stands for.

Random numbers are made of the raw bits of PCG64 by whole-number arithmetic alone, so that a
recipe gives the same bits on every machine and with every version of numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import (
    Array,
    Nest,
    Spec,
    flatten,
    is_float,
    map_nest,
    numpy_dtype,
    rebuild,
)
from pytest_bnconsistency.data.recipes import OF_DATA, Recipe, Row
from pytest_bnconsistency.errors import DataError


@dataclass(frozen=True)
class Source:
    """What recipes are made into arrays with.

    `specs` is a nest of `Spec`. `data` are the rows that `data 5` speaks of, in the same nest.
    Floats are held between `low` and `high`, whole numbers as well. `size` is the length of axes
    that may be of any, where the recipe does not say.
    """

    specs: Nest
    data: Nest | None = None
    low: float = -math.inf
    high: float = math.inf
    size: int = 32

    def expand(self, recipe: Recipe) -> Nest:
        """Arrays of shape `(recipe.count, ...)`, in the nest of `specs`.

        Raises:
            DataError: the recipe speaks of data, and there is none, or an input takes strings.
        """
        size = self.size if recipe.size is None else recipe.size
        data = [None] * len(flatten(self.specs)) if self.data is None else flatten(self.data)
        leaves = [
            self._leaf(spec, sample, recipe, index, size)
            for index, (spec, sample) in enumerate(zip(flatten(self.specs), data, strict=True))
        ]
        return rebuild(self.specs, leaves)

    def _leaf(
        self, spec: Spec, sample: Array | None, recipe: Recipe, index: int, size: int
    ) -> Array:
        _refuse_strings(spec)
        shape = tuple(size if axis is None else axis for axis in spec.shape)
        dtype = numpy_dtype(spec.dtype) if sample is None else sample.dtype
        batch: Array = np.zeros((recipe.count, *shape), dtype)
        for place in range(recipe.count):
            row = recipe.row(place)
            with np.errstate(over="ignore"):  # narrow floats have no room for a hundredfold
                batch[place] = self._row(row, spec, sample, batch, index)
            if row.spike is not None and batch[place].size:
                self._spike(batch[place : place + 1], row.spike, row.place, spec)
        return batch

    def _row(self, row: Row, spec: Spec, sample: Array | None, batch: Array, index: int) -> Array:
        """A row of the input at `index`, for a batch in which those before it stand."""
        if row.kind == "like":
            made: Array = batch[row.row]
        elif row.kind in OF_DATA:
            made = _of_sample(row, sample)
        elif is_float(batch) and not _is_mask(spec):
            made = self._floats(row, batch.shape[1:], index)
        else:
            made = self._ids(row, spec, batch.shape[1:], index)
            made = np.asarray(spec.values)[made] if spec.values else made
        bounded = is_float(batch) and (math.isfinite(self.low) or math.isfinite(self.high))
        return np.clip(made, self.low, self.high) if bounded else made

    def _floats(self, row: Row, shape: tuple[int, ...], index: int) -> Array:
        if row.kind == "random":
            drawn: Array = self._random(row, math.prod(shape), index).reshape(shape)
            return drawn
        made: Array = np.full(shape, row.amount if row.kind == "constant" else 0, np.float32)
        return made

    def _random(self, row: Row, count: int, index: int) -> Array:
        if math.isinf(self.low) or math.isinf(self.high):
            drawn: Array = _normal(row.seed, index, count) * np.float32(row.amount)
            return drawn
        # Spread over the bounds instead of piled up at them.
        share = (_raw(row.seed, index, count) >> np.uint64(40)).astype(np.float32) / 2**24
        largest = max(abs(self.low), abs(self.high)) or 1.0
        drawn = self.low + (self.high - self.low) * share
        drawn *= np.float32(min(1.0, abs(row.amount) / largest))
        return drawn

    def _ids(self, row: Row, spec: Spec, shape: tuple[int, ...], index: int) -> Array:
        if _is_mask(spec):
            valid = np.ones(shape)
            if row.kind == "random" and shape:
                length = 1 + _raw(row.seed, index, 1)[0] % shape[-1]
                valid[..., int(length) :] = 0
            return valid
        low, high = self._range(spec)
        if row.kind == "random":
            drawn = _raw(row.seed, index, math.prod(shape)) % np.uint64(high - low + 1)
            made: Array = drawn.astype(np.int64).reshape(shape) + low
            return made
        value = row.amount if row.kind == "constant" else 0
        return np.full(shape, int(min(max(value, low), high)))

    def _range(self, spec: Spec) -> tuple[int, int]:
        """The first and the last valid number of an input of whole numbers."""
        last = 1 if spec.dtype == "bool" else spec.vocabulary - 1
        if _is_length(spec):
            axes = [s.shape[0] or self.size for s in flatten(self.specs) if s.shape]
            return 1, max([1, *axes])
        low = 0 if math.isinf(self.low) else max(0, math.ceil(self.low))
        return low, last if math.isinf(self.high) else min(last, math.floor(self.high))

    def _spike(self, row: Array, value: float, place: int, spec: Spec) -> None:
        """Set one element of a batch of one row."""
        place %= row.size
        if is_float(row):
            with np.errstate(over="ignore"):
                row.flat[place] = (
                    value if math.isnan(value) else min(max(value, self.low), self.high)
                )
        elif math.isfinite(value) and not _is_mask(spec):
            low, high = self._range(spec)
            bounded = int(min(max(value, low), high))
            row.flat[place] = spec.values[bounded] if spec.values else bounded


def _check_shape(spec: Spec) -> None:
    if spec.shape is None:
        raise DataError(
            f"input {spec.name!r} has no shape, not even a number of axes; expected a Spec such "
            "as Spec((32, 32, 3), 'float32')"
        )
    if any(axis is not None and axis < 1 for axis in spec.shape):
        raise DataError(f"input {spec.name!r} has shape {spec.shape}; expected axes of 1 or more")


def checked(source: Source) -> Source:
    """`source`, if some batch can be made with it.

    Raises:
        DataError: a shape or a vocabulary is missing, or the bounds exclude every value.
    """
    if not source.low <= source.high:
        raise DataError(
            f"low={source.low:g} and high={source.high:g} exclude every value; expected low first"
        )
    for spec in flatten(source.specs):
        _check_shape(spec)
        whole = spec.dtype.startswith(("int", "uint"))
        if whole and spec.vocabulary < 1:
            raise DataError(
                f"input {spec.name!r} has a vocabulary of {spec.vocabulary}, so that no id is "
                "valid; expected the number of ids: Spec((16,), 'int32', vocabulary=1000)"
            )
        if whole and not _is_mask(spec):
            low, high = source._range(spec)
            if low > high:
                raise DataError(
                    f"low={source.low:g} and high={source.high:g} exclude every id of input "
                    f"{spec.name!r}; its ids are 0 to {spec.vocabulary - 1}"
                )
    return source


def specs_like(x: Nest) -> Nest:
    """The `Spec`s of given arrays: their shapes, dtypes and the ids that they hold."""

    def spec(leaf: Array) -> Spec:
        whole = leaf.dtype.kind in "iu" and leaf.size
        vocabulary = int(leaf.max()) + 1 if whole else 2
        return Spec(leaf.shape[1:], str(leaf.dtype), "x", max(1, vocabulary))

    return map_nest(spec, x)


def _of_sample(row: Row, sample: Array | None) -> Array:
    if sample is None:
        raise DataError(
            f"the recipe says {str(row)!r}, and no data was given; give the rows that it was "
            "made of"
        )
    mine: Array = sample[row.row % len(sample)]
    made = mine
    if row.kind == "shuffled":
        order = np.argsort(_raw(row.seed, mine.size, mine.size), kind="stable")
        made = mine.reshape(-1)[order].reshape(mine.shape)
    elif row.kind == "times" and is_float(sample):
        made = mine.astype(np.float32) * np.float32(row.amount)
    elif row.kind == "mixed":
        other: Array = sample[row.other % len(sample)]
        share = np.float32(row.amount)
        if is_float(sample):
            made = share * mine.astype(np.float32) + (1 - share) * other.astype(np.float32)
        else:
            chosen = _raw(row.seed, mine.size, mine.size).reshape(mine.shape) % np.uint64(100)
            made = np.where(chosen < share * 100, mine, other)
    return made


def _raw(seed: int, salt: int, count: int) -> Any:
    return np.random.PCG64(np.random.SeedSequence([seed, salt])).random_raw(count)


def _normal(seed: int, salt: int, count: int) -> Array:
    """Sums of four uniform numbers, with mean 0 and standard deviation 1 (float32)."""
    parts = _raw(seed, salt, count).astype("<u8").view("<u2").reshape(count, 4)
    total = parts[:, 0].astype(np.int32)
    for part in (1, 2, 3):
        total += parts[:, part]
    drawn: Array = (total - np.int32(131070)).astype(np.float32) * np.float32(1 / 37837.22711)
    return drawn


def _is_mask(spec: Spec) -> bool:
    """Padding masks are ones and then zeros: told by the input's name, for want of another way."""
    return "mask" in spec.name.lower()


def _refuse_strings(spec: Spec) -> None:
    if spec.dtype == "string":
        raise DataError(
            f"input {spec.name!r} takes strings, which are not generated; give rows as x, or "
            "--bn-data"
        )


def _is_length(spec: Spec) -> bool:
    return "length" in spec.name.lower() and spec.dtype.startswith(("int", "uint"))


def generate(specs: Nest, rows: int, seed: int, size: int) -> Nest:
    """Random rows that fit `specs`; axes of any size get `size`.

    Floats are standard normal, integers are uniform over the vocabulary. Integers along an axis of
    any size end in zeros, from a step on that each row has of its own, and have none before if
    the vocabulary is large: as ids that are padded.
    """
    rng = np.random.default_rng(seed)
    lengths = np.random.default_rng([seed, 1]).permutation(np.linspace(1, size - 1, rows))

    def leaf(spec: Spec) -> Array:
        _refuse_strings(spec)
        shape = (rows, *(size if axis is None else axis for axis in spec.shape))
        if spec.dtype.startswith(("int", "uint")):
            padded = bool(spec.shape) and spec.shape[0] is None
            least = int(padded and spec.vocabulary > 2)
            drawn: Array = rng.integers(least, spec.vocabulary, shape)
            if padded:
                drawn[np.arange(size) >= lengths[:, None]] = 0
            drawn = np.asarray(spec.values)[drawn] if spec.values else drawn
        elif spec.dtype == "bool":
            drawn = rng.integers(0, 2, shape)
        else:
            drawn = rng.standard_normal(shape, np.float32)
        return drawn.astype(numpy_dtype(spec.dtype))

    return map_nest(leaf, specs)
