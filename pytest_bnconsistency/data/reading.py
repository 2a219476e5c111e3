"""What users give, read: arrays, `tf.data`, `PyDataset`, generators."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import (
    Array,
    Kind,
    Nest,
    Spec,
    as_arrays,
    fits,
    flatten,
    is_float,
    join,
    kind_of,
    map_nest,
    numpy_dtype,
    rebuild,
    rows_of,
    take_rows,
)
from pytest_bnconsistency.data.rows import Data, Form, Given, Rest, some_rows
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.words import brief_line, counted


@dataclass(frozen=True)
class Returned:
    """What a function of data returns, as good as `x`, `y` and `sample_weight` of a call.

    That is `x`, `(x, y)` or `(x, y, sample_weight)`; or two or three of these, for training and
    for testing, as in `((x, y), (x_test, y_test))`: then the first of them counts.
    """

    value: Any

    def parts(self, specs: Nest | None) -> tuple[Any, Any, Any, tuple[str, ...]]:
        """x, y, sample_weight, None where there is none, and what a person should know."""
        value = self.value
        if not isinstance(value, tuple) or _are_inputs(value, specs):
            return value, None, None, ()
        notes: tuple[str, ...] = ()
        if _are_sets(value, specs):
            notes = (f"of {len(value)} sets of data the first counts, as the training data",)
            value = value[0] if isinstance(value[0], tuple) else (value[0],)
        if not 1 <= len(value) <= 3:
            raise DataError(
                f"the data has {len(value)} parts; expected x, (x, y) or (x, y, sample_weight)"
            )
        return *_three(value), notes


def _are_inputs(value: tuple[Any, ...], specs: Nest | None) -> bool:
    """Whether `value` is x alone, for a model of several inputs."""
    several = specs is not None and len(flatten(specs)) > 1
    return several and len(flatten(specs)) == sum(len(flatten(part)) for part in value)


def _are_sets(value: tuple[Any, ...], specs: Nest | None) -> bool:
    """Whether `value` holds sets of data, rather than x and y that are tuples themselves."""
    if not 2 <= len(value) <= 3:
        return False
    if all(map(_is_stream, value)):
        return True
    if not all(isinstance(part, tuple) and 2 <= len(part) <= 3 for part in value):
        return False
    first, last = value[0], value[-1]
    if specs is not None:
        inputs = len(flatten(specs))
        return len(_shapes(first)) != inputs == len(_shapes(first[0]))
    if any(len({shape[:1] for shape in _shapes(part)}) > 1 for part in value):
        return False  # rows of one set are as many in x as in y
    unlike = _row_shapes(first[0]) != _row_shapes(first[1])
    more_rows = _shapes(first[0])[0][:1] != _shapes(last[0])[0][:1]
    return _row_shapes(first[0]) == _row_shapes(last[0]) and (unlike or more_rows)


def _shapes(nest: Nest) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in flatten(as_arrays(nest, "x"))]


def _row_shapes(nest: Nest) -> list[tuple[int, ...]]:
    return [shape[1:] for shape in _shapes(nest)]


def _never(rows: Nest) -> bool:
    return False


def read(
    x: Any,
    y: Any,
    specs: Nest | None,
    max_rows: int,
    all_rows: int | None = None,
    weight: Any = None,
    takes_nan: Callable[[Nest], bool] = _never,
) -> Data:
    """`max_rows` rows of what the user gave, checked against the model's inputs, and the rest.

    Of arrays, the rows that are kept are drawn from all; of a data set, they are the first.

    Args:
        x: arrays or tensors of shape `(rows, ...)` in a nest, a `tf.data.Dataset` of batches, a
            `PyDataset`, or an iterable of batches `x`, `(x, y)` or `(x, y, sample_weight)`.
        y: targets of shape `(rows, ...)`, or None.
        specs: a nest of `Spec`, or None where the model does not tell its inputs.
        max_rows: how many rows are kept in memory at most.
        all_rows: how many rows there may be with the rest; as many as `max_rows` by default.
        weight: a weight for each row of arrays, or None.
        takes_nan: whether the model gives numbers for some rows that hold NaN.

    Raises:
        DataError: no rows, shapes that don't fit, Inf, NaN that the model does not take, or
            targets of another length.
    """
    all_rows = max(max_rows, all_rows or 0)
    clean = partial(_clean, specs=specs, takes_nan=takes_nan)
    if _is_stream(x):
        if y is not None:
            raise DataError(
                "x is a data set and y was given as well; expected the targets inside the data "
                "set, as (x, y) batches: leave y out"
            )
        return _read_stream(x, specs, clean, max_rows, max_rows if _endless(x) else all_rows)
    given = dataclasses.replace(_checked(x, y, weight, specs), form=_form(x, specs))
    total = given.rows
    if total <= max_rows:
        return clean(given)
    kept = some_rows(total, max_rows)
    others = np.setdiff1d(np.arange(total), kept)[: all_rows - max_rows]
    said = f"outputs and loss are those of {max_rows} of {total} rows (option max_rows)"
    if len(others) + max_rows < total:
        said += f", the statistics those of {all_rows} (option statistics_rows)"
    blocks = np.array_split(others, max(1, -(-len(others) // max_rows)))
    rest = Rest(_Blocks(given, clean, blocks), max_rows + len(others)) if len(others) else None
    return dataclasses.replace(clean(given.take(kept)), notes=(said,), rest=rest)


@dataclass
class _Blocks:
    """Some rows of arrays that are in memory anyway, a copy of a block at a time."""

    given: Data
    clean: Callable[[Data], Data]
    blocks: Sequence[Array]

    def __iter__(self) -> Iterator[Data]:
        for block in self.blocks:
            yield self.clean(self.given.take(block))


def _checked(x: Any, y: Any, weight: Any, specs: Nest | None) -> Data:
    """Arrays of as many rows as one another, in the shapes that the model takes."""
    x = _in_order(as_arrays(x, "x"), specs)
    total = _check_rows(x, "x")
    _check_inputs(x, specs)
    if y is not None:
        y = as_arrays(y, "y")
        if _check_rows(y, "y") != total:
            raise DataError(
                f"y has {_check_rows(y, 'y')} rows and x has {total}; expected one target a row"
            )
    if weight is not None:
        weight = as_arrays(weight, "sample_weight")
        if _check_rows(weight, "sample_weight") != total:
            raise DataError(
                f"sample_weight has {len(flatten(weight)[0])} rows and x has {total}; expected "
                "one weight a row"
            )
    return Data(x, y, weight)


def _clean(given: Data, specs: Nest | None, takes_nan: Callable[[Nest], bool]) -> Data:
    _refuse_non_finite("x", given.x, takes_nan)
    if given.y is not None:
        _refuse_non_finite("y", given.y, _never)
    seen = _as_model_sees(given.x, specs)
    for leaf, array in zip(flatten(seen), flatten(given.x), strict=True):
        if leaf.dtype != array.dtype and np.isinf(leaf).any():
            largest = np.nanmax(np.abs(array))
            raise DataError(
                f"x has numbers as large as {largest:.2g}, which {leaf.dtype} can't "
                "hold, as the model takes it; expected smaller ones"
            )
    return dataclasses.replace(given, x=seen)


KEPT_BYTES, FEWEST_KEPT = 2**26, 64
"""A data set's rows are kept up to this size, and so many of them at least."""
EMPTY = 1000
"""After so many batches in a row that are empty, no other is waited for."""


