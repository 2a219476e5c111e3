"""Arrays, nests, `tf.data`, `PyDataset`, generators: one bounded, validated set of rows."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pytest_bnconsistency.errors import DataError

Array = npt.NDArray[Any]
Nest = Any
"""An array, or a dict, list or tuple of nests."""


@dataclass(frozen=True)
class Spec:
    """One input of a model: `shape` without the batch axis, None where any size fits.

    `vocabulary` is the number of valid ids of an integer input, `values` are they, where they are
    not 0 to `vocabulary` - 1. `rows` is the number of rows where the model was built for one only.
    """

    shape: tuple[int | None, ...]
    dtype: str
    name: str = "x"
    vocabulary: int = 2
    values: tuple[int, ...] = ()
    rows: int | None = None


@dataclass
class Rest:
    """Rows that are not kept in memory, in batches that are read and checked one by one.

    `total` is the number of all rows, those that are kept included, where it is known. A data
    set is read once: a second loop finds nothing of a generator.
    """

    batches: Iterable[Data]
    total: int | None = None

    def __iter__(self) -> Iterator[Data]:
        return iter(self.batches)

    def of(self, size: int) -> Iterator[Data]:
        """The rows' x in batches of `size` at most; smaller ones of one shape are joined."""

        def shapes(x: Nest) -> list[tuple[int, ...]]:
            return [leaf.shape[1:] for leaf in flatten(x)]

        waiting: list[Nest] = []
        for batch in self:
            fits = sum(map(rows_of, waiting)) + batch.rows <= size
            if waiting and not (fits and shapes(batch.x) == shapes(waiting[0])):
                yield from Data(_join(waiting, "x")).batches(size)
                waiting = []
            waiting.append(batch.x)
        if waiting:
            yield from Data(_join(waiting, "x")).batches(size)


Kind = Literal["", "ragged", "sparse"]
"""What a tensor is that holds rows otherwise than an array does, which stands for it here."""


@dataclass(frozen=True)
class Given:
    """An array of x as a user gives it: its place among those of the model, dtype and kind."""

    place: int
    dtype: Any
    kind: Kind = ""


@dataclass(frozen=True)
class Form:
    """How a user gives rows, where the model gets them otherwise.

    `x` is the user's nest, of `Given`. `alone` says that a batch of a data set is x without a
    tuple around it, `tensors` that its parts are tensors.
    """

    x: Nest
    streamed: bool = False
    alone: bool = False
    tensors: bool = False

    def applied(self, x: Nest) -> Nest:
        """Arrays in the model's nest as the user gives them."""
        leaves = flatten(x)

        def fill(part: Nest) -> Nest:
            if isinstance(part, Given):
                return leaves[part.place].astype(part.dtype, copy=False)
            if isinstance(part, Mapping):
                return {key: fill(item) for key, item in part.items()}
            return [fill(item) for item in part]

        return fill(self.x)


