"""Arrays and nests of them, and the inputs of a model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


Kind = Literal["", "ragged", "sparse"]
"""What a tensor is that holds rows otherwise than an array does, which stands for it here."""


def sorted_keys(nest: Mapping[Any, Nest]) -> list[Any]:
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


def _parts(nest: Nest) -> list[tuple[Any, Nest]] | None:
    """What `nest` holds, each with its key, place or field's name; None for a leaf."""
    if isinstance(nest, Mapping):
        return [(key, nest[key]) for key in sorted_keys(nest)]
    if isinstance(nest, (list, tuple)):
        return list(enumerate(nest))
    return [(name, getattr(nest, name)) for name in _fields_of(nest)] or None


def flatten(nest: Nest) -> list[Any]:
    """The leaves of `nest`, dictionaries in the order of their keys, sorted by type and value."""
    parts = _parts(nest)
    return [nest] if parts is None else [leaf for _, part in parts for leaf in flatten(part)]


def paths(nest: Nest) -> list[str]:
    """What leads to each leaf, in the order of `flatten`: `images/left`, `0`; empty for a leaf."""
    parts = _parts(nest)
    if parts is None:
        return [""]
    return [f"{key}/{path}".rstrip("/") for key, part in parts for path in paths(part)]


def map_nest(function: Callable[[Any], Any], nest: Nest) -> Nest:
    """`nest` with `function` applied to each leaf."""
    return rebuild(nest, map(function, flatten(nest)))


def take_rows(nest: Nest, rows: slice | Sequence[int] | Array) -> Nest:
    """Some rows of each leaf, by a slice or by their places."""
    return map_nest(lambda leaf: leaf[rows], nest)


def rebuild(nest: Nest, leaves: Iterable[Any]) -> Nest:
    """The structure of `nest` with other leaves, in the order of `flatten`."""
    remaining = iter(leaves)

    def visit(part: Nest) -> Nest:
        if isinstance(part, Mapping):
            filled = {key: visit(part[key]) for key in sorted_keys(part)}
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


def numbers_in(array: Array) -> Array:
    """The elements of an array of floats that are no NaN, flat; a zero where all of them are."""
    numbers: Array = array[~np.isnan(array)]
    return numbers if numbers.size else np.zeros(1, array.dtype)


def distance(mine: Array, its: Array) -> Array:
    """The distance of two arrays of one shape, element by element; inf where one is no number.

    Texts that are not the same are 1 apart.
    """
    if mine.dtype.kind in "OSU":
        return np.asarray(mine != its, float)
    dtype = complex if mine.dtype.kind == "c" else float
    a, b = mine.astype(dtype), its.astype(dtype)
    with np.errstate(invalid="ignore"):
        deviation = np.asarray(np.abs(a - b))  # of single numbers, no array
    deviation[(np.isnan(a) & np.isnan(b)) | (a == b)] = 0.0
    return np.asarray(np.nan_to_num(deviation, nan=np.inf, posinf=np.inf))


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


def join(parts: list[Any], name: str) -> Nest:
    """Batches one after another.

    Raises:
        DataError: they are of unlike structure, or have unlike rows.
    """
    nests = [as_arrays(part, name) for part in parts]
    forms = [map_nest(lambda leaf: "array", nest) for nest in nests]
    if unlike := next((form for form in forms if form != forms[0]), None):
        raise DataError(
            f"batches of the data set give {name} as {forms[0]} and as {unlike}; expected one "
            "structure"
        )
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
        described = ", ".join(map(str, sorted(shapes)[:3]))
        raise DataError(
            f"batches of the data set have rows of unlike shapes in {name}: {described}; expected "
            "one shape, or sequences that differ in their length alone"
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


def kind_of(value: Any) -> Kind:
    """Whether a tensor is ragged or sparse, told by what it offers."""
    if hasattr(value, "to_tensor") and hasattr(value, "row_splits"):
        return "ragged"
    return "sparse" if hasattr(value, "dense_shape") and hasattr(value, "indices") else ""


def dense(value: Any) -> Any:
    """A ragged or sparse tensor as an array, with zeros or empty texts where it holds nothing."""
    kind = kind_of(value)
    if not kind:
        return value
    import tensorflow as tf

    return value.to_tensor() if kind == "ragged" else tf.sparse.to_dense(tf.sparse.reorder(value))


def packed(x: Nest, kinds: Sequence[Kind]) -> Nest:
    """`x` with the ragged and sparse tensors that arrays stand for; `kinds` as `flatten` orders.

    What pads the rows of an array, zeros and empty texts at their ends, is left out.
    """
    if not any(kinds):
        return x
    return rebuild(x, map(_packed, flatten(x), kinds))


def _packed(leaf: Any, kind: Kind) -> Any:
    import tensorflow as tf

    tensor = tf.convert_to_tensor(leaf)
    if kind == "sparse":
        return tf.sparse.from_dense(tensor)
    if kind == "ragged":
        nothing = "" if tensor.dtype == tf.string else tf.zeros([], tensor.dtype)
        return tf.RaggedTensor.from_tensor(tensor, padding=tf.fill(tensor.shape[2:], nothing))
    return leaf


def as_arrays(nest: Any, name: str) -> Nest:
    if isinstance(nest, (list, tuple)) and nest and not holds_arrays(nest):
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
            array = np.asarray(dense(value))
        except Exception as error:
            raise DataError(
                f"{name} holds {type(value).__name__}, which is no array ({error}); expected "
                "arrays of shape (rows, ...)"
            ) from error
        if array.dtype.kind in "US":
            array = array.astype(object)  # texts of any length, as TensorFlow's own arrays
        if array.ndim == 0:
            kind = type(value).__name__ if array.dtype == object else f"a single {array.dtype}"
            raise DataError(f"{name} holds {kind}; expected arrays of shape (rows, ...)")
        if array.dtype == object and not is_text(array):
            raise DataError(
                f"{name} has dtype object; expected numbers, all rows of one length, or texts: "
                f"{name}.astype('float32')"
            )
        return array

    return map_nest(leaf, nest)


def holds_arrays(nest: Any) -> bool:
    return any(hasattr(leaf, "__array__") and np.ndim(leaf) > 0 for leaf in flatten(nest))


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether an array's shape is one that is wanted, None where any size fits."""
    return len(shape) == len(wanted) and all(
        want in (None, have) for want, have in zip(wanted, shape, strict=True)
    )


def numpy_dtype(name: str) -> Any:
    return np.dtype("float32" if name == "bfloat16" else name)
