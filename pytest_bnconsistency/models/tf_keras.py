"""tf_keras models (Keras 2), with layers of V2 and V1 behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.src.engine import keras_tensor

from pytest_bnconsistency.data.arrays import Nest, Spec, flatten, map_nest
from pytest_bnconsistency.models.keras_common import KerasModelSubject, specs_of_shapes
from pytest_bnconsistency.models.predict_methods import quiet


class TfKerasSubject(KerasModelSubject):
    """A functional, sequential or subclassed `tf_keras.Model`.

    Operations of a functional graph are layers here (`TFOpLambda`).
    """

    layer_class = tf_keras.layers.Layer
    model_class = tf_keras.Model
    callback_class = tf_keras.callbacks.Callback
    symbolic_class = keras_tensor.KerasTensor
    inputs_attribute = "_nested_inputs"
    optimizer_attribute = "_index_dict"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        return isinstance(model, tf_keras.Model)

    def inference_calls(self) -> Iterable[Any]:
        for layer in self.layers():
            for node in layer._inbound_nodes:
                if node.call_kwargs.get("training") is False:
                    yield layer

    def stochastic(self, layer: Any) -> bool:
        return isinstance(layer, tf_keras.__internal__.layers.BaseRandomLayer)

    def training_phase(self) -> bool:
        with quiet():  # the switch is deprecated, and obeyed
            return bool(tf_keras.backend.learning_phase() == 1)

    def called_inputs(self) -> Nest | None:
        # Keras keeps what the first call was given under names that are not public.
        specs = getattr(self.model, "_saved_model_inputs_spec", None)
        if specs is None:
            return specs_of_shapes(getattr(self.model, "_build_input_shape", None))
        leaves = flatten(specs)
        if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank for spec in leaves):
            return None
        return map_nest(
            lambda spec: Spec(tuple(spec.shape)[1:], spec.dtype.name, spec.name or "x"), specs
        )

    @property
    def was_compiled(self) -> bool:
        return bool(self.model._is_compiled)

    @property
    def penalties(self) -> int:
        return sum(len(getattr(layer, "_callable_losses", ())) for layer in self.layers())

    def rebuild_training(self) -> None:
        # `compile` also notes down which flags its training function runs under.
        vars(self.model)["_compiled_trainable_state"] = self.model._get_trainable_state()
        super().rebuild_training()