@dataclass(frozen=True)
class Data:
    """Rows for a model: arrays of shape `(rows, ...)` in the nest that the model takes."""

    x: Nest
    y: Nest | None = None
    sample_weight: Array | None = None
    notes: tuple[str, ...] = field(default=())
    batch_size: int | None = None
    """The size of the batches of a data set that comes in batches."""
    rest: Rest | None = None
    """What was given beyond these rows."""
    empty_batches: int = 0
    form: Form | None = None

    @property
    def rows(self) -> int:
        return rows_of(self.x)

    def take(self, rows: Sequence[int] | slice | Array) -> Data:
        """The rows `rows`, in that order; a copy, never a view of the user's arrays."""
        index = np.arange(self.rows)[rows] if isinstance(rows, slice) else np.asarray(rows, int)
        weight = self.sample_weight
        return Data(
            map_nest(lambda leaf: leaf[index], self.x),
            None if self.y is None else map_nest(lambda leaf: leaf[index], self.y),
            None if weight is None else weight[index],
            self.notes,
            form=self.form,
        )

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of the arrays of x, in the order of `flatten`; none where all are arrays."""
        given = [] if self.form is None else flatten(self.form.x)
        kinds = [leaf.kind for leaf in sorted(given, key=lambda leaf: leaf.place)]
        return kinds if any(kinds) else []

    def as_given(self) -> Nest:
        """x in the nest and in the dtypes in which the user gives it."""
        return self.x if self.form is None else self.form.applied(self.x)

    def batches(self, size: int) -> Iterator[Data]:
        for start in range(0, self.rows, size):
            yield self.take(slice(start, start + size))


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
        if not isinstance(value, tuple):
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
    return [np.shape(leaf) for leaf in flatten(_arrays(nest, "x"))]


def _row_shapes(nest: Nest) -> list[tuple[int, ...]]:
    return [shape[1:] for shape in _shapes(nest)]


def _sorted_keys(nest: Mapping[Any, Nest]) -> list[Any]:
    return sorted(nest, key=lambda key: (type(key).__name__, key))


_LIBRARIES = ("builtins", "numpy", "tensorflow", "keras", "tf_keras", __name__.partition(".")[0])


def _fields_of(nest: Nest) -> list[str]:
    """The names of the fields of a record, a dataclass or of attrs, that a model gives."""
    kind = type(nest)
    if isinstance(nest, type) or _is_of_library(kind):
        return []
    if dataclasses.is_dataclass(nest):
        return [part.name for part in dataclasses.fields(nest)]
    return [part.name for part in getattr(kind, "__attrs_attrs__", ())]


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


def _filled(nest: Nest, items: Mapping[Any, Nest]) -> Nest:
    """A mapping or a record such as `nest` with other items, of its class, where that can be."""
    if _is_of_library(type(nest)):
        return dict(items)
    try:
        made = copy.copy(nest)
        for key, item in items.items():
            if isinstance(nest, Mapping):
                made[key] = item
            else:
                object.__setattr__(made, key, item)
    except Exception:  # one that can't be written to
        return dict(items)
    return made


def flatten(nest: Nest) -> list[Any]:
    """The leaves of `nest`, dictionaries in the order of their keys, sorted by type and value."""
    if isinstance(nest, Mapping):
        return [leaf for key in _sorted_keys(nest) for leaf in flatten(nest[key])]
    if isinstance(nest, (list, tuple)):
        return [leaf for item in nest for leaf in flatten(item)]
    if fields := _fields_of(nest):
        return [leaf for name in fields for leaf in flatten(getattr(nest, name))]
    return [nest]


def map_nest(function: Callable[[Any], Any], nest: Nest) -> Nest:
    """`nest` with `function` applied to each leaf."""
    if isinstance(nest, Mapping):
        return _filled(nest, {key: map_nest(function, item) for key, item in nest.items()})
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(map_nest(function, item) for item in nest))
    if isinstance(nest, (list, tuple)):
        return type(nest)(map_nest(function, item) for item in nest)
    if fields := _fields_of(nest):
        return _filled(nest, {name: map_nest(function, getattr(nest, name)) for name in fields})
    return function(nest)


def rebuild(nest: Nest, leaves: Iterable[Any]) -> Nest:
    """The structure of `nest` with other leaves, in the order of `flatten`."""
    remaining = iter(leaves)

    def visit(part: Nest) -> Nest:
        if isinstance(part, Mapping):
            filled = {key: visit(part[key]) for key in _sorted_keys(part)}
            return _filled(part, {key: filled[key] for key in part})
        if isinstance(part, tuple) and hasattr(part, "_fields"):
            return type(part)(*map(visit, part))
        if isinstance(part, (list, tuple)):
            return type(part)(map(visit, part))
        if fields := _fields_of(part):
            return _filled(part, {name: visit(getattr(part, name)) for name in fields})
        return next(remaining)

    return visit(nest)


def is_float(array: Any) -> bool:
    """Whether an array holds floating numbers, bfloat16 included, which numpy does not know."""
    return array.dtype.kind == "f" or str(array.dtype) == "bfloat16"


def distance(mine: Array, its: Array) -> Array:
    """The distance of two arrays of one shape, element by element; inf where one is no number.

    Texts that are not the same are 1 apart.
    """
    if mine.dtype.kind in "OSU":
        return np.asarray(mine != its, float)
    dtype = complex if mine.dtype.kind == "c" else float
    a, b = mine.astype(dtype), its.astype(dtype)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart[(np.isnan(a) & np.isnan(b)) | (a == b)] = 0.0
    return np.asarray(np.nan_to_num(apart, nan=np.inf, posinf=np.inf))


def all_finite(arrays: Iterable[Array]) -> bool:
    numbers = (array for array in arrays if array.dtype.kind not in "OSU")
    return all(
        bool(np.isfinite(array if array.dtype.kind == "c" else array.astype(float)).all())
        for array in numbers
    )


def is_text(array: Any) -> bool:
    """Whether an array holds strings, of any length."""
    return array.dtype == object and all(isinstance(item, (str, bytes)) for item in array.flat)


def rows_of(nest: Nest) -> int:
    return len(flatten(nest)[0])


def read(
    x: Any,
    y: Any,
    specs: Nest | None,
    max_rows: int,
    all_rows: int | None = None,
    weight: Any = None,
) -> Data:
    """`max_rows` rows of what the user gave, checked against the model's inputs, and the rest.

    Of arrays, the rows that are kept are spread over all; of a data set, they are the first.

    Args:
        x: arrays or tensors of shape `(rows, ...)` in a nest, a `tf.data.Dataset` of batches, a
            `PyDataset`, or an iterable of batches `x`, `(x, y)` or `(x, y, sample_weight)`.
        y: targets of shape `(rows, ...)`, or None.
        specs: a nest of `Spec`, or None where the model does not tell its inputs.
        max_rows: how many rows are kept in memory at most.
        all_rows: how many rows there may be with the rest; as many as `max_rows` by default.
        weight: a weight for each row of arrays, or None.

    Raises:
        DataError: no rows, shapes that don't fit, NaN or Inf, or targets of another length.
    """
    all_rows = max(max_rows, all_rows or 0)
    if _is_stream(x):
        if y is not None:
            raise DataError(
                "x is a data set and y was given as well; expected the targets inside the data "
                "set, as (x, y) batches: leave y out"
            )
        return _read_stream(x, specs, max_rows, max_rows if _endless(x) else all_rows)
    given = dataclasses.replace(_checked(x, y, weight, specs), form=_form(x, specs))
    total = given.rows
    if total <= max_rows:
        return _clean(given, specs)
    kept = np.linspace(0, total - 1, max_rows).round().astype(int)
    others = np.setdiff1d(np.arange(total), kept)[: all_rows - max_rows]
    said = f"outputs and loss are those of {max_rows} of {total} rows (option max_rows)"
    if len(others) + max_rows < total:
        said += f", the statistics those of {all_rows} (option statistics_rows)"
    blocks = np.array_split(others, max(1, -(-len(others) // max_rows)))
    rest = Rest(_Blocks(given, specs, blocks), max_rows + len(others)) if len(others) else None
    clean = _clean(given.take(kept), specs)
    return dataclasses.replace(clean, notes=(said,), rest=rest)


@dataclass
class _Blocks:
    """Some rows of arrays that are in memory anyway, a copy of a block at a time."""

    given: Data
    specs: Nest | None
    blocks: Sequence[Array]

    def __iter__(self) -> Iterator[Data]:
        for block in self.blocks:
            yield _clean(self.given.take(block), self.specs)


def _checked(x: Any, y: Any, weight: Any, specs: Nest | None) -> Data:
    """Arrays of as many rows as one another, in the shapes that the model takes."""
    x = _in_order(_arrays(x, "x"), specs)
    total = _check_rows(x, "x")
    _check_inputs(x, specs)
    if y is not None:
        y = _arrays(y, "y")
        if _check_rows(y, "y") != total:
            raise DataError(
                f"y has {_check_rows(y, 'y')} rows and x has {total}; expected one target a row"
            )
    if weight is not None:
        weight = _arrays(weight, "sample_weight")
        if _check_rows(weight, "sample_weight") != total:
            raise DataError(
                f"sample_weight has {len(flatten(weight)[0])} rows and x has {total}; expected "
                "one weight a row"
            )
    return Data(x, y, weight)


def _clean(given: Data, specs: Nest | None) -> Data:
    _check_finite(given)
    return dataclasses.replace(given, x=_as_model_sees(given.x, specs))


KEPT_BYTES, FEWEST_KEPT = 2**26, 64
"""A data set's rows are kept up to this size, and so many of them at least."""


