"""What Keras 3 and tf_keras models have in common."""

from __future__ import annotations

import abc
import contextlib
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data import Data, Nest, Spec, flatten, map_nest
from pytest_bnconsistency.errors import DataError, UnsupportedSubjectError
from pytest_bnconsistency.subjects.base import Call, Hook

_patching = threading.RLock()
_SCORING = ("compute_loss", "compute_metrics", "get_metrics_result", "reset_metrics")
"""What turns outputs into loss and metrics."""


class KerasModelSubject(abc.ABC):
    """A model of either Keras generation. Subclasses name the classes whose calls are watched."""

    layer_class: type
    model_class: type
    symbolic_class: type
    """The tensors that a graph is built of."""
    inputs_attribute: str
    """Where a functional model keeps its inputs in the nest that it was given."""
    operation_class: type | None = None
    """The class of graph operations that are no layers, where there is one apart."""

    def __init__(self, model: Any) -> None:
        if not getattr(model, "built", True) and not getattr(model, "inputs", None):
            raise UnsupportedSubjectError(
                f"model {model.name!r} is not built, so it has no weights yet; expected a built "
                "model: call it once on a batch, or give it an input shape"
            )
        self.model = model
        self.name: str = model.name

    @classmethod
    @abc.abstractmethod
    def accepts(cls, model: Any) -> bool: ...

    def inputs(self) -> Nest | None:
        structure = self._input_structure()
        if structure is None:
            return None
        vocabularies = [
            layer.input_dim
            for layer in self.layers()
            if isinstance(getattr(layer, "input_dim", None), int) and hasattr(layer, "output_dim")
        ]
        vocabulary = min(vocabularies, default=2)

        def spec(tensor: Any) -> Spec:
            dtype = getattr(tensor.dtype, "name", tensor.dtype)
            name = getattr(tensor, "name", "x").split(":")[0]
            return Spec(tuple(tensor.shape)[1:], str(dtype), name, vocabulary)

        return map_nest(spec, structure)

    def forward(self, x: Nest, training: bool | None) -> Nest:
        with _quiet():
            return self.model(x) if training is None else self.model(x, training=training)

    def predict(self, x: Nest, batch_size: int) -> Nest:
        with _quiet():
            return self.model.predict(x, batch_size=batch_size, verbose=0)

    def predict_on_batch(self, x: Nest) -> Nest:
        with _quiet():
            return self.model.predict_on_batch(x)

    def layers(self) -> list[Any]:
        """The layers that the model tracks, itself first."""
        return list(self.model._flatten_layers())

    def sublayers(self, layer: Any) -> list[Any]:
        return list(layer._flatten_layers(include_self=False))

    @contextlib.contextmanager
    def watch(self, hook: Hook) -> Iterator[None]:
        """Stand in for `__call__` of the layer class: layers held in closures go there, too."""
        thread = threading.get_ident()
        parents: list[Any] = []
        told: list[bool | None] = []
        calls: Counter[int] = Counter()

        def watched(original: Any, is_layer: bool) -> Any:
            def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
                if (
                    threading.get_ident() != thread
                    or layer is self.model
                    or isinstance(layer, self.layer_class) != is_layer
                    or self._symbolic(args, kwargs)
                ):
                    return original(layer, *args, **kwargs)
                calls[id(layer)] += 1
                path = "/".join([parent.name for parent in parents] + [layer.name])
                number = calls[id(layer)]
                given = kwargs.get("training")
                told.append(given if isinstance(given, bool) else None)
                call = Call(
                    layer, path, number, is_layer, tuple(parents), tuple(told), args, kwargs
                )
                parents.append(layer)
                try:
                    return hook(call, lambda args, kwargs: original(layer, *args, **kwargs))
                finally:
                    parents.pop()
                    told.pop()

            return __call__

        classes = [(self.layer_class, True)]
        if self.operation_class is not None:
            classes.append((self.operation_class, False))
        with _patching, contextlib.ExitStack() as restore:
            for owner, is_layer in classes:
                original = owner.__dict__["__call__"]
                restore.callback(setattr, owner, "__call__", original)
                setattr(owner, "__call__", watched(original, is_layer))  # noqa: B010
            yield

    def takes_training(self, layer: Any) -> bool:
        return "training" in inspect.signature(layer.call).parameters

    def own_variables(self, layer: Any) -> list[Any]:
        found: dict[int, Any] = {}

        def visit(value: Any, depth: int) -> None:
            if isinstance(value, tf.Variable) or hasattr(value, "assign"):
                variable = as_variable(value)
                if variable is not None:
                    found.setdefault(id(variable), variable)
            elif depth and isinstance(value, (list, tuple, set)):
                for item in list(value):
                    visit(item, depth - 1)
            elif depth and isinstance(value, Mapping):
                for item in list(value.values()):
                    visit(item, depth - 1)

        for value in list(vars(layer).values()):
            visit(value, 2)
        return list(found.values())

    def trainable(self, layer: Any) -> bool:
        return bool(getattr(layer, "trainable", True))

    @abc.abstractmethod
    def inference_calls(self) -> Iterable[Any]: ...

    def upstream(self, layer: Any) -> Iterable[Any]:
        stack, seen = list(getattr(layer, "_inbound_nodes", [])), set()
        while stack:
            for parent in stack.pop().parent_nodes:
                if id(parent) not in seen:
                    seen.add(id(parent))
                    stack.append(parent)
                    yield getattr(parent, "operation", None) or parent.layer

    def graph_calls(self, layer: Any) -> int:
        return len(getattr(layer, "_inbound_nodes", []))

    @abc.abstractmethod
    def stochastic(self, layer: Any) -> bool: ...

    def roots(self) -> list[Any]:
        return [self.model]

    @property
    @abc.abstractmethod
    def compiled(self) -> bool: ...

    def updates(self) -> int | None:
        optimizer = getattr(self.model, "optimizer", None)
        iterations = getattr(optimizer, "iterations", None)
        return None if iterations is None else int(iterations.numpy())

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        scores = self._with_targets(
            lambda: self.model.evaluate(
                data.x,
                data.y,
                sample_weight=data.sample_weight,
                batch_size=batch_size,
                verbose=0,
                return_dict=True,
            )
        )
        return dict(sorted(_numbers(scores).items(), key=lambda item: item[0] != "loss"))

    def loss(self, data: Data, outputs: Nest) -> float | None:
        try:
            tensors = map_nest(tf.convert_to_tensor, outputs)
            targets = None if data.y is None else map_nest(tf.convert_to_tensor, data.y)
            return float(self.model.compute_loss(None, targets, tensors, data.sample_weight))
        except Exception:
            # A model may compute its loss in its own way: then only `evaluate` knows it.
            return None

    def scores(self, data: Data, outputs: Nest) -> dict[str, float] | None:
        if any(
            getattr(type(self.model), name, None) is not getattr(self.model_class, name, None)
            for name in ("evaluate", "test_step", "make_test_function", *_SCORING)
        ):
            return None  # the user's own way to score
        loss = self.loss(data, outputs)
        if loss is None:
            return None
        try:
            with _quiet():
                self.model.reset_metrics()
                targets = map_nest(tf.convert_to_tensor, data.y)
                tensors = map_nest(tf.convert_to_tensor, outputs)
                scores = self.model.compute_metrics(None, targets, tensors, data.sample_weight)
        except Exception:
            return None  # `evaluate` says itself what is wrong
        return {"loss": loss, **_numbers({k: v for k, v in scores.items() if k != "loss"})}

    def fit(self, data: Data, batch_size: int) -> None:
        self._with_targets(
            lambda: self.model.fit(
                data.x,
                data.y,
                sample_weight=data.sample_weight,
                batch_size=batch_size,
                epochs=1,
                shuffle=False,
                verbose=0,
            )
        )

    def traced_batch_sizes(self) -> list[int]:
        sizes = {
            int(spec.shape[0])
            for function in _traced_functions(getattr(self.model, "train_function", None), set())
            for concrete in getattr(function, "_list_all_concrete_functions", list)()
            for spec in tf.nest.flatten(concrete.structured_input_signature)
            if isinstance(spec, tf.TensorSpec) and spec.shape.rank and spec.shape[0]
        }
        return sorted(sizes)

    def freeze(self, layer: Any) -> None:
        layer.trainable = False

    def unfreeze(self, layer: Any) -> None:
        layer.trainable = True

    def rebuild_training(self) -> None:
        self.model.make_train_function(force=True)

    def _with_targets(self, run: Any) -> Any:
        try:
            with _quiet():
                return run()
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            first = str(error).strip().splitlines()[0]
            raise DataError(
                f"the model's own loss or step does not take these x and y: {first}; expected "
                "targets as fit takes them"
            ) from error

    def _input_structure(self) -> Nest | None:
        structure = getattr(self.model, self.inputs_attribute, None)
        if structure is None and getattr(self.model, "inputs", None):
            structure = self.model.inputs
        if isinstance(structure, (list, tuple)) and len(structure) == 1:
            return structure[0]  # as Keras takes a list of one
        return structure

    def _symbolic(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether this is a call that builds a graph of Keras tensors, and runs nothing."""
        return any(isinstance(leaf, self.symbolic_class) for leaf in flatten([args, kwargs]))


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items() if np.ndim(value) == 0}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a model's own step warns of, its user has seen in runs of its own."""
    logger = tf.get_logger()
    level = logger.level
    try:
        logger.setLevel("ERROR")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def as_variable(value: Any) -> Any | None:
    """The `tf.Variable` that `value` is or wraps, if it is initialised."""
    if isinstance(value, tf.Variable):
        return value
    inner = getattr(value, "_value", None)
    return inner if isinstance(inner, tf.Variable) else None


def _traced_functions(function: Any, seen: set[int]) -> Iterator[Any]:
    """The `tf.function`s that a training function is made of, through its closures."""
    if not callable(function) or isinstance(function, type) or id(function) in seen:
        return
    seen.add(id(function))
    if hasattr(function, "get_concrete_function"):
        yield function
        function = getattr(function, "python_function", None)
    yield from _traced_functions(getattr(function, "__wrapped__", None), seen)
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield from _traced_functions(cell.cell_contents, seen)
