"""What Keras 3 and tf_keras models have in common."""

from __future__ import annotations

import abc
import contextlib
import functools
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, Spec, flatten, map_nest, packed
from pytest_bnconsistency.data.logits import LOGITS, logits_of
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import DataError, StepError, UnsupportedSubjectError
from pytest_bnconsistency.models.calls import Hook, TracedBatch
from pytest_bnconsistency.models.layer_hooks import by_names, hooked_layers
from pytest_bnconsistency.models.owned_objects import default_mode
from pytest_bnconsistency.models.predict_methods import PredictingSubject, fed, quiet
from pytest_bnconsistency.models.refusals import as_sentence, lacks_call, without_call
from pytest_bnconsistency.models.training_batches import (
    as_given,
    batch_like,
    dataset_of,
    given_dataset,
    rows_in,
    traced_batches,
)
from pytest_bnconsistency.words import brief_line, listed

_UNFIT = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
"""What TensorFlow raises on targets that a loss can't take."""
_SCORING = ("compute_loss", "compute_metrics", "get_metrics_result", "reset_metrics")
"""What turns outputs into loss and metrics."""


class KerasModelSubject(PredictingSubject):
    """A model of either Keras generation. Subclasses name the classes whose calls are watched."""

    mode = "training"
    layer_class: type
    callback_class: type
    symbolic_class: type
    """The tensors that a graph is built of."""
    inputs_attribute: str
    """Where a functional model keeps its inputs in the nest that it was given."""
    optimizer_attribute: str
    """Where an optimizer keeps the places of the weights that it was built for."""
    operation_class: type | None = None
    """The class of graph operations that are no layers, where there is one apart."""

    def __init__(self, model: Any) -> None:
        if lacks_call(model, self.model_class):
            raise UnsupportedSubjectError(without_call(model, self.model_class))
        if not getattr(model, "built", True) and not _given_inputs(model):
            # A custom step may train the parts of a model that itself was never called.
            parts = any(getattr(layer, "built", True) for layer in model.layers)
            why = "it was never called itself" if parts else "so it has no weights yet"
            raise UnsupportedSubjectError(
                f"model {model.name!r} is not built, {why}; expected a built model: call it once "
                "on a batch, as in model(x[:1])"
            )
        super().__init__(model)
        self.mode_required = default_mode(model) is inspect.Parameter.empty
        self._above: dict[int, tuple[Any, ...]] = {}

    @property
    def layerless(self) -> str:
        return ""

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
            rows, *shape = tensor.shape or (None,)
            return Spec(tuple(shape), str(dtype), name, vocabulary, rows=rows)

        return map_nest(spec, structure)

    def forward(self, x: Nest, training: bool | None) -> Nest:
        return self.call(packed(x, self.kinds), self.mode_given(training))

    def call(self, x: Nest, training: bool | None) -> Nest:
        with quiet(), as_sentence(self.call_text(training), x):
            if self.steps:
                return self.model.predict_step((x,))
            return self.model(x) if training is None else self.model(x, training=training)

    def layers(self) -> list[Any]:
        """The layers that the model tracks, itself first."""
        return list(self.model._flatten_layers())

    def path(self, layer: Any) -> str:
        return by_names(list(self.above(layer)), layer)

    def above(self, layer: Any) -> tuple[Any, ...]:
        """The layers that hold a layer of the model, the outermost first."""
        if not self._above:
            stack: list[tuple[Any, tuple[Any, ...]]] = [(self.model, ())]
            while stack:
                holder, parents = stack.pop()
                for inside in _inside(holder):
                    if id(inside) not in self._above:
                        self._above[id(inside)] = parents
                        stack.append((inside, (*parents, inside)))
        return self._above.get(id(layer), ())

    def sublayers(self, layer: Any) -> list[Any]:
        return list(layer._flatten_layers(include_self=False))

    def watch(self, hook: Hook) -> contextlib.AbstractContextManager[None]:
        return hooked_layers(
            self.watched_classes(),
            hook,
            passes=lambda layer, args, kwargs: (
                layer is self.model or self.builds_graph(args, kwargs)
            ),
            path=by_names,
        )

    @classmethod
    def watched_classes(cls) -> list[tuple[type, bool]]:
        """The classes whose calls are watched, and whether their instances are layers."""
        operations = [(cls.operation_class, False)] if cls.operation_class is not None else []
        return [(cls.layer_class, True), *operations]

    def upstream(self, layer: Any) -> Iterable[Any]:
        inbound, seen = getattr(layer, "_inbound_nodes", []), set()
        stack = [node for node in inbound if id(node) in self._graph_nodes]
        while stack:
            for parent in stack.pop().parent_nodes:
                if id(parent) not in seen:
                    seen.add(id(parent))
                    stack.append(parent)
                    yield _called(parent)

    def graph_calls(self, layer: Any) -> int:
        return self._graph_calls[id(layer)]

    @functools.cached_property
    def _graph_nodes(self) -> set[int]:
        """The calls of all graphs in the model, by identity."""
        return {id(node) for each in self.layers() for node in _nodes(each)}

    @functools.cached_property
    def _graph_calls(self) -> Counter[int]:
        """How often a pass of the model, or of a graph in it, calls each layer, by identity."""
        return functools.reduce(operator.or_, map(_calls_in, self.layers()))

    def roots(self) -> list[Any]:
        return [self.model]

    @property
    @abc.abstractmethod
    def was_compiled(self) -> bool:
        """Whether `compile` was called, whatever it was given."""

    @property
    def compiled(self) -> bool:
        return self.was_compiled and (self.own_training or self._is_scored)

    @property
    def evaluates(self) -> bool:
        return self.was_compiled and self._is_scored

    @property
    def _is_scored(self) -> bool:
        """Whether anything makes a loss of outputs; penalties on the weights make none."""
        if self._has_loss or self.own_evaluation():
            return True
        return len(self.model.losses) > self.penalties

    @property
    def _has_loss(self) -> bool:
        """Whether `compile` was given one; tf_keras makes an empty nest of none."""
        loss = getattr(self.model, "loss", None)
        return loss is not None and not (isinstance(loss, (Mapping, list)) and not loss)

    @property
    @abc.abstractmethod
    def penalties(self) -> int:
        """How many losses of the model are of its weights alone."""

    def updates(self) -> int | None:
        optimizer = getattr(self.model, "optimizer", None)
        iterations = getattr(optimizer, "iterations", None)
        return None if iterations is None else int(iterations.numpy())

    def rows_in_evaluation(self, data: Data) -> Nest | None:
        return self._rows_in("test_step", data)

    def rows_in_training(self, data: Data) -> Nest | None:
        return self._rows_in("train_step", data)

    def _rows_in(self, step: str, data: Data) -> Nest | None:
        """What the model is called with in a step: x where it has none of its own, None where it
        is not called once, and where the step raises.
        """
        if not self._overrides(step):
            return data.x
        given: list[Nest] = []
        call = self.model.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            given.append(map_nest(np.asarray, args[0]))
            return call(*args, **kwargs)

        batch = (as_given(data), data.y, data.sample_weight)
        tensors = [map_nest(tf.convert_to_tensor, part) for part in batch if part is not None]
        try:
            with quiet(), self._with_methods({"call": watched}):
                getattr(self.model, step)(tuple(tensors))
        except Exception:  # `evaluate` says itself what is wrong
            return None
        return given[0] if len(given) == 1 else None

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        if self.prepared:
            return {}  # it would prepare them again
        scores = self._with_targets(
            data,
            lambda: self.model.evaluate(
                fed(packed(data.x, self.kinds)),
                data.y,
                sample_weight=data.sample_weight,
                batch_size=batch_size,
                verbose=0,
                return_dict=True,
            ),
        )
        return dict(sorted(_numbers(scores).items(), key=lambda item: item[0] != "loss"))

    def loss(self, data: Data, outputs: Nest) -> float | None:
        try:
            tensors = map_nest(_with_logits, outputs)
            targets = None if data.y is None else map_nest(tf.convert_to_tensor, data.y)
            with quiet():
                return float(self.model.compute_loss(None, targets, tensors, data.sample_weight))
        except Exception:
            # A model may compute its loss in its own way: then only `evaluate` knows it.
            return None

    def losses(self, data: Data, outputs: Nest) -> dict[str, float]:
        names = {f"{output}_loss" for output in getattr(self.model, "output_names", None) or ()}
        if len(names) > 1:
            self.model.reset_metrics()
        loss = self.loss(data, outputs)  # it tracks the losses of single outputs as well
        if loss is None:
            return {}
        tracked = [metric for metric in self.model.metrics if metric.name in names]
        single = {metric.name: float(metric.result()) for metric in tracked}
        return {"loss": loss, **(single if len(names) > 1 else {})}

    def scores(self, data: Data, outputs: Nest) -> dict[str, float] | None:
        own = () if self.prepared else ("evaluate", "test_step", "make_test_function")
        if any(map(self._overrides, (*own, *_SCORING))):
            return None  # the user's own way to score
        try:
            with quiet():
                self.model.reset_metrics()
                loss = self.loss(data, outputs)  # it tracks the losses of single outputs as well
                if loss is None:
                    return None
                targets = map_nest(tf.convert_to_tensor, data.y)
                tensors = map_nest(_with_logits, outputs)
                scores = self.model.compute_metrics(None, targets, tensors, data.sample_weight)
        except Exception:
            return None  # `evaluate` says itself what is wrong
        return {"loss": loss, **_numbers({k: v for k, v in scores.items() if k != "loss"})}

    def fit(self, data: Data, batch_size: int) -> None:
        self._fit(data, batch_size)

    @property
    def takes_callbacks(self) -> bool:
        return not self._overrides("fit")

    def fit_watched(
        self, data: Data, batch_size: int, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        callback = self.callback_class()
        callback.on_train_batch_begin = lambda batch, logs=None: begin()
        callback.on_train_batch_end = lambda batch, logs=None: end()
        self._fit(data, batch_size, callbacks=[callback])

    def _fit(self, data: Data, batch_size: int, **more: Any) -> None:
        if data.form is not None and data.form.streamed:
            self._fit_dataset(data, given_dataset(data, batch_size), **more)
            return
        self._with_targets(
            data,
            lambda: self.model.fit(
                fed(as_given(data)),
                data.y,
                sample_weight=data.sample_weight,
                batch_size=batch_size,
                epochs=1,
                shuffle=False,
                verbose=0,
                **more,
            ),
        )

    def fit_like(self, data: Data, batch_size: int, batch: TracedBatch) -> None:
        names = self.input_names()
        if not batch.by_call:
            exact = rows_in(batch) is not None
            rows = batch_like(data, batch, names)
            self._fit_dataset(data, dataset_of(rows, batch_size, exact=exact))
            return
        for part in data.batches(batch_size):
            given = batch_like(part, batch, names)
            self._with_targets(data, lambda given=given: self.model.train_on_batch(*given))

    def _fit_dataset(self, data: Data, dataset: Any, **more: Any) -> None:
        self._with_targets(
            data, lambda: self.model.fit(dataset, epochs=1, shuffle=False, verbose=0, **more)
        )

    @property
    def needs_targets(self) -> bool:
        return not self.own_training and self._has_loss

    @property
    def own_training(self) -> bool:
        return self._overrides("train_step")

    def training_function(self) -> Any:
        return getattr(self.model, "train_function", None)

    def traced_batches(self) -> list[TracedBatch]:
        return traced_batches(self.training_function())

    def freeze(self, layer: Any) -> None:
        layer.trainable = True  # a flag that is False already is not set, nor passed on
        layer.trainable = False

    def unfreeze(self, layer: Any) -> None:
        layer.trainable = True

    def rebuild_training(self) -> None:
        self.model.make_train_function(force=True)

    def _with_targets(self, data: Data, run: Any) -> Any:
        try:
            with quiet():
                return run()
        except Exception as error:
            if unknown := self.unknown_to_optimizer():
                raise StepError(
                    f"the optimizer was built before {listed(unknown, most=1)} trained, and a "
                    f"step that is traced anew raises {type(error).__name__}; expected a model "
                    "that was compiled after its flags were set: call model.compile(...) again "
                    "after changing trainable"
                ) from error
            if not isinstance(error, (ValueError, TypeError, *_UNFIT)):
                raise
            expected = f"targets as fit takes them{self._about_labels(data)}{self._about_weights}"
            raise DataError(
                f"the model's own loss or step does not take these x and y: {brief_line(error)}; "
                f"expected {expected}"
            ) from error

    def unknown_to_optimizer(self) -> list[str]:
        optimizer: Any = getattr(self.model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        known = getattr(optimizer, self.optimizer_attribute, None) or {}
        training = self.model.trainable_variables if known else ()
        return [getattr(v, "path", v.name) for v in training if optimizer._var_key(v) not in known]

    @property
    def _about_weights(self) -> str:
        """What to do where the model has nothing to train, which some optimizers do not take."""
        if self.model.trainable_variables:
            return ""
        return (
            ", and trainable weights, of which this model has none; unfreeze some, or check the "
            "model before compile()"
        )

    def _about_labels(self, data: Data) -> str:
        """Which labels these are, where they are for one kind of classes' loss or the other."""
        labels, shape = data.y, getattr(self.model, "output_shape", None)
        if not isinstance(labels, np.ndarray):
            return ""
        if labels.dtype == object:
            return " (these are texts; give each row the number of its class)"
        classes = shape[-1] if isinstance(shape, tuple) and len(shape) > 1 else None
        if not classes or classes == 1:
            return ""
        if labels.shape[1:] not in ((), (1,)):
            one_hot = labels.shape[1:] == (classes,)
            return (
                " (these are one-hot rows; a sparse loss takes class numbers)" if one_hot else ""
            )
        if labels.dtype.kind in "iu" and not 0 <= labels.min() <= labels.max() < classes:
            return f" (class numbers of {classes} classes go from 0 to {classes - 1})"
        return f" (these are class numbers; a categorical loss takes rows of {classes})"

    def _input_structure(self) -> Nest | None:
        structure = getattr(self.model, self.inputs_attribute, None)
        if structure is None:
            structure = _given_inputs(self.model) or None
        if isinstance(structure, (list, tuple)) and len(structure) == 1:
            return structure[0]  # as Keras takes a list of one
        return structure

    @classmethod
    def builds_graph(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments builds a graph of Keras tensors only."""
        return any(isinstance(leaf, cls.symbolic_class) for leaf in flatten([args, kwargs]))


def _nodes(model: Any) -> list[Any]:
    """The calls that the graph of a model is made of; none where it is no graph.

    A layer also keeps the calls of graphs that it was part of before: a model that is built layer
    by layer makes one for each.
    """
    graph = getattr(model, "_functional", None) or model
    return [node for nodes in getattr(graph, "_nodes_by_depth", {}).values() for node in nodes]


def _called(node: Any) -> Any:
    return getattr(node, "operation", None) or node.layer


def _calls_in(model: Any) -> Counter[int]:
    """How often a pass of a model calls each layer, by identity, as far as its graph tells."""
    found: Counter[int] = Counter()
    for called in map(_called, _nodes(model)):
        found[id(called)] += 1
        found.update(_calls_in(called))
    return found


def specs_of_shapes(shapes: Any, name: str = "x") -> Nest | None:
    """Inputs of shapes, rows first, in a nest, as a model was built for; None where unknown."""
    if isinstance(shapes, Mapping):
        items = [specs_of_shapes(shape, str(key)) for key, shape in shapes.items()]
        return dict(zip(shapes, items, strict=True)) if items and None not in items else None
    axes = list(shapes) if isinstance(shapes, (list, tuple, tf.TensorShape)) else []
    if axes and all(axis is None or isinstance(axis, int) for axis in axes):
        return Spec(tuple(axes[1:]), "float32", name)
    items = [specs_of_shapes(shape, f"{name}{index}") for index, shape in enumerate(axes)]
    return None if not items or None in items else items


def _given_inputs(model: Any) -> Any:
    """The symbolic inputs that a model was built with; None where it has none."""
    with contextlib.suppress(ValueError):  # some versions raise where others say None
        return getattr(model, "inputs", None)
    return None


def _inside(layer: Any) -> list[Any]:
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _with_logits(output: Any) -> Any:
    """The tensor of an output, as the activation leaves it that gave it."""
    tensor, logits = tf.convert_to_tensor(output), logits_of(output)
    if logits is not None:
        setattr(tensor, LOGITS, tf.convert_to_tensor(logits))
    return tensor


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items() if np.ndim(value) == 0}