def _read_stream(stream: Any, specs: Nest | None, max_rows: int, all_rows: int) -> Data:
    given = _batches(stream)
    first = next(given, None)
    batches = _parts([] if first is None else itertools.chain([first], given))
    parts: list[tuple[Any, ...]] = []
    sizes: list[int] = []
    for part in batches:
        if not parts:
            _check_batched(part[0], specs)
        parts.append(part)
        arrays = flatten(_arrays(part[0], "x"))
        sizes.append(len(arrays[0]))
        if sizes[-1]:
            row = sum(array.nbytes // sizes[-1] for array in arrays)
            max_rows = min(max_rows, max(FEWEST_KEPT, KEPT_BYTES // max(row, 1)))
        if sum(sizes) >= max_rows:
            break
    if not parts:
        raise DataError("the data set has no batches; expected at least one row")
    full = [part for part, size in zip(parts, sizes, strict=True) if size] or parts[:1]
    joined = [_join([part[i] for part in full], "xyw"[i]) for i in range(len(full[0]))]
    x, y, weight = _three(joined)
    joint = _checked(x, y, weight, specs)
    head = _clean(joint.take(slice(0, max_rows)), specs)
    form = dataclasses.replace(
        _form(full[0][0], specs), streamed=True, alone=not isinstance(first, tuple)
    )
    rest = None
    if sum(sizes) >= max_rows < all_rows:
        over = joint.take(slice(max_rows, None)) if joint.rows > max_rows else None
        rest = Rest(_remaining(over, batches, specs, all_rows - max_rows))
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


def _remaining(
    over: Data | None, batches: Iterator[tuple[Any, ...]], specs: Nest | None, limit: int
) -> Iterator[Data]:
    """Batch after batch, `limit` rows in all; empty batches left out."""

    def following() -> Iterator[Data]:
        if over is not None:
            yield over
        for part in batches:
            if rows_of(_arrays(part[0], "x")):
                x, y, weight = _three(part)
                yield _checked(x, y, weight, specs)

    for batch in following():
        cut = batch.take(slice(0, limit)) if batch.rows > limit else batch
        limit -= cut.rows
        yield _clean(cut, specs)
        if limit <= 0:
            return


def _parts(batches: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        part = batch if isinstance(batch, tuple) else (batch,)
        if not 1 <= len(part) <= 3:
            raise DataError(
                f"a batch of the data set has {len(part)} parts; expected x, (x, y) or "
                "(x, y, sample_weight)"
            )
        yield part


def _three(parts: Sequence[Any]) -> tuple[Any, Any, Any]:
    """x, y and sample_weight, None where a batch has none."""
    x, y, weight = (*parts, None, None)[:3]
    return x, y, weight


def _endless(stream: Any) -> bool:
    """Whether a data set says that it repeats for ever."""
    cardinality = getattr(stream, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def generate(specs: Nest, rows: int, seed: int, size: int) -> Nest:
    """Random rows that fit `specs`; axes of any size get `size`.

    Floats are standard normal, integers are uniform over the vocabulary. Integers along an axis of
    any size end in zeros, from a step on that each row has of its own, and have none before if
    the vocabulary is large: as ids that are padded.
    """
    rng = np.random.default_rng(seed)
    lengths = np.random.default_rng([seed, 1]).permutation(np.linspace(1, size - 1, rows))

    def leaf(spec: Spec) -> Array:
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
        elif spec.dtype == "string":
            raise DataError(
                f"input {spec.name!r} takes strings, which are not generated; give rows "
                "as x, or --bn-data"
            )
        else:
            drawn = rng.standard_normal(shape, np.float32)
        return drawn.astype(numpy_dtype(spec.dtype))

    return map_nest(leaf, specs)


def _is_stream(x: Any) -> bool:
    if isinstance(x, (str, bytes, Mapping, list, tuple)) or hasattr(x, "__array__"):
        return False
    if kind_of(x):
        return False
    return isinstance(x, (Iterable, Iterator)) or (
        hasattr(x, "__getitem__") and hasattr(x, "__len__")
    )


def _batches(stream: Any) -> Iterator[Any]:
    if hasattr(stream, "__getitem__") and hasattr(stream, "__len__"):
        return (stream[i] for i in range(len(stream)))
    return iter(itertools.islice(stream, None))


def _join(parts: list[Any], name: str) -> Nest:
    nests = [_arrays(part, name) for part in parts]
    flat = (_concatenated(leaves, name) for leaves in zip(*map(flatten, nests), strict=True))
    return rebuild(nests[0], flat)


def _concatenated(arrays: Sequence[Array], name: str) -> Array:
    """Batches one after another; sequences, each as long as its batch needs, padded with zeros.

    Raises:
        DataError: their rows are unlike in another way.
    """
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) == 1:
        return np.concatenate(arrays)
    if len({(len(shape), shape[1:]) for shape in shapes}) > 1 or not all(shapes):
        told = ", ".join(map(str, sorted(shapes)[:3]))
        raise DataError(
            f"batches of the data set have rows of unlike shapes in {name}: {told}; expected one "
            "shape, or sequences that differ in their length alone"
        )
    longest = max(shape[0] for shape in shapes)
    wide = [
        np.concatenate(
            [a, np.full((len(a), longest - a.shape[1], *a.shape[2:]), _nothing(a), a.dtype)], 1
        )
        for a in arrays
    ]
    return np.concatenate(wide)


def _nothing(array: Array) -> Any:
    """What pads an array: as `padded_batch` does."""
    return type(array.flat[0])() if array.dtype == object and array.size else 0


def doubles_in(x: Any) -> Nest | None:
    """The `Spec`s of arrays, where some hold doubles; None of a data set, which is read once."""
    if _is_stream(x):
        return None
    specs = map_nest(lambda leaf: Spec(leaf.shape[1:], str(leaf.dtype)), _arrays(x, "x"))
    return specs if any(spec.dtype == "float64" for spec in flatten(specs)) else None


def kind_of(value: Any) -> Kind:
    """Whether a tensor is ragged or sparse, told by what it offers."""
    if hasattr(value, "to_tensor") and hasattr(value, "row_splits"):
        return "ragged"
    return "sparse" if hasattr(value, "dense_shape") and hasattr(value, "indices") else ""


def _dense(value: Any) -> Any:
    """A ragged or sparse tensor as an array, with zeros or empty texts where it holds nothing."""
    kind = kind_of(value)
    if not kind:
        return value
    import tensorflow as tf

    return value.to_tensor() if kind == "ragged" else tf.sparse.to_dense(tf.sparse.reorder(value))


def _arrays(nest: Any, name: str) -> Nest:
    if isinstance(nest, (list, tuple)) and nest and not _holds_arrays(nest):
        try:
            nest = np.asarray(nest)
        except ValueError as error:
            raise DataError(
                f"{name} is a list of rows of unlike length; expected arrays of shape (rows, ...)"
            ) from error
    if isinstance(nest, (list, tuple, Mapping)) and not nest:
        raise DataError(f"{name} is empty; expected at least one row")

    def leaf(value: Any) -> Array:
        try:
            array = np.asarray(_dense(value))
        except Exception as error:
            raise DataError(
                f"{name} holds {type(value).__name__}, which is no array ({error}); expected "
                "arrays of shape (rows, ...)"
            ) from error
        if array.dtype.kind in "US":
            array = array.astype(object)  # texts of any length, as TensorFlow's own arrays
        if (array.dtype == object and not is_text(array)) or array.ndim == 0:
            kind = type(value).__name__ if array.dtype == object else f"a single {array.dtype}"
            raise DataError(f"{name} holds {kind}; expected arrays of shape (rows, ...)")
        return array

    return map_nest(leaf, nest)


def _holds_arrays(nest: Any) -> bool:
    return any(hasattr(leaf, "__array__") and np.ndim(leaf) > 0 for leaf in flatten(nest))


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
    if not (isinstance(x, Mapping) and isinstance(specs, (Mapping, list, tuple))):
        return x
    listed = not isinstance(specs, Mapping)
    if listed and not all(isinstance(spec, Spec) for spec in specs):
        return x
    names = [spec.name for spec in specs] if listed else list(specs)
    if missing := set(names) - set(x):
        raise DataError(
            f"x lacks the inputs {', '.join(sorted(missing))}; expected {', '.join(sorted(names))}"
        )
    return [x[name] for name in names] if listed else {name: x[name] for name in names}


def _form(x: Any, specs: Nest | None) -> Form:
    """How `x`, as the user gives it, becomes what the model takes."""
    arrays = _arrays(x, "x")
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
            f"x has {len(given)} arrays; the model takes {len(wanted)} inputs: {names}"
            + "; give targets as y, not with x" * several
        )
    for spec, array in zip(wanted, given, strict=True):
        shape = array.shape[1:]
        if not fits(shape, spec.shape) and not _keras_adjusts(shape, spec.shape):
            expected = ", ".join("any" if axis is None else str(axis) for axis in spec.shape)
            raise DataError(
                f"x has shape {array.shape} for input {spec.name!r}; expected (rows, {expected})"
                if spec.shape
                else f"x has shape {array.shape} for input {spec.name!r}; expected (rows,)"
            )


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether an array's shape is one that is wanted, None where any size fits."""
    return len(shape) == len(wanted) and all(
        want in (None, have) for want, have in zip(wanted, shape, strict=True)
    )


def _keras_adjusts(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Keras adds or drops a last axis of one."""
    longer, shorter = sorted((shape, wanted), key=len, reverse=True)
    return len(longer) == len(shorter) + 1 and longer[-1] == 1


def _check_finite(given: Data) -> None:
    for name, nest in (("x", given.x), ("y", given.y)):
        for leaf in flatten(nest) if nest is not None else []:
            if not is_float(leaf):
                continue
            bad = ~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
            if bad.any():
                raise DataError(
                    f"{name} has NaN or Inf in {int(bad.sum())} of {len(bad)} rows (the first is "
                    f"row {int(bad.argmax())}); expected finite numbers: drop those rows, the "
                    "checks make their own NaN companions"
                )


def _as_model_sees(x: Nest, specs: Nest | None) -> Nest:
    """`x` with doubles in the precision of the model's inputs, as `predict` casts them."""
    dtypes = iter([spec.dtype for spec in flatten(specs)] if specs is not None else [])

    def leaf(array: Array) -> Array:
        wanted = next(dtypes, "float32")
        if array.dtype == np.float64:
            wanted = wanted if wanted.startswith(("float", "bfloat")) else "float32"
            return array.astype(numpy_dtype(wanted))
        return array

    return rebuild(x, [leaf(array) for array in flatten(x)])


def numpy_dtype(name: str) -> Any:
    return np.dtype("float32" if name == "bfloat16" else name)
