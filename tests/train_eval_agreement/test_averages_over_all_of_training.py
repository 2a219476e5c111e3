"""Statistics that count every step of training alike: they forget no early weights."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


def normalization(k, name, *, by_steps):
    """Averages over all steps, or exponential ones with a counter that does nothing."""

    class Normalization(k.layers.Layer):
        def build(self, shape):
            def weight(name, shape, value):
                start = k.initializers.Constant(value)
                return self.add_weight(name=name, shape=shape, initializer=start, trainable=False)

            self.steps = weight("steps", (), 0)
            self.mean, self.variance = (weight(n, shape[-1:], v) for n, v in (("m", 0), ("v", 1)))

        def call(self, x, training=None):
            x = tf.convert_to_tensor(x)
            mean, variance = tf.convert_to_tensor(self.mean), tf.convert_to_tensor(self.variance)
            if training:
                m, v = tf.nn.moments(x, 0)
                self.steps.assign(self.steps + 1)
                share = 1 / tf.convert_to_tensor(self.steps) if by_steps else 0.2
                self.mean.assign(mean + share * (m - mean))
                self.variance.assign(variance + share * (v - variance))
                mean, variance = m, v
            return (x - mean) * tf.math.rsqrt(variance + 1e-3)

    return Normalization(name=name)


def trained(k, rate, *, by_steps=True, last=0):
    rng, y = np.random.default_rng(0), np.arange(256) % 3
    x = (rng.normal(0, 0.7, (3, 8))[y] + rng.normal(0, 1, (256, 8))).astype(np.float32)
    k.utils.set_random_seed(0)
    inputs = h = k.Input((8,))
    for name in ("one", "two", "three"):
        h = normalization(k, name, by_steps=by_steps)(k.layers.Dense(16)(h))
        h = k.layers.ReLU()(h)
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(h))
    model.compile(k.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=12, verbose=0)
    if last:
        model.optimizer.learning_rate.assign(1e-5)
        model.fit(x, y, epochs=last, verbose=0)
    return model, x, y


@pytest.mark.thorough
def test_weights_that_still_move(k):
    model, x, y = trained(k, 0.03)
    finding = expect_failure(CHECK, model, x, y, rule="BN202", cause_tested=True)
    assert "averages over all of training (the last step counts 0.01)" in finding.cause
    assert finding.remedy.startswith("keep exponential averages")
    recalibrate(model, x)
    expect_pass(CHECK, model, x, y)
    expect_pass(CHECK, *trained(k, 0.03, by_steps=False, last=4))


@pytest.mark.thorough
def test_weights_that_have_come_to_rest(k):
    """No more steps show what the first ones left, and no number of updates would do."""
    model, x, y = trained(k, 0.06, last=2)
    finding = expect_failure(CHECK, model, x, y, rule="BN204")
    assert "averages over all of training keep of early weights" in finding.cause
    assert "initial values" not in finding.cause
    assert "keep exponential averages" in finding.remedy
