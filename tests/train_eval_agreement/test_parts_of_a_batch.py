"""Layers that normalise parts of a batch in training take only batches of whole parts there."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_pass

CHECK, PART = "train_eval_agreement", 8


class Ghost(keras.layers.BatchNormalization):
    """Normalises each part of a batch by itself, as published for large batches."""

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs, training=False)
        parts = keras.ops.reshape(inputs, (-1, PART, inputs.shape[-1]))
        mean = keras.ops.mean(parts, 1, keepdims=True)
        variance = keras.ops.var(parts, 1, keepdims=True)
        for kept, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            of_parts = keras.ops.mean(value, (0, 1))
            kept.assign(self.momentum * kept + (1 - self.momentum) * of_parts)
        scaled = (parts - mean) * keras.ops.rsqrt(variance + self.epsilon)
        return keras.ops.reshape(scaled, keras.ops.shape(inputs)) * self.gamma + self.beta


def trained(momentum, epochs):
    keras.utils.set_random_seed(0)
    y = np.arange(192) % 3
    x = np.random.default_rng(0).normal(8 + 10 * np.eye(3, 4)[y], 4).astype(np.float32)
    layers = [Ghost(momentum=momentum, name="ghost"), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model, x, y


@pytest.mark.thorough
def test_statistics_of_parts_that_are_right_pass():
    model, x, y = trained(momentum=0.9, epochs=20)
    expect_pass(CHECK, model, x, y)
    assert not expect_pass("statistics_health", model, x, y).notes


@pytest.mark.thorough
@pytest.mark.parametrize("epochs", [5])
def test_statistics_of_parts_that_begin_to_move_fail(disagrees, epochs):
    model, x, y = trained(momentum=0.99, epochs=epochs)
    finding = disagrees(model, x, y, rule="BN201", layer="ghost")
    assert "leaves 74.0% of the initial values" in finding.cause
    recalibrate(model, x)
    expect_pass(CHECK, model, x, y)
