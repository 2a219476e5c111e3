"""Models whose own `train_step` takes rows alone: their steps run as those with targets do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"
DOMAINS, SHIFT, STEP_WRITES = "BN210", "BN209", "BN215"


def rows():
    return np.random.default_rng(0).normal(2, 1.5, (256, 6)).astype(np.float32)


def encoder(k, step, widths=(8,)):
    """A net whose training step makes `step(model, rows)`, a loss, as small as it can."""
    k.utils.set_random_seed(1)

    class Encoder(k.Model):
        def train_step(self, batch):
            batch = batch[0] if isinstance(batch, tuple) else batch
            with tf.GradientTape() as tape:
                loss = step(self, batch)
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    inputs = h = k.Input((6,))
    for number, width in enumerate(widths):
        name = f"bn{number or ''}"
        h = k.layers.BatchNormalization(momentum=0.9, name=name)(k.layers.Dense(width)(h))
        h = k.layers.ReLU()(h)
    model = Encoder(inputs, k.layers.Dense(6, name="out")(h))
    model.compile(k.optimizers.Adam(1e-3))
    model.fit(rows(), epochs=12, batch_size=32, verbose=0)
    model.optimizer.learning_rate.assign(1e-5)
    model.fit(rows(), epochs=6, batch_size=32, verbose=0)
    return model


def rebuilds(model, x):
    return tf.reduce_mean((model(x, training=True) - x) ** 2)


def tells_real_from_made(model, x):
    """As a discriminator of two batches, one of them made up."""
    made = tf.random.stateless_normal(tf.shape(x), (1, 2)) - 2
    real, false = model(x, training=True), model(made, training=True)
    return tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(false))


def rebuilds_scaled(model, x):
    return tf.reduce_mean((model(3 * x + 1, training=True) - x) ** 2)


def agrees_on_two_views(model, x):
    """Both augmented alike: they differ from the rows, and by chance alone from one another."""
    views = (x + 0.5 + tf.random.normal(tf.shape(x)) for _ in range(2))
    return tf.reduce_mean(tf.square(tf.add_n([model(view, training=True) - x for view in views])))


def rebuilds_and_decays(model, x):
    loss = rebuilds(model, x)
    for weight in model.get_layer("bn").non_trainable_weights:
        weight.assign(weight * 0.9)
    return loss


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (tells_real_from_made, DOMAINS),
        (rebuilds_scaled, SHIFT),
        (rebuilds_and_decays, STEP_WRITES),
    ],
)
def test_what_a_step_without_targets_does_to_the_statistics(disagrees, step, rule):
    disagrees(encoder(keras, step), rows(), None, rule=rule, layer="bn", batch_size=32)


@pytest.mark.thorough
def test_views_that_differ_by_chance_alone_are_no_two_domains():
    model = encoder(keras, agrees_on_two_views, widths=(16,) * 4)
    expect_failure(CHECK, model, rows(), rule=SHIFT, cause_tested=True, batch_size=32)


@pytest.mark.thorough
@pytest.mark.parametrize("k", [keras, tf_keras])
def test_a_step_without_targets_that_updates_once(k):
    result = expect_pass(CHECK, encoder(k, rebuilds), rows(), batch_size=32)
    assert result.warnings == ()
