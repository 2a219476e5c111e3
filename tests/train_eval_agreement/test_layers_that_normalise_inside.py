"""Layers that compute first and normalise then: their statistics are not those of their input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

AGREEMENT, FROZEN, HEALTH = "train_eval_agreement", "frozen_stability", "statistics_health"


def fused(k, units, momentum=0.9, **named):
    """A dense layer and its normalization in one."""

    class Fused(k.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(shape[-1], units))
            own = {"shape": (units,), "trainable": False}
            self.center = self.add_weight(name="center", initializer="zeros", **own)
            self.spread = self.add_weight(name="spread", initializer="ones", **own)

        def call(self, x, training=False):
            h = tf.matmul(x, tf.convert_to_tensor(self.w))
            mean, variance = self.center, self.spread
            if training:
                mean = tf.reduce_mean(h, 0)
                variance = tf.reduce_mean(tf.square(h - mean), 0)
                for kept, now in ((self.center, mean), (self.spread, variance)):
                    kept.assign(momentum * kept + (1 - momentum) * now)
            return (h - mean) / tf.sqrt(variance + 1e-3)

    return Fused(**named)


@pytest.fixture
def rows():
    keras.utils.set_random_seed(0)
    x = 2 + 3 * np.random.default_rng(0).standard_normal((512, 10)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 2).astype(np.int32)


def trained(k, x, y, rate, momentum=0.9, epochs=5):
    hidden = [(fused(k, 32, momentum, name=n), k.layers.ReLU()) for n in ("one", "two")]
    head = k.layers.Dense(2, "softmax")
    model = k.Sequential([k.Input((10,)), *hidden[0], *hidden[1], head])
    model.compile(k.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


def test_statistics_that_follow_pass(k, rows):
    model = trained(k, *rows, rate=1e-3, epochs=10)
    result = expect_pass(AGREEMENT, model, *rows)
    assert "population statistics of 2 normalization layers" in result.summary
    assert "4 statistics of 2" in expect_pass(HEALTH, model, *rows).summary


def test_statistics_that_are_stale(k, rows):
    model = trained(k, *rows, rate=1e-2, momentum=0.99)
    finding = expect_failure(AGREEMENT, model, *rows, rule="BN201", cause_tested=True)
    assert finding.cause.startswith("momentum 0.99 after 80 updates leaves 44.8%")
    assert set(finding.layers) == {"one", "two"}


@pytest.mark.thorough
def test_statistics_of_one_layer_set_back(k, rows):
    model = trained(k, *rows, rate=1e-3, epochs=10)
    two = model.get_layer("two")
    two.center.assign(np.zeros(32))
    two.spread.assign(np.ones(32))
    expect_failure(AGREEMENT, model, *rows, rule="BN203", layer="two", cause_tested=True)


@pytest.mark.thorough
def test_a_layer_that_ignores_its_flag(k, rows):
    model = trained(k, *rows, rate=1e-3)
    model.get_layer("one").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    expect_failure(FROZEN, model, *rows, rule="BN301", layer="one")


@pytest.mark.thorough
def test_a_variance_that_is_no_number(k, rows):
    """No attribute is called by what it holds."""
    model = trained(k, *rows, rate=1e-3)
    spread = model.get_layer("two").spread
    spread.assign(np.where(np.arange(32) == 3, np.nan, spread.numpy()))
    finding = expect_failure(HEALTH, model, *rows, rule="BN401", layer="two")
    assert finding.message.startswith("its variance has NaN or Inf in 1 of 32 channels")


class Block(tf.Module):
    """A convolution with its normalization, and a way past both."""

    def __init__(self, channels):
        super().__init__(name="block")
        rng = np.random.default_rng(1)
        self.kernel = tf.Variable(rng.normal(size=(3, 3, channels, channels)).astype("f4"))
        self.running_mean = tf.Variable(tf.zeros(channels), trainable=False)
        self.running_var = tf.Variable(tf.ones(channels), trainable=False)

    def __call__(self, x, training=False):
        h = tf.nn.conv2d(x, self.kernel, 1, "SAME")
        mean, variance = self.running_mean, self.running_var
        if training:
            mean, variance = tf.nn.moments(h, [0, 1, 2])
            self.running_mean.assign_sub(0.1 * (self.running_mean - mean))
            self.running_var.assign_sub(0.1 * (self.running_var - variance))
        return x + tf.nn.relu((h - mean) * tf.math.rsqrt(variance + 1e-3))


@pytest.mark.parametrize("as_function", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_block_of_a_module(as_function):
    images = np.random.default_rng(0).normal(1, 2, (128, 6, 6, 3)).astype(np.float32)
    block = Block(3)
    for step in range(80):
        first = step * 32 % 128
        block(images[first : first + 32], training=True)
    model = (lambda x, training=False: block(x, training)) if as_function else block
    expect_pass(AGREEMENT, model, images)
    expect_pass(HEALTH, model, images)
    block.running_var.assign(-block.running_var)
    expect_failure(HEALTH, model, images, rule="BN402", layer="block")
    block.running_var.assign(-block.running_var)
    block.running_mean.assign_add(3 * tf.sqrt(block.running_var))
    expect_failure(AGREEMENT, model, images, rule="BN204", layer="block")
