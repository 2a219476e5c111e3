"""What a check may ask of the thing under test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_bnconsistency.data import Data, Nest


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of an operation in a functional graph, while a model runs.

    `path` is the names of the layers that were running, from the outside in, without the model
    itself. `number` counts the calls of the same layer in one pass from 1. `parents` are the
    layers that were running, the outermost first; `told` says what `training` each of them and
    the layer itself were called with, None where the argument was left out.
    """

    layer: Any
    path: str
    number: int
    is_layer: bool
    parents: tuple[Any, ...]
    told: tuple[bool | None, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.path if self.number == 1 else f"{self.path} (call {self.number})"


Proceed = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]
Hook = Callable[[Call, Proceed], Any]
"""Stands in for a layer's call: returns what the layer shall return, mostly by `proceed`."""


class Subject(Protocol):
    """A model under test. Shapes are as the model takes and gives them, rows first."""

    name: str
    model: Any

    def inputs(self) -> Nest | None:
        """A nest of `Spec`, or None where the model does not tell."""

    def forward(self, x: Nest, training: bool | None) -> Nest:
        """The outputs for tensors `x`; `training=None` leaves the argument out."""

    def predict(self, x: Nest, batch_size: int) -> Nest:
        """The outputs for arrays `x` as users get them in production."""

    def predict_on_batch(self, x: Nest) -> Nest:
        """The same for one batch."""

    def layers(self) -> list[Any]:
        """The layers that can be told without a run, the model first."""

    def sublayers(self, layer: Any) -> list[Any]:
        """The layers that `layer` tracks, however deep."""

    def watch(self, hook: Hook) -> contextlib.AbstractContextManager[None]:
        """Within it, every layer's call in this thread goes through `hook`."""

    def takes_training(self, layer: Any) -> bool:
        """Whether `layer` can be told its mode by an argument `training`."""

    def own_variables(self, layer: Any) -> list[Any]:
        """The `tf.Variable`s that `layer` holds itself, those of its sublayers excepted."""

    def trainable(self, layer: Any) -> bool:
        """The layer's own flag."""

    def inference_calls(self) -> Iterable[Any]:
        """Layers that stand in the model's graph with `training=False`."""

    def upstream(self, layer: Any) -> Iterable[Any]:
        """The layers whose outputs reach `layer` in the graph that it stands in, if any."""

    def graph_calls(self, layer: Any) -> int:
        """How often `layer` stands in the graph, 0 where there is no graph."""

    def stochastic(self, layer: Any) -> bool:
        """Whether `layer` itself holds a generator of random numbers."""

    def roots(self) -> list[Any]:
        """The objects below which all state lies that a run can change."""

    @property
    def compiled(self) -> bool:
        """Whether `evaluate` and `fit` can run."""

    def updates(self) -> int | None:
        """Training steps so far, where an optimizer counted them."""

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        """The loss and every compiled metric, by the user's own `evaluate`."""

    def loss(self, data: Data, outputs: Nest) -> float | None:
        """The compiled loss of given outputs (arrays), or None where it can't be told."""

    def scores(self, data: Data, outputs: Nest) -> dict[str, float] | None:
        """What `evaluate` gives where the model's outputs (arrays) are these, or None where only
        a run of `evaluate` can tell.
        """

    def fit(self, data: Data, batch_size: int) -> None:
        """One epoch of the user's own training, in the order of the rows."""

    def traced_batch_sizes(self) -> list[int]:
        """The batch sizes that the training function was already traced for."""

    def freeze(self, layer: Any) -> None:
        """Set the layer's flag to not trainable, as a user would."""

    def unfreeze(self, layer: Any) -> None:
        """Set the layer's flag to trainable."""

    def rebuild_training(self) -> None:
        """Forget the compiled training function, as compiling again would."""
