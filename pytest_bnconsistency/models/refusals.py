"""What a model raises on rows, and that it takes none, as one sentence each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, flatten
from pytest_bnconsistency.errors import BNConsistencyError, RefusedError
from pytest_bnconsistency.words import brief_line, counted, listed


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


def lacks_call(model: Any, model_class: type) -> bool:
    """Whether a model says nowhere how it predicts, as one that only trains other models.

    Args:
        model: the model.
        model_class: what it derives from, whose own methods only say that they are to be written.
    """
    kind = type(model)
    methods = ("call", "__call__", "predict_step")
    return "call" not in vars(model) and all(
        getattr(kind, method) is getattr(model_class, method) for method in methods
    )


def without_call(model: Any, model_class: type) -> str:
    """The sentence on a model that lacks a `call`; it names the models inside that have one."""
    inside = [
        f"model.{name}"
        for name, value in vars(model).items()
        if isinstance(value, model_class) and not lacks_call(value, model_class)
    ]
    what_it_trains = f"check what it trains, {listed(inside, most=4)}, or " if inside else ""
    return (
        f"model {model.name!r} gives no predictions, its class has no call(); expected a model "
        f"that does: {what_it_trains}write a call()"
    )
