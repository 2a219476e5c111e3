"""What a model raises on rows, as one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, flatten
from pytest_bnconsistency.errors import BNConsistencyError, RefusedError
from pytest_bnconsistency.words import brief_line, counted


@contextlib.contextmanager
def as_sentence(name: str, x: Nest) -> Iterator[None]:
    """What `name` raises on rows `x`, which tensors in a trace have none of.

    Raises:
        RefusedError: it raised, outside a trace; in one, its own error goes through.
    """
    try:
        yield
    except BNConsistencyError:
        raise
    except Exception as error:
        if not tf.executing_eagerly():
            raise
        first = flatten(x)[0]
        batch = f"a batch of {counted(len(first), 'row')}" if first.ndim else "its input"
        raise RefusedError(
            f"{name} raised {type(error).__name__} on {batch}: {brief_line(error)}; "
            "expected rows as the model takes them, and a model that takes batches of any size",
            error,
        ) from error
