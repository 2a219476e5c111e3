"""A loss that no answer brings to 0 hides no harm: what counts is how much of it can be lost."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.assertions import check_context
from pytest_bnconsistency.checks.train_eval_agreement import tolerances
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.compared_outputs import Side
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


def shares(scores):
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def heads(k):
    """The activation, the loss, what makes targets of three numbers, and a penalty of weights."""
    return {
        "counts": ("exponential", "poisson", lambda z: np.round(np.exp(3 + z)), None),
        "shares": ("softmax", "categorical_crossentropy", lambda z: shares(0.5 * z), None),
        "penalty": ("linear", "mse", lambda z: 3 * z, lambda weight: tf.constant(9.0)),
    }


def trained(k, kind):
    activation, loss, targets, penalty = heads(k)[kind]
    rng = np.random.default_rng(0)
    x = rng.normal(4, 3, (256, 8)).astype(np.float32)
    y = targets(np.tanh((x - 4) @ rng.normal(size=(8, 3)) / 6)).astype(np.float32)
    inputs = k.Input((8,))
    h = k.layers.Dense(16, kernel_regularizer=penalty)(inputs)
    h = k.layers.ReLU()(k.layers.BatchNormalization(momentum=0.97, name="bn")(h))
    model = k.Model(inputs, k.layers.Dense(3, activation=activation)(h))
    model.compile(k.optimizers.Adam(0.01), loss)
    model.fit(x, y, epochs=8, batch_size=32, verbose=0)
    return model, x, y


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["counts", "shares", "penalty"])
def test_statistics_that_are_stale(k, kind, disagrees):
    model, x, y = trained(k, kind)
    stale = model.evaluate(x, y, verbose=0)
    finding = disagrees(model, x, y, rule="BN201")
    assert finding.layer == "bn"
    recalibrate(model, x)
    sound = model.evaluate(x, y, verbose=0)
    assert 0 < stale - sound < 0.1 * abs(sound)  # little beside a loss that can't become 0
    expect_pass(CHECK, model, x, y)


def units(y, answer, loss, activation=None):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(answer.shape[-1], activation)])
    model.compile("sgd", loss)
    context = check_context(model, np.zeros((len(y), 4), np.float32), None, {})
    data = Data(context.given.x, y)
    reference = Side([answer.astype(np.float32)])
    scored = Side(reference.outputs, {"loss": context.subject.loss(data, reference.outputs[0])})
    return tolerances.loss_units(context, data, scored)["loss"], scored.loss


def test_the_entropy_of_targets_is_no_loss_of_the_model():
    y = shares(np.random.default_rng(0).normal(size=(64, 3))).astype(np.float32)
    off = shares(np.log(y) + np.array([0.5, 0, -0.5]))
    divergence = (y * np.log(y / off)).sum(1).mean()
    for answer, from_logits in ((off, False), (np.log(off), True)):
        loss = keras.losses.CategoricalCrossentropy(from_logits=from_logits)
        unit, whole = units(y, answer, loss)
        assert unit == pytest.approx(divergence, rel=1e-3)
        assert whole > 5 * unit


def test_smoothed_labels_are_no_loss_of_the_model():
    y = np.eye(3)[np.arange(60) % 3]
    smooth = 0.9 * y + 0.1 / 3
    answer = 0.8 * y + 0.2 / 3
    unit, loss = units(y, answer, keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    constant = (smooth * np.log(3 * smooth)).sum(1).mean()
    assert unit == pytest.approx(0.1 * constant, rel=0.05)
    assert loss > 3 * unit
    whole, loss = units(y, answer, "categorical_crossentropy")
    assert whole == pytest.approx(loss, rel=1e-3)


def test_answers_worse_than_a_constant_one_leave_the_loss_as_it_is():
    y = np.arange(60) % 3
    unit, loss = units(y, np.full((60, 3), 1 / 3), "sparse_categorical_crossentropy")
    assert unit == pytest.approx(loss, rel=1e-3)


def test_shares_are_no_scores_of_a_loss_of_overlap():
    """Taken for scores, targets would have a loss far below 0, and any loss would be little."""

    def dice(y, p):
        y, p = tf.cast(y, tf.float32), tf.convert_to_tensor(p)
        return 1 - (2 * tf.reduce_sum(y * p) + 1) / (tf.reduce_sum(y) + tf.reduce_sum(p) + 1)

    y = (np.arange(64) % 2).astype(np.float32)[:, None]
    unit, loss = units(y, 0.2 + 0.5 * y, dice, "sigmoid")
    assert unit == pytest.approx(loss, rel=1e-3)


def negative_log_likelihood(y, output):
    mean, log_deviation = output[:, :1], output[:, 1:]
    return tf.square((y - mean) / tf.exp(log_deviation)) / 2 + log_deviation


@pytest.mark.parametrize("metre", [1.0, 1e3, 1e-3])
def test_a_density_has_no_zero(metre):
    """In another unit of length, the loss is another one, and what a model can lose is not."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(512, 1)) * metre
    y = mean + 0.05 * metre * rng.normal(size=(512, 1))
    answer = np.concatenate([mean, np.full_like(mean, np.log(0.05 * metre))], 1)
    unit, loss = units(y, answer, negative_log_likelihood)
    if loss < 0:
        assert 0.3 < unit < 1.5  # half of a square has a deviation of 0.7
    else:
        assert unit >= loss


@pytest.mark.thorough
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_to_denoise_is_to_know_more_than_the_input(share):
    """Beside a mean answer all losses vanish; beside the noisy rows themselves they do not."""
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(512, 2)) @ rng.normal(size=(2, 16))
    x = (clean + 0.1 * rng.normal(size=clean.shape)).astype(np.float32)
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((16,))
    for name in ("one", "two"):
        h = keras.layers.Dense(32, use_bias=False)(h)
        h = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, name=name)(h))
    model = keras.Model(inputs, inputs - keras.layers.Dense(16, kernel_initializer="zeros")(h))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    for rate, epochs in ((3e-3, 30), (3e-4, 10)):
        model.optimizer.learning_rate.assign(rate)
        model.fit(x, clean, epochs=epochs, verbose=0)
    if not share:
        expect_pass(CHECK, model, x, clean)
        return
    for name in ("one", "two"):
        bn = model.get_layer(name)
        bn.moving_mean.assign((1 - share) * bn.moving_mean)
        bn.moving_variance.assign((1 - share) * bn.moving_variance + share)
    loss = model.evaluate(x, clean, verbose=0)
    expect_failure(CHECK, model, x, clean, rule="BN201", cause_tested=True)
    assert loss < 0.02 * np.square(clean).mean()
