"""Keras 3 models on the TensorFlow backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.errors import UnsupportedSubjectError
from pytest_bnconsistency.models.keras_common import KerasModelSubject, specs_of_shapes


class Keras3Subject(KerasModelSubject):
    """A functional, sequential or subclassed `keras.Model`."""

    layer_class = keras.layers.Layer
    model_class = keras.Model
    callback_class = keras.callbacks.Callback
    symbolic_class = keras.KerasTensor
    inputs_attribute = "_inputs_struct"
    optimizer_attribute = "_trainable_variables_indices"
    operation_class = keras.Operation

    def __init__(self, model: Any) -> None:
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise UnsupportedSubjectError(
                f"Keras runs on the {backend!r} backend; expected 'tensorflow': set "
                "KERAS_BACKEND=tensorflow before Keras is imported"
            )
        super().__init__(model)

    @classmethod
    def accepts(cls, model: Any) -> bool:
        return isinstance(model, keras.Model)

    def inference_calls(self) -> Iterable[Any]:
        for layer in self.layers():
            for operation in getattr(layer, "operations", ()):
                # Keras notes down a default of the layer's own as if it had been given.
                if self.training_default(operation) is False:
                    continue
                for node in operation._inbound_nodes:
                    if node.arguments.kwargs.get("training") is False:
                        yield operation

    @contextlib.contextmanager
    def modes_kept(self, layer: Any) -> Iterator[None]:
        # From 3.16 on, what one call is told counts for all later calls inside of the same model.
        find = getattr(layer, "_get_call_context", None)
        around = {} if find is None else vars(find())
        before = dict(around)
        try:
            yield
        finally:
            around.clear()
            around.update(before)

    def stochastic(self, layer: Any) -> bool:
        return any(
            isinstance(value, keras.random.SeedGenerator)
            for attribute in vars(layer).values()
            for value in (attribute if isinstance(attribute, (list, tuple)) else [attribute])
        )

    def called_inputs(self) -> Nest | None:
        # Keras keeps the shapes of the first call under a name that is not public.
        shapes = list((getattr(self.model, "_build_shapes_dict", None) or {}).values())
        return specs_of_shapes(shapes[0]) if len(shapes) == 1 else None

    def constructor_freezes(self) -> bool:
        layer = keras.layers.Dense(1, trainable=False)
        layer.build((None, 1))
        return not any(weight.trainable for weight in layer.weights)

    @property
    def was_compiled(self) -> bool:
        return bool(self.model.compiled)

    @property
    def penalties(self) -> int:
        weights = self.model.trainable_variables
        return sum(getattr(weight, "regularizer", None) is not None for weight in weights)
