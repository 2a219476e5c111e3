"""Batches in the form in which training was traced for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Kind, Nest, flatten, packed
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.models.calls import TracedBatch
from pytest_bnconsistency.models.owned_objects import traced_functions


def traced_batches(function: Any) -> list[TracedBatch]:
    """The batches that the traces of a training step, or of what it refers to, were made for."""
    found: dict[str, TracedBatch] = {}
    for traced in traced_functions(function):
        for concrete in getattr(traced, "_list_all_concrete_functions", list)():
            for batch in _batches_of(concrete.structured_input_signature or ((), {})):
                found.setdefault(f"{batch.by_call} {batch.specs}", batch)
    return list(found.values())


def _batches_of(signature: Any) -> Iterator[TracedBatch]:
    # An iterator's spec tells those of its elements under a name that is not public; where that
    # is gone, `fit` runs on batches as they are given only.
    args = [arg for arg in tf.nest.flatten(signature[0]) if isinstance(arg, tf.data.IteratorSpec)]
    if not args:
        yield from _called_with(signature[0])
    for iterator in args:
        specs = getattr(iterator, "_element_spec", None)
        if specs is not None and _is_dense(specs):
            yield TracedBatch(specs)


def _called_with(args: Sequence[Any]) -> Iterator[TracedBatch]:
    given: Nest = tuple(arg for arg in args if any(map(_is_tensor, tf.nest.flatten(arg))))
    if len(given) == 1:  # a batch in one: its parts, or x alone
        (given,) = given
    if given and _is_dense(given):
        # Only `train_on_batch` of Keras hands on the weights of samples that there are none of.
        yield TracedBatch(given, by_call=None in tf.nest.flatten(given))


def _is_tensor(spec: Any) -> bool:
    return isinstance(spec, tf.TensorSpec) and bool(spec.shape.rank)


def _is_dense(specs: Nest) -> bool:
    return all(spec is None or _is_tensor(spec) for spec in tf.nest.flatten(specs))


def as_batch(data: Data) -> Nest:
    """The rows of `data` as the user's own data set gives them; arrays for all tensors."""
    if data.form is not None and data.form.only_x:
        return data.as_given()
    parts = (data.as_given(), data.y, data.sample_weight)
    return tuple(part for part in parts if part is not None)


def as_given(data: Data) -> Nest:
    """x as the user gives it, ragged and sparse tensors included."""
    return packed(data.as_given(), _given_kinds(data))


def _given_kinds(data: Data) -> list[Kind]:
    """The kinds of the arrays of x, in the order of the user's nest."""
    return [] if data.form is None else [leaf.kind for leaf in flatten(data.form.x)]


def given_dataset(data: Data, rows: int) -> Any:
    """A `tf.data.Dataset` of batches of `rows` rows, as the user's own gives them."""
    dataset = dataset_of(as_batch(data), rows)
    kinds = _given_kinds(data)
    if not any(kinds):
        return dataset
    if data.form is not None and data.form.only_x:
        return dataset.map(lambda x: packed(x, kinds))
    return dataset.map(lambda x, *others: (packed(x, kinds), *others))


def rows_in(batch: TracedBatch) -> int | None:
    """The number of rows of the traced batch; None where it was traced for any."""
    sizes = [spec.shape[0] for spec in tf.nest.flatten(batch.specs) if spec is not None]
    return next((int(size) for size in sizes if size), None)


def form_of(batch: TracedBatch) -> str:
    """The tensors of a traced batch in a word each: `(float32[16, 8], int64[16])`."""

    def described(spec: Any) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in spec.shape)
        return f"{spec.dtype.name}[{sizes}]"

    specs = [spec for spec in tf.nest.flatten(batch.specs) if spec is not None]
    return f"({', '.join(map(described, specs))})"


