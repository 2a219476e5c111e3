"""What runs of a model are made of: calls of layers, compiled functions, batches of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.data.arrays import Nest


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of an operation in a functional graph, while a model runs.

    `path` is the names of the layers that were running, from the outside in, without the model
    itself. `number` counts the calls of the same layer in one pass from 1. `parents` are the
    layers that were running, the outermost first; `called_with` says what `training` each of them
    and the layer itself were called with, None where the argument was left out.
    """

    layer: Any
    path: str
    number: int
    is_layer: bool
    parents: tuple[Any, ...]
    called_with: tuple[bool | None, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.path if self.number == 1 else f"{self.path} (call {self.number})"


Proceed = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
Hook = Callable[[Call, Proceed], Any]
"""Stands in for a layer's call: returns what the layer shall return, mostly by `proceed`."""


@dataclass(frozen=True)
class Compiled:
    """What a compiled function was made for: the number of rows, None for any, and their specs.

    `run` runs it on such rows.
    """

    rows: int | None
    specs: Nest
    run: Callable[[Nest], Nest]


@dataclass(frozen=True, eq=False)
class Part:
    """A subject as a whole, or a part of it, that no layer stands for.

    `holds` gives its `tf.Variable`s, `takes_training` says whether it can be told its mode.
    """

    name: str
    holds: Callable[[], list[Any]]
    takes_training: bool = False
    trainable: bool = True


@dataclass(frozen=True, eq=False)
class TracedBatch:
    """A batch that training was traced for, and that runs as it was traced.

    `specs` are those of its tensors, in a nest of x, or a tuple of x, y and weights of samples.
    `by_call` says that `train_on_batch` was given it.
    """

    specs: Nest
    by_call: bool = False
