"""Steps of the model's own that prepare the rows before the model has them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import (
    expect_failure,
    expect_pass,
    expect_verdict,
    leaves_no_trace,
)

CHECK = "train_eval_agreement"


class Prepares(keras.Model):
    """Rows are scaled by the steps; training alone may do it, and evaluation may draw."""

    evaluates = True

    def __init__(self):
        super().__init__()
        self.net = keras.Sequential(
            [
                keras.layers.Dense(16),
                keras.layers.BatchNormalization(momentum=0.8, name="bn"),
                keras.layers.ReLU(),
                keras.layers.Dense(3),
            ],
            name="net",
        )

    def call(self, x, training=None):
        return self.net(x, training=training)

    def train_step(self, data):
        x, y = data
        return super().train_step((20.0 - x / 50.0, y))

    def test_step(self, data):
        x, y = data
        return super().test_step((20.0 - x / 50.0 if self.evaluates else x, y))


class InTrainingAlone(Prepares):
    evaluates = False


class InEvaluationAlone(Prepares):
    def train_step(self, data):
        return keras.Model.train_step(self, data)


class InTwoViews(Prepares):
    """How training prepares the rows can't be seen in one call."""

    def train_step(self, data):
        x, y = data
        x = 20.0 - x / 50.0
        with tf.GradientTape() as tape:
            views = [self(x + noise, training=True) for noise in (0.01, -0.01)]
            loss = sum(self.compute_loss(x, y, view) for view in views)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(x, y, views[0])


def trained(kind, epochs=15):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 256)
    x = (rng.normal(0, 1, (256, 8)) + np.eye(3, 8)[y] * 4 + 2) * 50
    model = kind()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x.astype("float32"), y, epochs=epochs, verbose=0)
    return model, x.astype("float32"), y


@pytest.mark.thorough
def test_evaluation_is_judged_by_the_rows_that_its_step_gives_the_model():
    model, x, y = trained(Prepares)
    with leaves_no_trace(model, x, y):
        result = expect_pass(CHECK, model, x, y)
    assert any("step prepares the rows" in note for note in result.notes)
    assert expect_pass("statistics_health", model, x, y).warnings == ()


@pytest.mark.thorough
def test_a_step_that_calls_the_model_twice_is_taken_to_prepare_as_evaluation_does():
    expect_pass(CHECK, *trained(InTwoViews))


class Clips(Prepares):
    """The later batches hold nothing to clip."""

    def train_step(self, data):
        return keras.Model.train_step(self, (tf.minimum(data[0], 1000.0), data[1]))

    def test_step(self, data):
        return keras.Model.test_step(self, (tf.minimum(data[0], 1000.0), data[1]))


@pytest.mark.thorough
def test_batches_that_a_step_leaves_as_they_are():
    model, x, y = trained(Clips, epochs=0)
    x[:128] += 5000.0 * (np.arange(128) % 2 == 0)[:, None]
    model.fit(x, y, epochs=15, verbose=0)
    result = expect_pass(CHECK, model, x, y)
    assert any("step prepares the rows" in note for note in result.notes)


@pytest.mark.thorough
def test_statistics_of_prepared_rows_may_still_be_wrong():
    model, x, y = trained(Prepares)
    norm = model.net.layers[1]
    norm.moving_mean.assign(norm.moving_mean + 3.0)
    expect_failure(CHECK, model, x, y, rule="BN204", layer="net/bn")


@pytest.mark.thorough
def test_what_only_training_prepares_makes_evaluation_wrong():
    model, x, y = trained(InTrainingAlone)
    cause = "train_step prepares the rows; evaluation gives them to the model as they are"
    expect_failure(CHECK, model, x, y, rule="BN209", cause_tested=True, cause_contains=cause)


@pytest.mark.thorough
def test_what_only_evaluation_prepares_makes_it_wrong():
    model, x, y = trained(InEvaluationAlone)
    cause = "test_step prepares the rows; training gives them to the model as they are"
    expect_failure(CHECK, model, x, y, rule="BN209", cause_tested=True, cause_contains=cause)


class WithoutStatistics(keras.Model):
    """A net whose own steps prepare the rows, and that has no normalization layer."""

    in_evaluation = False

    def __init__(self):
        super().__init__()
        self.net = keras.Sequential(
            [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)], name="net"
        )

    def call(self, x):
        return self.net(x)

    def prepared(self, x, y):
        return 5.0 - x / 50.0

    def train_step(self, data):
        x, y = data
        return super().train_step((self.prepared(x, y), y))

    def test_step(self, data):
        x, y = data
        return super().test_step((self.prepared(x, y) if self.in_evaluation else x, y))


class ByTheBatch(WithoutStatistics):
    def prepared(self, x, y):
        mean, variance = tf.nn.moments(x, [0])
        return (mean - x) / tf.sqrt(variance)


class Alike(WithoutStatistics):
    in_evaluation = True


class GivenTheTargets(WithoutStatistics):
    """As a decoder is in training: what the step gives is no preparation of the rows."""

    def prepared(self, x, y):
        first = tf.cast(y, tf.float32)[:, None]
        return tf.concat([10.0 * first, x[:, 1:] / 50.0], axis=1)


class DrawnAnew(WithoutStatistics):
    def prepared(self, x, y):
        return (x / 50.0 - 2.0) * tf.random.uniform((), 0.5, 1.5)


@pytest.mark.parametrize(
    ("kind", "cause", "remedy"),
    [
        (ByTheBatch, "train_step prepares the rows by the numbers of their batch", "adapt()"),
        (WithoutStatistics, "train_step prepares the rows; evaluation", "in both steps alike"),
    ],
)
def test_rows_that_training_alone_prepares_need_no_statistics(kind, cause, remedy):
    model, x, y = trained(kind)
    with leaves_no_trace(model, x, y):
        found = expect_failure(
            CHECK, model, x, y, rule="BN209", cause_tested=True, cause_contains=cause
        )
    assert remedy in found.remedy


@pytest.mark.every_case
@pytest.mark.parametrize("kind", [Alike, GivenTheTargets, DrawnAnew])
def test_rows_that_evaluation_has_alike_or_that_are_no_preparation(kind):
    model, x, y = trained(kind)
    expect_verdict(CHECK, "not applicable", model, x, y)