def batch_like(data: Data, batch: TracedBatch, names: Sequence[str]) -> Nest | None:
    """The rows of `data` as arrays in the nest and dtypes of `batch`; None where they don't fit.

    `names` are those of the model's inputs. Samples weigh 1 where `data` has no weights.
    """
    specs = batch.specs
    if not _holds_parts(specs):
        return _part(data.x, specs, names)
    weights = data.sample_weight
    made: list[Nest | None] = []
    for given, part in zip((data.x, data.y, weights), specs, strict=False):
        if part is None or (filled := _part(given, part, names)) is None:
            ones = given is weights and part is not None
            filled = _ones(part, data.rows) if ones else None
        if filled is None and part is not None:
            return None
        made.append(filled)
    return tuple(made)


def _holds_parts(specs: Nest) -> bool:
    return isinstance(specs, tuple) and not hasattr(specs, "_fields") and len(specs) <= 3


def _part(nest: Nest | None, specs: Nest, names: Sequence[str]) -> Nest | None:
    if nest is None:
        return None
    arrays = flatten(nest)
    if isinstance(specs, Mapping) and not isinstance(nest, Mapping):
        by_name = dict(zip(names, arrays, strict=False))
        if not set(specs) <= set(by_name):
            return None
        arrays = [by_name[name] for name in sorted(specs)]
    wanted = tf.nest.flatten(specs)
    if len(arrays) != len(wanted):
        return None
    leaves = [_as(array, spec) for array, spec in zip(arrays, wanted, strict=True)]
    if any(leaf is None for leaf in leaves):
        return None
    return tf.nest.pack_sequence_as(specs, leaves)


def _as(array: Array, spec: Any) -> Array | None:
    """`array` in the dtype of `spec`; None where the shapes of a row are not alike."""
    wanted, shape = spec.shape[1:], array.shape[1:]
    if not wanted.is_compatible_with(shape):
        if _without_ones(wanted.as_list()) != _without_ones(shape):
            return None
        array = array.reshape(len(array), *wanted.as_list())
    if spec.dtype == tf.string or array.dtype == object:
        return array if spec.dtype == tf.string and array.dtype == object else None
    return array.astype(spec.dtype.as_numpy_dtype)


def _without_ones(shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """A shape without last axes of one, which Keras adds to targets and drops."""
    kept = list(shape)
    while kept and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _ones(specs: Nest, rows: int) -> Nest:
    def ones(spec: Any) -> Array:
        return np.ones((rows, *(size or 1 for size in spec.shape[1:])), spec.dtype.as_numpy_dtype)

    return tf.nest.map_structure(ones, specs)


def dataset_of(batch: Nest, rows: int, *, exact: bool = False) -> Any:
    """A `tf.data.Dataset` of batches of `rows` rows of arrays in a nest.

    `exact` says that its specs tell the number of rows.
    """
    return tf.data.Dataset.from_tensor_slices(with_tuples(batch)).batch(rows, drop_remainder=exact)


def with_tuples(nest: Nest) -> Nest:
    """`nest` with tuples for lists, which a data set takes for tensors."""
    if isinstance(nest, Mapping):
        return {key: with_tuples(part) for key, part in nest.items()}
    if isinstance(nest, list):
        return tuple(map(with_tuples, nest))
    if isinstance(nest, tuple) and not hasattr(nest, "_fields"):
        return tuple(map(with_tuples, nest))
    return nest


def same_form(mine: Nest, its: TracedBatch, *, narrowed: bool) -> bool:
    """Whether arrays have the nest, the dtypes and the shapes of a traced batch.

    `narrowed` says that doubles become single floats on the way, as arrays do in `fit`.
    """
    known = {"object": "string"} | ({"float64": "float32"} if narrowed else {})

    def array(leaf: Array) -> str:
        dtype = known.get(leaf.dtype.name, leaf.dtype.name)
        return f"{dtype} {_without_ones(leaf.shape[1:])}"

    def spec(leaf: Any) -> str:
        return f"{leaf.dtype.name} {_without_ones(leaf.shape[1:].as_list())}"

    specs = its.specs
    if _holds_parts(specs):
        specs = tuple(part for part in specs if part is not None)
    texts = tf.nest.map_structure(array, with_tuples(mine))
    return bool(texts == tf.nest.map_structure(spec, with_tuples(specs)))
