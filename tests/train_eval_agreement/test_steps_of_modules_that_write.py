"""A loop of one's own around a `tf.Module`: what the step writes to statistics is the cause."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


class Normalised(tf.Module):
    """Nobody is bound to call the first argument self."""

    def __init__(it, width):  # noqa: N805
        super().__init__(name="bn")
        it.mean = tf.Variable(tf.zeros(width), trainable=False)
        it.variance = tf.Variable(tf.ones(width), trainable=False)

    def __call__(it, h, training=False):  # noqa: N805
        mean, variance = it.mean, it.variance
        if training:
            mean, variance = tf.nn.moments(h, [0])
            it.mean.assign(0.9 * it.mean + 0.1 * mean)
            it.variance.assign(0.9 * it.variance + 0.1 * variance)
        return (h - mean) * tf.math.rsqrt(variance + 1e-3)


class Net(tf.Module):
    def __init__(self):
        super().__init__(name="net")
        draw = np.random.default_rng(0).normal
        self.first = tf.Variable(draw(0, 0.3, (8, 32)).astype(np.float32))
        self.bn = Normalised(32)
        self.last = tf.Variable(draw(0, 0.2, (32, 3)).astype(np.float32))

    def __call__(self, x, training=False):
        return tf.nn.relu(self.bn(x @ self.first, training)) @ self.last


@pytest.mark.thorough
@pytest.mark.parametrize("decay", [0.0, 0.1], ids=str)
def test_a_step_that_decays_the_statistics(decay):
    model, rng = Net(), np.random.default_rng(1)
    y = rng.integers(0, 3, 512).astype(np.int32)
    x = (rng.normal(0, 1.5, (3, 8))[y] + rng.standard_normal((512, 8)) + 4).astype(np.float32)

    @tf.function
    def step(rows, labels):
        with tf.GradientTape() as tape:
            logits = model(rows, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        weights = model.trainable_variables
        for weight, slope in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.05 * slope)
        if decay:
            for statistic in (model.bn.mean, model.bn.variance):
                statistic.assign((1 - decay) * statistic)
        return loss

    for _ in range(20):
        for start in range(0, 512, 32):
            step(x[start : start + 32], y[start : start + 32])
    given = {"train_step": step, "batch_size": 32, "updates": 320}
    if decay:
        finding = expect_failure(
            CHECK, model, x, y, rule="BN215", layer="bn", cause_tested=True, **given
        )
        assert "test_steps_of_modules_that_write.py" in finding.cause
    else:
        expect_pass(CHECK, model, x, y, **given)
