"""What a check may ask of the thing under test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_bnconsistency.data.arrays import Kind, Nest, rows_of
from pytest_bnconsistency.data.rows import Data

RAGGED = 5
"""Rows in a batch of a data set, so that the last one is smaller."""


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


def holders(subject: Subject, call: Call) -> Iterator[tuple[str, Any]]:
    """The layers that may hold state in a call, by path: its own and, run by it, those inside."""
    for inside in subject.sublayers(call.layer):
        yield f"{call.path}/{inside.name}", inside
    yield call.path, call.layer


def set_batch(subject: Subject, x: Nest) -> int:
    """The rows in a batch of a data set of `x`: all, where the model was built for that number."""
    return rows_of(x) if subject.declared_rows() == rows_of(x) else RAGGED


class Subject(Protocol):
    """A model under test. Shapes are as the model takes and gives them, rows first.

    `modeless` says why the subject can't be told to train, `layerless` why no layers of it can be
    seen; both are empty where it can. Checks that need it are not applicable then.
    """

    name: str
    model: Any
    kinds: Sequence[Kind]
    """What the arrays of x stand for, in the order of `flatten`; empty where all are arrays."""
    predict_function: Any
    """What `predict` compiled; None before it ran, and to have it compiled anew."""

    @property
    def modeless(self) -> str: ...

    @property
    def layerless(self) -> str: ...

    def inputs(self) -> Nest | None:
        """A nest of `Spec`, or None where the model does not tell."""

    def called_inputs(self) -> Nest | None:
        """What the model was called with, where it declares no inputs; None if nothing tells."""

    def input_names(self) -> list[str]:
        """The names of the inputs, in the order of `flatten`; none if the model doesn't tell."""

    def declared_rows(self) -> int | None:
        """The number of rows that the model was built for, where it is for one only."""

    def forward(self, x: Nest, training: bool | None) -> Nest:
        """The outputs for tensors `x`; `training=None` leaves the argument out."""

    def call_text(self, training: bool | None) -> str:
        """How a user writes this `forward`: `model(x, training=False)`."""

    def entries(self) -> Mapping[str, Callable[[Nest], Nest]]:
        """Other ways to run inference on arrays, by name; the first is that of production."""

    @property
    def steps_at_once(self) -> int:
        """How many batches `entries` run in one step of the library's."""

    def single_steps(self) -> contextlib.AbstractContextManager[None]:
        """Within it, `entries` run one batch in a step."""

    def compiled_for(self) -> list[Compiled]:
        """What the user's own calls had the compiled function of `entries` made for."""

    def own_inference(self) -> list[str]:
        """The methods of the model's own that `entries` run, where a library has its own."""

    def by_step(self) -> Subject | None:
        """The same whose inference is the model's own `predict_step`; None where it has none."""

    def own_evaluation(self) -> list[str]:
        """The methods of the model's own that `evaluate` runs, where a library has its own."""

    def qualified(self, name: str) -> str:
        """A method of the model's own with the class that it is of, as a text names it."""

    def as_library(self, names: Collection[str]) -> contextlib.AbstractContextManager[None]:
        """Within it, the library's methods of these names stand in for the model's own."""

    def recompile(self) -> None:
        """Have `entries` and `evaluate` compiled anew when they run next."""

    def layers(self) -> list[Any]:
        """The layers that can be told without a run, the model first."""

    def path(self, layer: Any) -> str:
        """The path of one of `layers`, as far as it can be told without a run."""

    def above(self, layer: Any) -> tuple[Any, ...]:
        """The layers that hold a layer of the model, the outermost first, without a run."""

    def sublayers(self, layer: Any) -> list[Any]:
        """The layers that `layer` tracks, however deep."""

    def watch(self, hook: Hook) -> contextlib.AbstractContextManager[None]:
        """Within it, every layer's call in this thread goes through `hook`."""

    def takes_training(self, layer: Any) -> bool:
        """Whether `layer` can be told its mode by an argument."""

    def with_training(
        self, call: Call, training: bool
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of `call` with its mode set; the layer must take one."""

    def training_default(self, layer: Any) -> Any:
        """The default of the argument `training` of `layer.call`, None where there is none."""

    def training_phase(self) -> bool:
        """Whether a global switch puts layers that are told nothing into training mode."""

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

    def losses(self, data: Data, outputs: Nest) -> dict[str, float]:
        """This loss as `loss`, and that of each output by its name, where there are several."""

    def scores(self, data: Data, outputs: Nest) -> dict[str, float] | None:
        """What `evaluate` gives where the model's outputs (arrays) are these, or None where only
        a run of `evaluate` can tell.
        """

    def fit(self, data: Data, batch_size: int) -> None:
        """One epoch of the user's own training, in the order of the rows, as they were given."""

    def fit_like(self, data: Data, batch_size: int, batch: TracedBatch) -> None:
        """The same in the form of a batch that training was traced for, and that `data` fits."""

    @property
    def needs_targets(self) -> bool:
        """Whether `fit` needs targets: it scores outputs by a compiled loss."""

    def training_function(self) -> Any:
        """What `fit` compiled, with its traces; None before the first `fit`."""

    def traced_batches(self) -> list[TracedBatch]:
        """The batches that the training function was already traced for."""

    def freeze(self, layer: Any) -> None:
        """Set the layer's flag to not trainable, as a user would."""

    def unfreeze(self, layer: Any) -> None:
        """Set the layer's flag to trainable."""

    def rebuild_training(self) -> None:
        """Forget the compiled training function, as compiling again would."""
