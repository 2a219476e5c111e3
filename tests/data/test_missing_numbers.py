"""NaN that stands for a missing number: taken where the model fills it in, refused elsewhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import Verdict, check_consistency
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

DEFAULTS = ("batch_invariance", "inference_purity", "train_eval_agreement", "statistics_health")


class FilledByFeature(keras.layers.Layer):
    """Puts a number of its own for each feature where one is missing."""

    def build(self, shape):
        self.fill = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False)

    def call(self, h):
        return tf.where(tf.math.is_nan(h), self.fill, h)


class FilledByBatch(keras.layers.Layer):
    def call(self, h):
        known = ~tf.math.is_nan(h)
        count = tf.maximum(tf.reduce_sum(tf.cast(known, h.dtype), 0), 1)
        mean = tf.reduce_sum(tf.where(known, h, 0.0), 0) / count
        return tf.where(known, h, mean)


@pytest.fixture
def table():
    """512 rows of 8 features around 1, a tenth of them missing, and two classes."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = 1 + 2 * rng.standard_normal((512, 8)).astype(np.float32)
    y = (x[:, :4].sum(1) > x[:, 4:].sum(1)).astype(np.int32)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, y


def trained(filling, x, y, *, momentum=0.9, epochs=8):
    filled = [filling()] if filling else []
    layers = [
        keras.layers.Dense(16),
        keras.layers.BatchNormalization(momentum=momentum, name="bn"),
        keras.layers.ReLU(),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential([keras.Input((8,)), *filled, *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


@pytest.mark.thorough
def test_a_model_that_fills_them_in_passes(table):
    model = trained(FilledByFeature, *table)
    for check in DEFAULTS:
        expect_pass(check, model, *table)
    data = tf.data.Dataset.from_tensor_slices(table).batch(32)
    result = expect_pass("train_eval_agreement", model, data)
    assert "on 512 rows" in result.summary


@pytest.mark.thorough
def test_a_model_that_fills_them_in_by_the_batch_mixes_rows(table):
    model = trained(FilledByBatch, *table, epochs=1)
    layer = model.layers[0].name
    expect_failure("batch_invariance", model, *table, rule="BN101", layer=layer, cause_tested=True)


@pytest.mark.thorough
def test_statistics_that_lack_updates_are_seen_in_such_a_model(table):
    model = trained(FilledByFeature, *table, momentum=0.99, epochs=1)
    expect_failure("train_eval_agreement", model, *table, rule="BN201", layer="bn")


@pytest.mark.thorough
def test_a_frozen_layer_that_moves_is_seen_in_such_a_model(table):
    class Moving(FilledByFeature):
        def call(self, h, training=False):
            if training:
                self.fill.assign_add(tf.ones_like(self.fill))
            return super().call(h)

    model = trained(Moving, *table, epochs=1)
    model.layers[0].trainable = False
    model.compile("adam", model.loss)
    expect_failure("frozen_stability", model, *table, rule="BN301", layer=model.layers[0].name)


def test_a_model_that_gives_nan_for_them_refuses_them(table):
    x, y = table
    model = trained(None, np.nan_to_num(x), y, epochs=1)
    bad = np.isnan(x).any(axis=1)
    said = rf"x has NaN or Inf in {bad.sum()} of 512 rows \(the first is row {bad.argmax()}\)"
    with pytest.raises(DataError, match=said):
        check_consistency(model, x, y)


def test_infinity_is_no_missing_number(table):
    x, y = table
    model = trained(FilledByFeature, x, y, epochs=1)
    x[3, 3] = np.inf
    with pytest.raises(DataError, match="x has NaN or Inf in"):
        check_consistency(model, x, y)


def test_a_label_does_not_tell_whether_a_model_takes_them(table):
    x, y = table
    scores = trained(None, np.nan_to_num(x), y, epochs=1)
    given = keras.Input(x.shape[1:])
    labels = keras.Sequential(
        [given, scores, keras.layers.Lambda(lambda h: tf.argmax(h, axis=-1))]
    )
    with pytest.raises(DataError, match="x has NaN or Inf in"):
        check_consistency(labels, x)


@pytest.mark.thorough
def test_doubles_of_a_function_may_lack_numbers():
    x = np.random.default_rng(0).standard_normal((32, 4))
    x[::3, 1] = np.nan

    def scores(rows):
        return tf.where(tf.math.is_nan(rows), tf.zeros_like(rows), rows) * 2

    expect_verdict("batch_invariance", Verdict.PASSED, scores, x)