def _read_stream(
    stream: Any,
    specs: Nest | None,
    clean: Callable[[Data], Data],
    max_rows: int,
    all_rows: int,
) -> Data:
    given = _batches(stream)
    start = list(itertools.islice(given, 1))
    batches = _parts(itertools.chain(start, given))
    parts, sizes, max_rows = _kept(batches, specs, max_rows)
    if not parts:
        raise DataError("the data set has no batches; expected at least one row")
    full = [part for part, size in zip(parts, sizes, strict=True) if size] or parts[:1]
    names = ("x", "y", "sample_weight")
    joined = [join([part[i] for part in full], names[i]) for i in range(len(full[0]))]
    x, y, weight = _three(joined)
    joint = _checked(x, y, weight, specs)
    head = clean(joint.take(slice(0, max_rows)))
    form = dataclasses.replace(
        _form(full[0][0], specs), streamed=True, only_x=not isinstance(start[0], tuple)
    )
    rest = None
    if sum(sizes) >= max_rows < all_rows:
        over = joint.take(slice(max_rows, None)) if joint.rows > max_rows else None
        following = _following(over, batches, specs)
        rest = Rest(map(clean, _limited(following, all_rows - max_rows)))
    notes: tuple[str, ...] = ()
    if sum(sizes) > max_rows or rest is not None:
        notes = (f"outputs and loss are those of the first {max_rows} rows (option max_rows)",)
    return dataclasses.replace(
        head,
        notes=notes,
        batch_size=max(sizes),
        rest=rest,
        empty_batches=sizes.count(0),
        form=form,
    )


