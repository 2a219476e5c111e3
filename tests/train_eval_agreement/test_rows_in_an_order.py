"""Training met the rows sorted, or one kind last; the data of the check may be shuffled."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from skimage import data
from sklearn.datasets import load_digits

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"
ORDER = "BN207"


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:600].astype(np.float32), y[:600].astype(np.int32)


def dense(k, classes):
    layers = [k.layers.Dense(32), k.layers.BatchNormalization(momentum=0.9, name="bn")]
    layers += [k.layers.ReLU(), k.layers.Dense(classes)]
    model = k.Sequential([k.Input((64,)), *layers])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


@pytest.mark.thorough
def test_two_classes_that_were_not_shuffled(k, disagrees):
    x, y = load_digits(n_class=2, return_X_y=True)
    mixed = x.astype(np.float32), y.astype(np.int32)
    order = np.argsort(mixed[1], kind="stable")
    in_order = mixed[0][order], mixed[1][order]
    model = dense(k, 2)
    model.fit(*in_order, epochs=10, batch_size=32, shuffle=False, verbose=0)
    for given, said in ((in_order, "(as given)"), (mixed, "(sorted by class)")):
        disagrees(model, *given, rule=ORDER, layer="bn", cause_contains=said, batch_size=32)
    model.fit(*mixed, epochs=10, batch_size=32, verbose=0)
    expect_pass(CHECK, model, *mixed, batch_size=32)


@pytest.mark.thorough
def test_training_that_ended_on_some_classes(disagrees, digits):
    """The weights hardly move in it: the statistics do."""
    x, y = digits
    model = dense(keras, 10)
    model.fit(x, y, epochs=30, batch_size=32, verbose=0)
    model.optimizer.learning_rate.assign(1e-5)
    for some in (y < 3, y > 6):
        model.fit(x[some], y[some], epochs=12, batch_size=32, verbose=0)
        said = "training ended on some of them alone"
        disagrees(model, x, y, rule=ORDER, layer="bn", cause_contains=said, batch_size=32)
    model.fit(x, y, epochs=6, batch_size=32, verbose=0)
    expect_pass(CHECK, model, x, y, batch_size=32)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [0, 6])
def test_training_that_ended_on_a_few_steps_of_one_class(disagrees, digits, kind):
    """Half of the statistics are those of the class, the other half is what was there before."""
    x, y = digits
    model = dense(keras, 10)
    model.fit(x, y, epochs=30, batch_size=32, verbose=0)
    model.optimizer.learning_rate.assign(1e-5)
    model.fit(x[y == kind], y[y == kind], epochs=4, batch_size=32, verbose=0)
    said = "(sorted by class): training ended on some of them alone"
    disagrees(model, x, y, rule=ORDER, layer="bn", cause_contains=said, batch_size=32)


@pytest.mark.thorough
def test_one_task_after_the_other_in_the_order_given(disagrees, digits):
    """Without classes: a stream whose rows drift, and the last of them trained on for longer."""
    x, _ = digits
    x = x + np.linspace(0, 60, len(x), dtype=np.float32)[:, None]
    model = dense(keras, 1)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    late = x[400:]
    model.fit(x, x[:, :1], epochs=6, batch_size=32, verbose=0)
    expect_pass(CHECK, model, x, batch_size=32)
    model.fit(late, late[:, :1], epochs=10, batch_size=32, verbose=0)
    disagrees(model, x, rule=ORDER, layer="bn", batch_size=32)


class Discriminator(keras.Model):
    """It tells what is real from noise, `apart` in calls of their own or in one batch."""

    def __init__(self, apart):
        super().__init__()
        self.apart = apart
        hidden = []
        for filters in (12, 16):
            norm = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{filters}")
            hidden += [keras.layers.Conv2D(filters, 3, 2), norm, keras.layers.LeakyReLU()]
        layers = [*hidden, keras.layers.Flatten(), keras.layers.Dense(1)]
        self.scores = keras.Sequential([keras.Input((16, 16, 3)), *layers], name="scores")

    def call(self, x, training=None):
        return self.scores(x, training=training)

    def train_step(self, given):
        real = given[0]
        noise = tf.random.uniform(tf.shape(real)) * 0.3 + 0.1
        zero = tf.zeros((tf.shape(real)[0], 1))
        with tf.GradientTape() as tape:
            batches = [real, noise] if self.apart else [tf.concat([real, noise], 0)]
            said = tf.concat([self.scores(rows, training=True) for rows in batches], 0)
            labels = tf.concat([zero + 1, zero], 0)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, said))
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss}


@pytest.mark.thorough
@pytest.mark.parametrize("apart", [True, False])
def test_a_step_that_gives_a_layer_one_kind_after_the_other(apart):
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    photographs += [data.immunohistochemistry(), data.retina()]
    corners = rng.integers(0, 280, (800, 2))
    real = [photographs[i % 6][a : a + 16, b : b + 16] for i, (a, b) in enumerate(corners)]
    real = np.array(real, np.float32) / 255
    keras.utils.set_random_seed(0)
    model = Discriminator(apart)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model(real[:2])
    ones = np.ones((800, 1), np.float32)
    model.fit(real, ones, epochs=24, verbose=0)
    noise = (0.3 * rng.random(real.shape) + 0.1).astype(np.float32)
    x, y = np.concatenate([real, noise]), np.concatenate([ones, 0 * ones])
    if apart:
        finding = expect_failure(
            CHECK, model, x, y, rule="BN210", cause_tested=True, max_rows=1600
        )
        assert "a training step runs scores/norm_12 2 times" in finding.cause
    else:
        expect_pass(CHECK, model, x, y, max_rows=1600)
