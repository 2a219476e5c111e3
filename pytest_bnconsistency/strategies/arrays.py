"""Batches, drawn as recipes and expanded."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st

from pytest_bnconsistency.data.arrays import Nest, Spec, flatten, rows_of
from pytest_bnconsistency.data.generation import Source, checked, specs_like
from pytest_bnconsistency.data.reading import read
from pytest_bnconsistency.data.recipes import Recipe, Row
from pytest_bnconsistency.errors import DataError

if TYPE_CHECKING:
    from pytest_bnconsistency.models import Subject

SEEDS, PLACES = 2**16, 2**8
DECADES = (1.0, 10.0, 100.0, 1000.0)
NEIGHBOURS = (7, 8, 9, 15, 16, 17, 31, 32, 33)
"""Numbers of rows beside the widths of kernels."""
ANY_ROWS = 2**20

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Pair(NamedTuple):
    """Two batches of one shape that share their first row, and nothing else that counts."""

    first: Nest
    second: Nest


def batches(
    model_or_spec: Any,
    *,
    min_rows: int = 1,
    max_rows: int = 8,
    max_scale: float = 100.0,
    low: float | None = None,
    high: float | None = None,
    size: int | tuple[int, int] | None = None,
    nan: bool = False,
) -> st.SearchStrategy[Nest]:
    """Batches that fit a model's inputs: rows of zeros, constant, random, alike, with an outlier.

    Args:
        model_or_spec: a built model, or a nest of `Spec`.
        min_rows: the smallest number of rows.
        max_rows: the largest.
        max_scale: the largest magnitude of a constant row, and standard deviation of a random one.
        low: the smallest valid number, `0` for pixels; ids of an integer input as well.
        high: the largest.
        size: the length of axes that may be of any, or the shortest and the longest. Without it
            one is taken that the model runs on.
        nan: whether a row may hold one NaN.

    Raises:
        DataError: the model does not tell its inputs, or the bounds exclude every batch.
        UnsupportedSubjectError: the model is not built.
    """
    source, lengths = _source(model_or_spec, low, high, size)
    return _batches(source, min_rows, max_rows, max_scale, nan, lengths)


def batches_like(
    x: Any,
    *,
    min_rows: int = 1,
    max_rows: int = 8,
    max_scale: float = 100.0,
    low: float | None = None,
    high: float | None = None,
    nan: bool = False,
) -> st.SearchStrategy[Nest]:
    """Batches made of sample rows: as they are, mixed, scaled, shuffled inside, repeated, and
    beside rows that are zero, constant or random, or have an outlier.

    Args:
        x: sample rows, as the assertions take them.
        max_scale: the largest factor, as for `batches`; ids stay within those of the sample.

    Raises:
        DataError: `x` has no rows, or the bounds exclude every batch.
    """
    return _batches(source_like(x, low, high), min_rows, max_rows, max_scale, nan, None)


def batch_pairs(
    model_or_spec: Any,
    *,
    min_rows: int = 2,
    max_rows: int = 8,
    max_scale: float = 100.0,
    low: float | None = None,
    high: float | None = None,
    size: int | tuple[int, int] | None = None,
    nan: bool = False,
) -> st.SearchStrategy[Pair]:
    """Pairs of batches of one shape: the same first row among two sets of other rows.

    Args: as for `batches`; NaN is in other rows only.

    Raises:
        DataError: as for `batches`, or `min_rows` leaves a row without other rows.
    """
    if min_rows < 2:
        raise DataError(f"min_rows={min_rows}; expected 2 or more: a row and another row")
    _check_bounds(min_rows, max_rows, max_scale)
    source, lengths = _source(model_or_spec, low, high, size)

    @st.composite
    def pairs(draw: Draw) -> Pair:
        length = None if lengths is None else draw(lengths)
        count = draw(batch_sizes(max_rows, min_rows=min_rows))
        first = draw(rows(0, max_scale))
        sets = [
            {place: draw(rows(place, max_scale, nan=nan)) for place in range(1, count)}
            for _ in range(2)
        ]
        made = [Recipe(count, _described({0: first, **others}), size=length) for others in sets]
        _note_recipes(*made)
        return Pair(*map(source.expand, made))

    return pairs()


@functools.lru_cache(64)
def batch_sizes(max_rows: int = 33, *, min_rows: int = 1) -> st.SearchStrategy[int]:
    """Numbers of rows, those beside powers of two more often than others."""
    _check_bounds(min_rows, max_rows, 1.0)
    near = [size for size in NEIGHBOURS if min_rows <= size <= max_rows]
    if not near:
        return st.integers(min_rows, max_rows)
    # One number, not one of two strategies: Hypothesis before 6.170 stays in the one it drew from.
    sizes = max_rows - min_rows + 1
    drawn = st.integers(min_rows, max_rows + sizes)
    return drawn.map(lambda n: n if n <= max_rows else near[(n - max_rows - 1) % len(near)])


def splits(n: int) -> st.SearchStrategy[list[slice]]:
    """Ways of cutting `n` rows into batches, one batch of all as the simplest."""
    if n < 1:
        raise DataError(f"{n} rows cannot be cut; expected 1 or more")

    def cut(places: set[int]) -> list[slice]:
        edges = [0, *sorted(places), n]
        return [slice(a, b) for a, b in itertools.pairwise(edges)]

    if n == 1:
        return st.just([slice(0, 1)])
    return st.sets(st.integers(1, n - 1), max_size=n - 1).map(cut)


def from_recipe(model_or_spec: Any, recipe: str, *, data: Any = None, size: int = 0) -> Nest:
    """The batch that a recipe of a few words stands for, as a failure prints it.

    Args:
        model_or_spec: as for `batches`; None where `data` is given.
        recipe: `"2 rows; row 1 constant 100"`.
        data: the rows that `data 5` speaks of, as they were given to the check.
        size: the length of axes that may be of any, where the recipe does not say.

    Raises:
        DataError: the text is no recipe, or speaks of data that was not given.
    """
    parsed = Recipe.parse(recipe)
    if data is not None:
        return source_like(data, None, None).expand(parsed)
    known = size or parsed.size
    return _source(model_or_spec, None, None, known)[0].expand(parsed)


@functools.lru_cache(1024)
def rows(
    place: int, largest: float, *, nan: bool = False, data: int = 0
) -> st.SearchStrategy[Row]:
    """Recipes of the row at `place`, the simplest first.

    Args:
        place: where in the batch; only a later row can be like an earlier one.
        largest: the largest magnitude.
        nan: whether a row may hold one NaN.
        data: the number of rows of the sample.
    """
    decades = [amount for amount in DECADES if amount <= largest] or [largest]
    whole = [st.integers(1, int(largest)).map(float)] if largest >= 2 else []
    within = st.floats(0, largest, allow_subnormal=False)
    amount = st.one_of(st.sampled_from(decades), *whole, within)
    signed = st.builds(math.copysign, amount, st.sampled_from((1.0, -1.0)))
    seed, spot = st.integers(0, SEEDS - 1), st.integers(0, PLACES - 1)
    plain = st.just(Row())
    random = st.builds(Row, st.just("random"), st.just(1.0), seed)
    kinds = [
        plain,
        st.builds(Row, st.just("constant"), signed),
        st.builds(Row, st.just("random"), amount, seed),
    ]
    if data:
        row = st.integers(0, data - 1)
        sampled = st.builds(Row, st.just("data"), row=row)
        share = st.sampled_from((0.5, 0.25, 0.75))
        kinds += [
            sampled,
            st.builds(Row, st.just("times"), signed, row=row),
            st.builds(Row, st.just("mixed"), share, row=row, other=row),
            st.builds(Row, st.just("shuffled"), seed=seed, row=row),
        ]
        plain, random = sampled, sampled
    spikes = [signed.map(lambda value: value * 10)]
    if nan:
        spikes.insert(0, st.just(math.nan))
    for spike in spikes:
        spiked = st.one_of(kinds[0], random)
        kinds.append(st.builds(replace, spiked, spike=spike, place=spot))
    if place:  # last, so that a row shrinks to the row before
        kinds.append(st.builds(Row, st.just("like"), row=st.integers(0, place - 1)))
    return st.one_of(kinds)


def source_like(x: Any, low: float | None = None, high: float | None = None) -> Source:
    """What recipes that speak of the rows `x` are expanded with.

    Raises:
        DataError: `x` has no rows, or the bounds exclude every value.
    """
    given = read(x, None, None, ANY_ROWS).x
    return checked(Source(specs_like(given), given, *_bounds(low, high)))


def source_for(model_or_spec: Any) -> Source:
    """What recipes are expanded with for a model's inputs, or for a nest of `Spec`."""
    return _source(model_or_spec, None, None, None)[0]


