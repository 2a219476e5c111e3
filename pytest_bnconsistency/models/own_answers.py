"""Answer in place of a model, for code that only hands its rows on to the model's call."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, rebuild
from pytest_bnconsistency.models.base import Answer
from pytest_bnconsistency.models.layer_hooks import PATCHING


class NotAnsweredError(Exception):
    """The model was called in another way, or on other rows, than an answer is known for."""


@contextlib.contextmanager
def answering(model: Any, x: Nest, outputs: Nest, answer: Answer) -> Iterator[None]:
    """Within it, `model(x, training=False)` gives in a trace what `answer` says, layers unrun.

    Calls outside of a trace, and in other threads, are as they were.

    Args:
        x: example rows; another nest, dtype or inner shape is not answered.
        outputs: what the model gives for them, for the nest, the dtypes and the number of axes.

    Raises:
        NotAnsweredError: on a call in a trace with other arguments; on a batch whose outputs are
            not known TensorFlow raises its own error.
    """
    owner = next(base for base in type(model).__mro__ if "__call__" in vars(base))
    original, thread = vars(owner)["__call__"], threading.get_ident()

    def given(nest: Nest, *leaves: Array) -> list[Array]:
        known = answer(rebuild(nest, leaves))
        if known is None:
            raise NotAnsweredError
        return list(known)

    @functools.wraps(original)
    def __call__(called: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        elsewhere = tf.executing_eagerly() or threading.get_ident() != thread
        if called is not model or elsewhere:
            return original(called, *args, **kwargs)
        if len(args) != 1 or kwargs != {"training": False} or not _alike(args[0], x):
            raise NotAnsweredError
        arrays = flatten(outputs)
        dtypes = [output.dtype for output in arrays]
        tensors = tf.numpy_function(functools.partial(given, args[0]), flatten(args[0]), dtypes)
        for tensor, output in zip(tensors, arrays, strict=True):
            tensor.set_shape([None] * output.ndim)
        return rebuild(outputs, tensors)

    with PATCHING:
        setattr(owner, "__call__", __call__)  # noqa: B010
        try:
            yield
        finally:
            setattr(owner, "__call__", original)  # noqa: B010


def _alike(given: Nest, x: Nest) -> bool:
    """Whether a nest of tensors in a trace is what rows such as `x` are in one."""
    try:
        tf.nest.assert_same_structure(given, x)
    except (TypeError, ValueError):
        return False
    return all(
        isinstance(tensor, tf.Tensor)
        and tensor.dtype == tf.as_dtype(leaf.dtype)
        and tensor.shape.rank == leaf.ndim
        and tensor.shape[1:].is_compatible_with(leaf.shape[1:])
        for tensor, leaf in zip(flatten(given), flatten(x), strict=True)
    )
