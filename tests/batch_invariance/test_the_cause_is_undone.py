"""Causes that are established wherever rows lie: along inner axes, in ragged tensors, outside."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


class Own(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def model_with(*functions):
    h = inputs = keras.Input((4,))
    for index, function in enumerate(functions):
        h = Own(function, name=f"own{index}")(h)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(h))


def recurrent(layer, *, rows_as_steps):
    inputs = keras.Input((5, 4))
    h = keras.ops.transpose(inputs, (1, 0, 2)) if rows_as_steps else inputs
    h = layer(h)
    h = keras.ops.transpose(h, (1, 0, 2)) if rows_as_steps else h
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(h))


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.thorough
def test_a_recurrence_over_the_rows(both_ways):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)

    def layer():
        one = keras.layers.GRU(4, return_sequences=True, name="gru")
        return keras.layers.Bidirectional(one, name="both") if both_ways else one

    found = expect_failure(
        CHECK, recurrent(layer(), rows_as_steps=True), x, rule="BN101", cause_tested=True
    )
    assert found.layer == ("both/forward_gru" if both_ways else "gru")
    expect_pass(CHECK, recurrent(layer(), rows_as_steps=False), x)


def centred(x):
    return x - 0.1 * tf.reduce_mean(x, 0, keepdims=True)


@pytest.mark.thorough
def test_more_layers_that_mix_rows_than_are_undone_one_by_one():
    model = model_with(*[centred] * 7)
    found = expect_failure(CHECK, model, X, rule="BN101", layer="own0", cause_tested=True)
    assert "own0, own1, own2 and 4 more layers compute across" in found.cause


def served(scale):
    def function(x):
        x = np.asarray(x)
        steps = scale(np.abs(x)) / 127
        return np.round(x / steps) * steps

    return function


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_function_of_arrays_with_a_scale_for_the_batch():
    function = served(np.max)
    expect_failure(CHECK, function, X, rule="BN101", layer="function", cause_tested=True)
    expect_pass(CHECK, served(lambda x: x.max(-1, keepdims=True)), X)


def ragged_model(scale):
    class Pool(tf_keras.layers.Layer):
        def call(self, x):
            return tf.reduce_mean(x, 1) / scale(x)

    inputs = tf_keras.Input((None, 4), ragged=True)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(2)(Pool(name="pool")(inputs)))


@pytest.mark.thorough
def test_ragged_rows_with_a_scale_for_the_batch():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 4)).tolist() for n in (1, 2, 3, 5, 2, 4, 1, 3)]
    x = tf.ragged.constant(rows, ragged_rank=1, dtype=tf.float32)
    faulty = ragged_model(lambda x: tf.reduce_max(tf.abs(x)))
    expect_failure(CHECK, faulty, x, rule="BN101", layer="pool", cause_tested=True)
    expect_pass(CHECK, ragged_model(lambda x: 2.0), x)


def experts(full):
    """Two experts by the sign of the first feature, the first `full` rows of each get through."""
    rows = tf.random.stateless_normal((2, 4, 4), (1, 2))

    def function(x):
        sent = tf.one_hot(tf.cast(x[:, 0] > 0, tf.int32), 2)
        taken = tf.reduce_sum(tf.cumsum(sent, 0) * sent, -1, keepdims=True) <= full
        return tf.einsum("bd,edo,be->bo", x, rows, sent) * tf.cast(taken, x.dtype)

    return function


@pytest.mark.thorough
def test_experts_that_take_the_first_rows():
    # The last row is one too many as it is, and among copies of itself.
    x = np.abs(X)
    x[:, 0] *= [-1, -1, 1, -1, -1, 1, -1, -1]
    model = model_with(experts(4))
    expect_failure(CHECK, model, x, rule="BN101", layer="own0", cause_tested=True)
    expect_pass(CHECK, model_with(experts(9)), x)


@pytest.mark.thorough
def test_batches_that_were_refused_are_not_counted():
    def strict(x):
        with tf.control_dependencies([tf.debugging.check_numerics(x, "no")]):
            return x * 1.0

    def among_others(function):
        return expect_pass(CHECK, model_with(function), X).summary

    assert "in 3 other batches" in among_others(lambda x: x * 1.0)
    assert "in 3 other batches" in among_others(strict)
    assert "in 1 other batch through" in among_others(refuse_large)


def refuse_large(x):
    with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_sum(tf.abs(x)), 400.0)]):
        return x * 1.0