def _specs(model_or_spec: Any) -> tuple[Subject | None, Nest]:
    """The model, where it is one, and its inputs."""
    if model_or_spec is not None and all(isinstance(s, Spec) for s in flatten(model_or_spec)):
        return None, model_or_spec
    from pytest_bnconsistency.execution.accepted_sizes import specs_of
    from pytest_bnconsistency.models import subject_of

    subject = subject_of(model_or_spec)
    specs = specs_of(subject)
    if specs is None:
        raise DataError(
            f"the input shape of model {subject.name!r} is not known; give a Spec instead: "
            "Spec((32, 32, 3), 'float32')"
        )
    return subject, specs


def _source(
    model_or_spec: Any, low: float | None, high: float | None, size: int | Sequence[int] | None
) -> tuple[Source, st.SearchStrategy[int] | None]:
    """What recipes are expanded with, and the lengths of open axes, where they vary."""
    subject, specs = _specs(model_or_spec)
    shortest, longest = _lengths(size)
    source = checked(Source(specs, None, *_bounds(low, high), size=shortest or 1))
    open_axes = [spec.name for spec in flatten(specs) if None in spec.shape]
    if size is not None or not open_axes:
        lengths = st.integers(shortest, longest) if shortest < longest and open_axes else None
        return source, lengths
    if subject is None:
        raise DataError(
            f"input {open_axes[0]!r} has axes of unknown length, and a Spec cannot be tried out; "
            "say how long they are: size=32, or size=(4, 64)"
        )
    from pytest_bnconsistency.execution.accepted_sizes import fitting_size

    sample = Recipe(1, rest=Row("random", 1.0))
    bounds = _bounds(low, high)
    fitting = fitting_size(
        subject, lambda size: Source(specs, None, *bounds, size=size).expand(sample)
    )
    return Source(specs, None, *bounds, size=fitting), None


