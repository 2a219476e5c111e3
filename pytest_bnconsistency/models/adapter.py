"""The answers of a subject that can be run, and little more."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_bnconsistency.data.arrays import Kind, Nest, flatten
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.models.base import Call, Compiled, Hook, Part, TracedBatch
from pytest_bnconsistency.models.owned_objects import (
    default_mode,
    mode_argument,
    variables_of,
    with_mode,
)
from pytest_bnconsistency.models.training_batches import packed


class BaseSubject(abc.ABC):
    """The answers of a subject that can be run, and nothing more: what an adapter starts from.

    An adapter says what it `accepts` and how to `call` it. Everything else may stay: then the
    subject is one layer, itself. Say more, and more can be checked: `mode` for training mode,
    `variables` for what inference must leave alone, `inputs` for generated rows.
    """

    mode: str | None = None
    """The name of the argument that says whether it trains, None where there is none."""
    mode_required = False
    """Whether it must be given: then inference is `False`."""
    predict_function: Any = None
    kinds: Sequence[Kind] = ()
    """What the arrays of x stand for, in the order of `flatten`; empty where all are arrays."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = str(getattr(model, "name", None) or type(model).__name__)
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
        return variables_of(self.model)

    def inputs(self) -> Nest | None:
        return None

    def called_inputs(self) -> Nest | None:
        return None

    def input_names(self) -> list[str]:
        specs = self.inputs()
        return [] if specs is None else [spec.name for spec in flatten(specs)]

    def declared_rows(self) -> int | None:
        specs = flatten(self.inputs())
        return next((spec.rows for spec in specs if spec is not None and spec.rows), None)

    def entries(self) -> Mapping[str, Callable[[Nest], Nest]]:
        return {}

    @property
    def steps_at_once(self) -> int:
        return 1

    def single_steps(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def compiled_for(self) -> list[Compiled]:
        return []

    def own_inference(self) -> list[str]:
        return []

    def by_step(self) -> BaseSubject | None:
        return None

    def own_evaluation(self) -> list[str]:
        return []

    def qualified(self, name: str) -> str:
        return name

    def as_library(self, names: Collection[str]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def recompile(self) -> None:
        return None

    @property
    def modeless(self) -> str:
        return "" if self.mode else f"{self.name} has no argument that tells it to train"

    @property
    def layerless(self) -> str:
        return f"{self.name} shows no layers"

    @property
    def whole(self) -> Part:
        """The subject as one layer, with the variables that no layer inside holds."""
        if self._whole is None:
            flag = bool(getattr(self.model, "trainable", True))
            self._whole = Part(self.name, self.variables, self.mode is not None, flag)
        return self._whole

    def forward(self, x: Nest, training: bool | None) -> Nest:
        if training is None and self.mode_required:
            training = False
        if self._hook is None:
            return self.call(packed(x, self.kinds), training)
        kwargs = {} if training is None else {"training": training}
        whole = Call(self.whole, self.name, 1, True, (), (training,), (x,), kwargs)
        return self._hook(whole, self._through)

    def _through(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Nest:
        return self.call(packed(args[0], self.kinds), kwargs.get("training"))

    @property
    def watched(self) -> bool:
        """Whether layers are being watched: then code should run as Python, not from a trace."""
        return self._hook is not None

    def call_text(self, training: bool | None) -> str:
        if training is None and self.mode_required:
            training = False
        argument = "" if training is None or self.mode is None else f", {self.mode}={training}"
        return f"model(x{argument})"

    def layers(self) -> list[Any]:
        return [self.whole]

    def path(self, layer: Any) -> str:
        return str(layer.name)

    def above(self, layer: Any) -> tuple[Any, ...]:
        return ()

    def sublayers(self, layer: Any) -> list[Any]:
        return []

    def watch(self, hook: Hook) -> contextlib.AbstractContextManager[None]:
        return self._as_one_layer(hook)

    @contextlib.contextmanager
    def _as_one_layer(self, hook: Hook) -> Iterator[None]:
        self._hook = hook
        try:
            yield
        finally:
            self._hook = None

    def takes_training(self, layer: Any) -> bool:
        if isinstance(layer, Part):
            return layer.takes_training
        return mode_argument(layer) is not None

    def training_default(self, layer: Any) -> Any:
        default = default_mode(self.model if isinstance(layer, Part) else layer)
        return default if isinstance(default, bool) else None

    def training_phase(self) -> bool:
        return False

    def with_training(
        self, call: Call, training: bool
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if isinstance(call.layer, Part):
            return call.args, {**call.kwargs, "training": training}
        return with_mode(call.layer, call.args, call.kwargs, training)

    def own_variables(self, layer: Any) -> list[Any]:
        return layer.holds() if isinstance(layer, Part) else variables_of(layer)

    def trainable(self, layer: Any) -> bool:
        return bool(getattr(layer, "trainable", True))

    def inference_calls(self) -> Iterable[Any]:
        return ()

    def stochastic(self, layer: Any) -> bool:
        return False

    def roots(self) -> list[Any]:
        return [self.model, self.variables()]

    @property
    def compiled(self) -> bool:
        return False

    def updates(self) -> int | None:
        return None

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        return {}

    def loss(self, data: Data, outputs: Nest) -> float | None:
        return None

    def losses(self, data: Data, outputs: Nest) -> dict[str, float]:
        return {}

    def fit(self, data: Data, batch_size: int) -> None:
        raise NotImplementedError(f"{self.name} can't be trained by fit")

    def fit_like(self, data: Data, batch_size: int, batch: TracedBatch) -> None:
        self.fit(data, batch_size)

    @property
    def needs_targets(self) -> bool:
        return True

    def training_function(self) -> Any:
        return None

    def traced_batches(self) -> list[TracedBatch]:
        return []

    def freeze(self, layer: Any) -> None:
        if hasattr(layer, "trainable"):
            layer.trainable = False

    def upstream(self, layer: Any) -> Iterable[Any]:
        return ()

    def graph_calls(self, layer: Any) -> int:
        return 0

    def scores(self, data: Data, outputs: Nest) -> dict[str, float] | None:
        return None

    def unfreeze(self, layer: Any) -> None:
        if hasattr(layer, "trainable"):
            layer.trainable = True

    def rebuild_training(self) -> None:
        return None
