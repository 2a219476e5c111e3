"""What a check may ask of the thing under test."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Kind, Nest, flatten, map_nest, packed, rows_of
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.models.calls import Call, Compiled, Hook, Part, TracedBatch
from pytest_bnconsistency.models.owned_objects import (
    default_mode,
    is_plain_module,
    mode_argument,
    modules_of,
    name_of,
    referred_variables,
    variables_of,
    with_mode,
)

RAGGED = 5
"""Rows in a batch of a data set, so that the last one is smaller."""
PREDICT_DATASET = "predict(dataset)"
"""The entry point that runs `predict` on such batches."""


class Subject(abc.ABC):
    """A model under test. Shapes are as the model takes and gives them, rows first.

    A kind of model says what it `accepts` and how to `call` it. Everything else may stay: then
    the model is one layer, itself. Say more, and more can be checked: `mode` for training mode,
    `variables` for what inference must leave alone, `inputs` for generated rows.
    """

    mode: str | None = None
    """The name of the argument that says whether it trains, None where there is none."""
    mode_required = False
    """Whether it must be given: then inference is `False`."""
    spoken = "model"
    """What a text says is called."""
    predict_function: Any = None
    """What `predict` compiled; None before it ran, and to have it compiled anew."""
    kinds: Sequence[Kind] = ()
    """What the arrays of x stand for, in the order of `flatten`; empty where all are arrays."""
    fixed_rows: int | None = None
    """The only number of rows that it takes, once that is known: no trace is for any number then.
    """
    prepared = False
    """Whether rows come as steps of the user's own give them to the model: no step may run."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = name_of(model)
        self.called = set[int]()
        """The layers, by identity, whose calls were seen."""
        self._hook: Hook | None = None
        self._whole: Part | None = None

    @classmethod
    @abc.abstractmethod
    def accepts(cls, model: Any) -> bool:
        """Whether `model` is of this kind."""

    @abc.abstractmethod
    def call(self, x: Nest, training: bool | None) -> Nest:
        """The outputs for tensors `x`, rows first; None leaves the mode to the model."""

    def variables(self) -> list[Any]:
        """The `tf.Variable`s that a run reads or writes; by default those on the model itself."""
        return self.owned_by(self.model)

    @property
    def modeless(self) -> str:
        """Why it can't be told to train, empty where it can; some checks then can't run."""
        return "" if self.mode else f"{self.name} has no argument that tells it to train"

    @property
    def layerless(self) -> str:
        """Why no layers of it can be seen, empty where they can."""
        return f"{self.name} shows no layers"

    @property
    def whole(self) -> Part:
        """The subject as one layer, with the variables that no layer inside holds."""
        if self._whole is None:
            flag = bool(getattr(self.model, "trainable", True))
            self._whole = Part(self.name, self.variables, self.mode is not None, flag)
        return self._whole

    def inputs(self) -> Nest | None:
        """A nest of `Spec`, or None where the model does not tell."""
        return None

    def called_inputs(self) -> Nest | None:
        """What the model was called with, where it declares no inputs; None if nothing tells."""
        return None

    def input_names(self) -> list[str]:
        """The names of the inputs, in the order of `flatten`; none if the model doesn't tell."""
        specs = self.inputs()
        return [] if specs is None else [spec.name for spec in flatten(specs)]

    def declared_rows(self) -> int | None:
        """The number of rows that the model was built for, where it is for one only."""
        specs = flatten(self.inputs())
        return next((spec.rows for spec in specs if spec is not None and spec.rows), None)

    def forward(self, x: Nest, training: bool | None) -> Nest:
        """The outputs for tensors `x`; `training=None` leaves the argument out."""
        training = self.mode_given(training)
        if self._hook is None:
            return self.call(packed(x, self.kinds), training)
        kwargs = {} if training is None else {"training": training}
        whole = Call(self.whole, self.name, 1, True, (), (training,), (x,), kwargs)
        return self._hook(whole, self._through)

    def _through(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Nest:
        import tensorflow as tf  # tests are collected without it

        outputs = self.call(packed(args[0], self.kinds), kwargs.get("training"))
        # Of arrays, as a function of arrays gives them, nothing could be recorded.
        return map_nest(
            lambda leaf: tf.constant(leaf) if type(leaf) is np.ndarray else leaf, outputs
        )

    def mode_given(self, training: bool | None) -> bool | None:
        """What a call says of the mode, where it may say nothing."""
        return False if training is None and self.mode_required else training

    def call_text(self, training: bool | None) -> str:
        """How a user writes this `forward`: `model(x, training=False)`."""
        training = self.mode_given(training)
        argument = "" if training is None or self.mode is None else f", {self.mode}={training}"
        return f"{self.spoken}(x{argument})"

    def entries(self) -> Mapping[str, Callable[[Nest], Nest]]:
        """Other ways to run inference on arrays, by name; the first is that of production."""
        return {}

    def endpoints(self) -> list[str]:
        """Those of `entries` that are functions of their own, and need not say what calls say."""
        return []

    @property
    def runs_eagerly(self) -> bool:
        """Whether `entries` run Python each time, not what was compiled."""
        return False

    @property
    def steps_at_once(self) -> int:
        """How many batches `entries` run in one step of the library's."""
        return 1

    def single_steps(self) -> contextlib.AbstractContextManager[None]:
        """Within it, `entries` run one batch in a step."""
        return contextlib.nullcontext()

    def compiled_for(self) -> list[Compiled]:
        """What the user's own calls had the compiled function of `entries` made for."""
        return []

    def own_inference(self) -> list[str]:
        """The methods of the model's own that `entries` run, where a library has its own."""
        return []

    def by_step(self) -> Subject | None:
        """The same whose inference is the model's own `predict_step`; None where it has none."""
        return None

    def own_evaluation(self) -> list[str]:
        """The methods of the model's own that `evaluate` runs, where a library has its own."""
        return []

    def qualified(self, name: str) -> str:
        """A method of the model's own with the class that it is of, as a text names it."""
        return name

    def as_library(self, names: Collection[str]) -> contextlib.AbstractContextManager[None]:
        """Within it, the library's methods of these names stand in for the model's own."""
        return contextlib.nullcontext()

    def recompile(self) -> None:
        """Have `entries` and `evaluate` compiled anew when they run next."""
        return

    def layers(self) -> list[Any]:
        """The layers that can be told without a run, the model first."""
        return [self.whole]

    def path(self, layer: Any) -> str:
        """The path of one of `layers`, as far as it can be told without a run."""
        return name_of(layer)

    def above(self, layer: Any) -> tuple[Any, ...]:
        """The layers that hold a layer of the model, the outermost first, without a run."""
        return ()

    def sublayers(self, layer: Any) -> list[Any]:
        """The layers that `layer` tracks, however deep."""
        return []

    def watch(self, hook: Hook) -> contextlib.AbstractContextManager[None]:
        """Within it, every layer's call in this thread goes through `hook`."""
        return self._as_one_layer(hook)

    @property
    def watched(self) -> bool:
        """Whether layers are being watched: then code should run as Python, not from a trace."""
        return self._hook is not None

    @contextlib.contextmanager
    def _as_one_layer(self, hook: Hook) -> Iterator[None]:
        self._hook = hook
        try:
            yield
        finally:
            self._hook = None

    def takes_training(self, layer: Any) -> bool:
        """Whether `layer` can be told its mode by an argument."""
        if isinstance(layer, Part):
            return layer.takes_training
        return mode_argument(layer) is not None

    def with_training(
        self, call: Call, training: bool
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of `call` with its mode set; the layer must take one."""
        if isinstance(call.layer, Part):
            return call.args, {**call.kwargs, "training": training}
        return with_mode(call.layer, call.args, call.kwargs, training)

    def training_default(self, layer: Any) -> Any:
        """The default of the argument `training` of `layer.call`, None where there is none."""
        default = default_mode(self.model if isinstance(layer, Part) else layer)
        return default if isinstance(default, bool) else None

    def modes_kept(self, layer: Any) -> contextlib.AbstractContextManager[None]:
        """Within it, a mode that `layer` is told in a call of ours is told to no other layer."""
        return contextlib.nullcontext()

    def training_phase(self) -> bool:
        """Whether a global switch puts layers that are told nothing into training mode."""
        return False

    def own_variables(self, layer: Any) -> list[Any]:
        """The `tf.Variable`s that `layer` holds itself, those of its sublayers excepted.

        A module that no run calls is no layer, but a part of the one that uses it.
        """
        if isinstance(layer, Part):
            return layer.holds()
        return [] if self.is_part(layer) else self.owned_by(layer)

    def owned_by(self, owner: Any) -> list[Any]:
        """The `tf.Variable`s of an object, and of the modules that are a part of it."""
        parts = [v for v in modules_of(owner) if self.is_part(v)]
        return [*variables_of(owner), *(v for part in parts for v in self.owned_by(part))]

    def is_part(self, layer: Any) -> bool:
        """Whether it is a module that was not called where others were, and so no layer."""
        known = not self.called or id(layer) in self.called or layer is self.model
        return not known and is_plain_module(layer)

    def state_of(self, layer: Any) -> list[Any]:
        """Its own variables, and those that its class refers to in code, which none may hold."""
        referred = [] if isinstance(layer, Part) else referred_variables(layer)
        return [*self.own_variables(layer), *referred]

    def trainable(self, layer: Any) -> bool:
        """The layer's own flag."""
        return bool(getattr(layer, "trainable", True))

    def inference_calls(self) -> Iterable[Any]:
        """Layers that stand in the model's graph with `training=False`."""
        return ()

    def upstream(self, layer: Any) -> Iterable[Any]:
        """The layers whose outputs reach `layer` in the graph that it stands in, if any."""
        return ()

    def graph_calls(self, layer: Any) -> int:
        """How often `layer` stands in the graph, 0 where there is no graph."""
        return 0

    def stochastic(self, layer: Any) -> bool:
        """Whether `layer` itself holds a generator of random numbers."""
        return False

    def roots(self) -> list[Any]:
        """The objects below which all state lies that a run can change."""
        return [self.model, self.variables()]

    @property
    def compiled(self) -> bool:
        """Whether `fit` can run."""
        return False

    @property
    def evaluates(self) -> bool:
        """Whether `evaluate` can run, and says something of the outputs."""
        return self.compiled

    @property
    def own_training(self) -> bool:
        """Whether `fit` runs a step of the user's own, whose optimizers may be others."""
        return False

    def updates(self) -> int | None:
        """Training steps so far, where an optimizer counted them."""
        return None

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        """The loss and every compiled metric, by the user's own `evaluate`."""
        return {}

    def rows_in_evaluation(self, data: Data) -> Nest | None:
        """What the model is given of these rows in a step of `evaluate`; None where that can't be
        told.
        """
        return None

    def rows_in_training(self, data: Data) -> Nest | None:
        """What the model is given of these rows in a step of `fit`, which moves what it moves;
        None where that can't be told.
        """
        return None

    def loss(self, data: Data, outputs: Nest) -> float | None:
        """The compiled loss of given outputs (arrays), or None where it can't be told."""
        return None

    def losses(self, data: Data, outputs: Nest) -> dict[str, float]:
        """This loss as `loss`, and that of each output by its name, where there are several."""
        return {}

    def scores(self, data: Data, outputs: Nest) -> dict[str, float] | None:
        """What `evaluate` gives where the model's outputs (arrays) are these, or None where only
        a run of `evaluate` can tell.
        """
        return None

    def fit(self, data: Data, batch_size: int) -> None:
        """One epoch of the user's own training, in the order of the rows, as they were given."""
        raise NotImplementedError(f"{self.name} can't be trained by fit")

    @property
    def takes_callbacks(self) -> bool:
        """Whether `fit_watched` can run: `fit` is the library's own."""
        return False

    def fit_watched(
        self, data: Data, batch_size: int, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        """`fit`, with `begin` before and `end` after what is run at once: a step, or several."""
        raise NotImplementedError(f"{self.name} can't be trained by fit")

    def fit_like(self, data: Data, batch_size: int, batch: TracedBatch) -> None:
        """The same in the form of a batch that training was traced for, and that `data` fits."""
        self.fit(data, batch_size)

    @property
    def needs_targets(self) -> bool:
        """Whether `fit` needs targets: it scores outputs by a compiled loss."""
        return True

    def trains_on(self, data: Data) -> bool:
        """Whether `fit` can run on this data."""
        return (
            self.compiled and not self.prepared and (data.y is not None or not self.needs_targets)
        )

    def training_function(self) -> Any:
        """What `fit` compiled, with its traces; None before the first `fit`."""
        return None

    def traced_batches(self) -> list[TracedBatch]:
        """The batches that the training function was already traced for."""
        return []

    def freeze(self, layer: Any) -> None:
        """Set the layer's flag to not trainable, as a user would."""
        if hasattr(layer, "trainable"):
            layer.trainable = False

    def unfreeze(self, layer: Any) -> None:
        """Set the layer's flag to trainable."""
        if hasattr(layer, "trainable"):
            layer.trainable = True

    def constructor_freezes(self) -> bool:
        """Whether a layer that is made with `trainable=False` has weights that don't train."""
        return True

    def unknown_to_optimizer(self) -> list[str]:
        """The weights that train now but did not when the optimizer was built."""
        return []

    def rebuild_training(self) -> None:
        """Forget the compiled training function, as compiling again would."""
        return


def holders(subject: Subject, call: Call) -> Iterator[tuple[str, Any]]:
    """The layers that may hold state in a call, by path: its own and, run by it, those inside."""
    for inside in subject.sublayers(call.layer):
        yield f"{call.path}/{name_of(inside)}", inside
    yield call.path, call.layer


def set_batch(subject: Subject, x: Nest) -> int:
    """The rows in a batch of a data set of `x`: all, where the model was built for that number."""
    return rows_of(x) if subject.declared_rows() == rows_of(x) else RAGGED
