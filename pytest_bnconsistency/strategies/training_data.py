"""Rows and targets that a model can train on: the user's, or some that fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array, map_nest
from pytest_bnconsistency.data.reading import read
from pytest_bnconsistency.data.recipes import Recipe, Row
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.strategies.arrays import source_for

ROWS = 8
"""In a batch of training."""


def given_data(data: Any) -> Data:
    """The rows to train on, with targets.

    Raises:
        DataError: there are no targets, or the data cannot be read.
    """
    given = read(iter([data]) if isinstance(data, tuple) else data, None, None, ROWS)
    if given.y is None:
        raise DataError("data holds no targets, and a life has steps of fit; expected (x, y)")
    return given


def some_data(subject: Subject) -> Data:
    """Rows that fit the model's inputs, and targets that fit its outputs and its loss.

    Raises:
        DataError: the model does not tell its inputs, or its loss takes no such targets.
    """
    x = source_for(subject.model).expand(Recipe(ROWS, {}, Row("random", 1.0)))
    with preserve_state(subject):
        outputs = next(iter(subject.entries().values()))(x)
    shaped = map_nest(lambda leaf: _one_hot(np.asarray(leaf)), outputs)
    if not subject.compiled:
        return Data(x, shaped)
    for targets in (shaped, map_nest(lambda leaf: leaf.argmax(-1), shaped)):
        try:
            with preserve_state(subject):
                subject.evaluate(Data(x, targets), ROWS)
        except Exception:
            continue
        return Data(x, targets)
    raise DataError(
        f"the loss of model {subject.name!r} takes neither targets of the shape of its outputs "
        "nor classes; give some: lifecycle_machine(build, (x, y))"
    )


def _one_hot(outputs: Array) -> Array:
    hot = np.zeros(outputs.shape, np.float32)
    width = outputs.shape[-1] if outputs.ndim > 1 else 2
    for row in range(len(hot)):
        hot[row, ..., row % width] = 1
    return hot
