"""Each row by itself in training, and all rows by stored statistics in evaluation."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.datasets import load_digits

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"
L = keras.layers


class Standardised(L.Layer):
    """A row by its own mean and variance; in evaluation by an average of them, or by its own."""

    def __init__(self, stored, **options):
        super().__init__(**options)
        self.stored = stored

    def build(self, shape):
        def weight(name, start):
            return self.add_weight(shape=shape[-1:], initializer=start, trainable=False, name=name)

        self.mean, self.variance = weight("mean", "zeros"), weight("variance", "ones")

    def call(self, x, training=None):
        mean = ops.mean(x, (1, 2), keepdims=True)
        variance = ops.var(x, (1, 2), keepdims=True)
        if training:
            for kept, now in ((self.mean, mean), (self.variance, variance)):
                kept.assign(0.9 * kept + 0.1 * ops.mean(now, (0, 1, 2)))
        elif self.stored:
            mean, variance = self.mean, self.variance
        return (x - mean) / ops.sqrt(variance + 1e-5)


@functools.cache
def digits():
    """In unlike light."""
    x, y = load_digits(return_X_y=True)
    light = np.random.default_rng(3).uniform(0.2, 5, (512, 1, 1, 1))
    return (x[:512].reshape(-1, 8, 8, 1) / 16 * light).astype(np.float32), y[:512]


def trained(stored):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(12, 3),
            Standardised(stored, name="standardised"),
            L.ReLU(),
            L.Flatten(),
            L.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*digits(), epochs=10, verbose=0)
    return model


@pytest.mark.thorough
def test_stored_statistics_stand_for_those_of_each_row():
    """Population statistics mend nothing: evaluation should not use any."""
    x, y = digits()
    model = trained(stored=True)
    assert model.evaluate(x, y, verbose=0)[1] < 0.94  # in training mode, all are right
    expect_failure(CHECK, model, x, y, rule="BN216", layer="standardised", cause_tested=True)
    expect_pass(CHECK, trained(stored=False), x, y)