def _batches(
    source: Source,
    min_rows: int,
    max_rows: int,
    max_scale: float,
    nan: bool,
    lengths: st.SearchStrategy[int] | None,
) -> st.SearchStrategy[Nest]:
    _check_bounds(min_rows, max_rows, max_scale)
    sample = 0 if source.data is None else rows_of(source.data)

    @st.composite
    def drawn(draw: Draw) -> Nest:
        length = None if lengths is None else draw(lengths)
        count = draw(batch_sizes(max_rows, min_rows=min_rows))
        made = {
            place: draw(rows(place, max_scale, nan=nan, data=sample)) for place in range(count)
        }
        recipe = Recipe(count, _described(made), size=length)
        _note_recipes(recipe)
        return source.expand(recipe)

    return drawn()


def _described(made: dict[int, Row]) -> dict[int, Row]:
    """The rows that a recipe has to speak of: rows of zeros go without saying."""
    return {place: row for place, row in made.items() if row != Row()}


def _note_recipes(*recipes: Recipe) -> None:
    # Shown with a failing example only, beside arrays that nobody reads.
    if currently_in_test_context():
        note("batch: " + ", and ".join(map(str, recipes)))


def _lengths(size: int | Sequence[int] | None) -> tuple[int, int]:
    if size is None:
        return 0, 0
    shortest, longest = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if not 1 <= shortest <= longest:
        raise DataError(f"size={size!r}; expected 1 or more, or the shortest and the longest")
    return int(shortest), int(longest)


def _bounds(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else low, math.inf if high is None else high


def _check_bounds(min_rows: int, max_rows: int, max_scale: float) -> None:
    if not 1 <= min_rows <= max_rows:
        raise DataError(f"min_rows={min_rows} and max_rows={max_rows}; expected 1 <= min <= max")
    if not 0 < max_scale < math.inf:
        raise DataError(f"max_scale={max_scale}; expected a positive number")
