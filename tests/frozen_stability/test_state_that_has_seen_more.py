"""A frozen layer that writes what is there already moves as soon as other rows come."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "frozen_stability"


def data():
    x = np.random.default_rng(0).standard_normal((32, 4), np.float32)
    return x, x[:, :1]


def model_of(layer):
    inputs = keras.Input((4,))
    h = keras.layers.Rescaling(1e-3)(inputs)  # so that the rows of steps are no farther out
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(keras.ops.tanh(h))))
    model.compile("sgd", "mse")
    layer.trainable = False
    return model


class Largest(keras.layers.Layer):
    """Keeps the largest input so far, as a layer that simulates quantization does."""

    minds_trainable = False

    def build(self, shape):
        self.largest = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x, training=None):
        if training and (self.trainable or not self.minds_trainable):
            self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(keras.ops.abs(x))))
        return x / self.largest


class Obedient(Largest):
    minds_trainable = True


def test_a_maximum_that_is_not_exceeded():
    finding = expect_failure(
        CHECK,
        model_of(Largest(name="largest")),
        *data(),
        rule="BN301",
        layer="largest",
        cause_tested=True,
        cause_contains="does not look at trainable",
        remedy=lambda model: model_of(Obedient()),
    )
    assert "from 0: what is stored has seen more than these rows" in finding.message


class Initialised(keras.layers.Layer):
    """Takes its scale from the first batch; a flag says that it did. Its buffer is emptied."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False)
        self.done = self.add_weight(shape=(), initializer="ones", trainable=False)
        self.buffer = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False)

    def call(self, x, training=None):
        if training:
            first = 1 / (1e-3 + keras.ops.std(x, axis=0))
            self.scale.assign(keras.ops.where(self.done > 0, self.scale, first))
            self.done.assign(1.0)
            self.buffer.assign(keras.ops.zeros_like(self.buffer))
        return x * self.scale


@pytest.mark.parametrize("frozen", [None, "init*"])
def test_what_is_written_whatever_the_rows(frozen):
    expect_pass(CHECK, model_of(Initialised(name="init")), *data(), frozen=frozen)


class OfItsWeights(keras.layers.Layer):
    """A step of a power iteration that has converged, as of spectral normalization."""

    def build(self, shape):
        kernel = np.diag([3.0, 1.0, 0.5, 0.1])
        self.kernel = self.add_weight(shape=kernel.shape, initializer=lambda *_, **__: kernel)
        self.vector = self.add_weight(shape=(4,), initializer="zeros", trainable=False)
        self.vector.assign([1, 0, 0, 0])

    def call(self, x, training=None):
        if training:
            start = self.vector + keras.ops.cast(keras.ops.all(self.vector == 0), "float32")
            self.vector.assign(keras.ops.normalize(keras.ops.matmul(self.kernel, start)))
        return keras.ops.matmul(x, self.kernel) / keras.ops.norm(self.kernel[:, 0])


def test_what_hangs_on_the_weights_alone_and_has_converged():
    model = model_of(OfItsWeights(name="spectral"))
    before = model.get_layer("spectral").vector.numpy()
    model.fit(*data(), verbose=0)
    np.testing.assert_array_equal(model.get_layer("spectral").vector, before)
    expect_pass(CHECK, model, *data())
    model.get_layer("spectral").vector.assign([0.5, 0.5, 0.5, 0.5])
    expect_failure(CHECK, model, *data(), rule="BN301", layer="spectral")