def _kept(
    batches: Iterator[tuple[Any, ...]], specs: Nest | None, max_rows: int
) -> tuple[list[tuple[Any, ...]], list[int], int]:
    """The first batches, their sizes, and how many rows of them are kept: as many as are small."""
    parts: list[tuple[Any, ...]] = []
    sizes: list[int] = []
    for part in batches:
        if not parts:
            _check_batched(part[0], specs)
        parts.append(part)
        arrays = flatten(as_arrays(part[0], "x"))
        sizes.append(len(arrays[0]))
        if sizes[-1]:
            row = sum(array.nbytes // sizes[-1] for array in arrays)
            max_rows = min(max_rows, max(FEWEST_KEPT, KEPT_BYTES // max(row, 1)))
        if sum(sizes) >= max_rows:
            break
        if sizes[-EMPTY:] == [0] * EMPTY:
            raise DataError(
                f"{EMPTY} batches of the data set have no rows, one after the other; expected "
                "rows, or its end"
            )
    return parts, sizes, max_rows


def _following(
    over: Data | None, batches: Iterator[tuple[Any, ...]], specs: Nest | None
) -> Iterator[Data]:
    """What is left of the batches that were kept, and those that follow; empty ones left out."""
    if over is not None:
        yield over
    for part in batches:
        if rows_of(as_arrays(part[0], "x")):
            yield _checked(*_three(part), specs)


def _limited(batches: Iterator[Data], limit: int) -> Iterator[Data]:
    """Batch after batch, `limit` rows in all."""
    for batch in batches:
        yield batch.take(slice(0, limit)) if batch.rows > limit else batch
        limit -= batch.rows
        if limit <= 0:
            return


def _parts(batches: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    before = None
    for batch in batches:
        part = batch if isinstance(batch, tuple) else (batch,)
        while len(part) > 1 and part[-1] is None:
            part = part[:-1]
        if not 1 <= len(part) <= 3:
            raise DataError(
                f"a batch of the data set has {len(part)} parts; expected x, (x, y) or "
                "(x, y, sample_weight)"
            )
        if before not in (None, len(part)):
            raise DataError(
                f"a batch of the data set has {counted(len(part), 'part')} and the one before it "
                f"{before}; expected x, (x, y) or (x, y, sample_weight) in all of them"
            )
        before = len(part)
        yield part


def _three(parts: Sequence[Any]) -> tuple[Any, Any, Any]:
    """x, y and sample_weight, None where a batch has none."""
    x, y, weight = (*parts, None, None)[:3]
    return x, y, weight


def _endless(stream: Any) -> bool:
    """Whether a data set says that it repeats for ever."""
    cardinality = getattr(stream, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _is_stream(x: Any) -> bool:
    if isinstance(x, (str, bytes, Mapping, list, tuple)) or hasattr(x, "__array__"):
        return False
    if kind_of(x):
        return False
    return isinstance(x, (Iterable, Iterator)) or (
        hasattr(x, "__getitem__") and hasattr(x, "__len__")
    )


def _batches(stream: Any) -> Iterator[Any]:
    """The batches of a data set.

    Raises:
        DataError: the user's own code raised.
    """
    try:
        if hasattr(stream, "__getitem__") and hasattr(stream, "__len__"):
            yield from (stream[i] for i in range(len(stream)))
        else:
            yield from stream
    except Exception as error:
        raise DataError(
            f"the data set raised {type(error).__name__}: {brief_line(error)}; expected "
            "batches until it ends"
        ) from error


def doubles_in(x: Any) -> Nest | None:
    """The `Spec`s of arrays, where some hold doubles; None of a data set, which is read once."""
    if _is_stream(x):
        return None
    specs = map_nest(lambda leaf: Spec(leaf.shape[1:], str(leaf.dtype)), as_arrays(x, "x"))
    return specs if any(spec.dtype == "float64" for spec in flatten(specs)) else None


def _check_batched(x: Any, specs: Nest | None) -> None:
    """That a data set gives batches, where the model tells the shape of a row."""
    if specs is None:
        return
    wanted, given = flatten(specs), flatten(_in_order(x, specs))
    if len(wanted) == len(given) and all(
        spec.shape not in ((), (1,)) and fits(np.shape(leaf), spec.shape)
        for spec, leaf in zip(wanted, given, strict=True)
    ):
        shape = np.shape(given[0])
        raise DataError(
            f"the data set gives single rows, of shape {shape}; expected batches: write "
            "ds.batch(32)"
        )


def _check_rows(nest: Nest, name: str) -> int:
    sizes = {len(leaf) for leaf in flatten(nest)}
    if len(sizes) > 1:
        raise DataError(f"the parts of {name} have {sorted(sizes)} rows; expected the same")
    if sizes == {0}:
        raise DataError(f"{name} has no rows; expected at least one")
    return sizes.pop()


def _in_order(x: Nest, specs: Nest | None) -> Nest:
    """`x` in the nest of the model, where x names the model's inputs, as Keras takes it.

    Raises:
        DataError: x lacks some of them.
    """
    if not isinstance(x, Mapping):
        return x
    if isinstance(specs, Mapping):
        return {name: x[name] for name in _all_in(x, list(specs))}
    if isinstance(specs, (list, tuple)) and all(isinstance(spec, Spec) for spec in specs):
        return [x[name] for name in _all_in(x, [spec.name for spec in specs])]
    return x


def _all_in(x: Mapping[str, Any], names: list[str]) -> list[str]:
    if missing := set(names) - set(x):
        raise DataError(
            f"x lacks the inputs {', '.join(sorted(missing))}; expected {', '.join(sorted(names))}"
        )
    return names


def _form(x: Any, specs: Nest | None) -> Form:
    """How `x`, as the user gives it, becomes what the model takes."""
    arrays = as_arrays(x, "x")
    leaves = flatten(arrays)
    given = flatten(x)
    kinds: list[Kind] = [kind_of(leaf) for leaf in given] if len(given) == len(leaves) else []
    places = rebuild(arrays, range(len(leaves)))
    order = flatten(_in_order(places, specs))

    def template(part: Nest) -> Nest:
        if isinstance(part, Mapping):
            filled = {key: template(item) for key, item in part.items()}
            return {key: item for key, item in filled.items() if item is not None}
        if isinstance(part, (list, tuple)):
            return [template(item) for item in part]
        if part not in order:
            return None
        return Given(order.index(part), leaves[part].dtype, kinds[part] if kinds else "")

    tensors = any(hasattr(leaf, "numpy") for leaf in given)
    return Form(template(places), tensors=tensors)


def _check_inputs(x: Nest, specs: Nest | None) -> None:
    if specs is None:
        return
    wanted, given = flatten(specs), flatten(x)
    if len(wanted) != len(given):
        names = ", ".join(spec.name for spec in wanted)
        several = isinstance(x, tuple) and len(wanted) < len(given)
        raise DataError(
            f"x has {counted(len(given), 'array')}; the model takes "
            f"{counted(len(wanted), 'input')}: {names}"
            + "; give targets as y, not with x"
            * several
        )
    for spec, array in zip(wanted, given, strict=True):
        shape = array.shape[1:]
        if not fits(shape, spec.shape) and not _keras_adjusts(shape, spec.shape):
            one_row = "; one row is x[None]" if fits(array.shape, spec.shape) else ""
            raise DataError(
                f"x has shape {array.shape} for input {spec.name!r}; expected "
                f"{_shape_of(spec)}{one_row}"
            )


def _shape_of(spec: Spec) -> str:
    axes = ["any" if axis is None else str(axis) for axis in spec.shape]
    return f"(rows, {', '.join(axes)})" if axes else "(rows,)"


def _keras_adjusts(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Keras adds or drops a last axis of one."""
    added = wanted[-1:] == (1,) and fits(shape, wanted[:-1])
    return added or (shape[-1:] == (1,) and fits(shape[:-1], wanted))


def _refuse_non_finite(name: str, nest: Nest, takes_nan: Callable[[Nest], bool]) -> None:
    for leaf in filter(is_float, flatten(nest)):
        bad = ~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
        if bad.any() and (np.isinf(leaf).any() or not takes_nan(take_rows(nest, bad))):
            raise DataError(
                f"{name} has NaN or Inf in {int(bad.sum())} of {len(bad)} rows (the first is "
                f"row {int(bad.argmax())}); expected finite numbers: drop those rows, the "
                "checks add rows with NaN of their own"
            )


def _as_model_sees(x: Nest, specs: Nest | None) -> Nest:
    """`x` with doubles in the precision of the model's inputs, as `predict` casts them."""
    dtypes = iter([spec.dtype for spec in flatten(specs)] if specs is not None else [])

    @np.errstate(over="ignore")  # they are refused
    def leaf(array: Array) -> Array:
        wanted = next(dtypes, "float32")
        if array.dtype == np.float64:
            wanted = wanted if wanted.startswith(("float", "bfloat")) else "float32"
            return array.astype(numpy_dtype(wanted))
        return array

    return rebuild(x, [leaf(array) for array in flatten(x)])
