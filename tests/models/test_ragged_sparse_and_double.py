"""Rows that are ragged, sparse, doubles, or sequences as long as their batch needs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, assert_batch_invariance
from pytest_bnconsistency.testing import expect_failure, expect_pass

BATCH, PURITY, FROZEN = "batch_invariance", "inference_purity", "frozen_stability"
RAGGED = tf.ragged.constant([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1], [2], [3, 3], [8], [1, 9]])


@pytest.fixture
def doubles():
    return np.random.default_rng(0).standard_normal((8, 4))


def of_ragged_rows(k, *, leak=False, frozen=False):
    """Refuses what is not ragged."""

    class Mean(k.layers.Layer):
        def call(self, ids):
            assert isinstance(ids, tf.RaggedTensor)
            means = tf.reduce_mean(tf.cast(ids, tf.float32), axis=1, keepdims=True)
            return means - tf.reduce_mean(means) if leak else means

        def compute_output_shape(self, shape):
            return (shape[0], 1)

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.mean, self.head = Mean(name="mean"), k.layers.Dense(2)
            self.bn = k.layers.BatchNormalization(name="bn", trainable=not frozen)

        def call(self, x, training=None):
            return self.head(self.bn(self.mean(x), training=training))

    model = Own()
    model(RAGGED)
    model.compile("sgd", "mse", jit_compile=False)
    return model


@pytest.mark.thorough
def test_ragged_rows(k):
    sound = of_ragged_rows(k)
    for check in (BATCH, PURITY):
        expect_pass(check, sound, RAGGED)
    expect_failure(BATCH, of_ragged_rows(k, leak=True), RAGGED, rule="BN101", layer="mean")


@pytest.mark.thorough
def test_steps_on_ragged_rows():
    y = np.ones((8, 2), np.float32)
    batches = tf.data.Dataset.from_tensor_slices((RAGGED, y)).batch(4)
    model = of_ragged_rows(keras, frozen=True)
    expect_pass(FROZEN, model, batches)
    model.bn.trainable = True
    model.compile("sgd", "mse", jit_compile=False)
    expect_failure(FROZEN, model, batches, frozen="bn", rule="BN306", cause_tested=True)


@pytest.mark.thorough
def test_sparse_rows(k):
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((8, 6)).astype(np.float32) * (rng.random((8, 6)) > 0.5)
    x = tf.sparse.from_dense(dense)

    def scores(leak):
        def scored(x):
            assert isinstance(x, tf.SparseTensor)
            found = tf.sparse.sparse_dense_matmul(x, tf.ones((6, 2)))
            return found - tf.reduce_max(found) if leak else found

        return scored

    expect_pass(BATCH, scores(False), x)
    expect_failure(BATCH, scores(True), x, rule="BN101")
    inputs = k.Input((6,), sparse=True)
    model = k.Model(inputs, k.layers.Dense(2)(inputs))
    for check in (BATCH, PURITY):
        expect_pass(check, model, x)


@pytest.mark.parametrize("leak", [False, True])
def test_what_takes_doubles_alone(doubles, leak):
    weights = tf.random.stateless_normal((4, 3), (0, 1), dtype=tf.float64)

    class Module(tf.Module):
        def __call__(self, x):
            h = tf.matmul(x, weights)
            return h - tf.reduce_mean(h) if leak else h

    for subject in (Module(), lambda x: Module()(x)):
        if leak:
            expect_failure(BATCH, subject, doubles, rule="BN101")
        else:
            expect_pass(BATCH, subject, doubles)
            expect_pass(PURITY, subject, doubles)
    expect_pass(BATCH, lambda x: tf.cast(x, tf.float32) * 2, doubles)


def sequences(lengths, kind=int):
    made = [np.arange(1, length + 1).astype(kind) for length in lengths]
    spec = tf.TensorSpec((None,), tf.as_dtype(made[0].dtype))
    return tf.data.Dataset.from_generator(lambda: iter(made), output_signature=spec)


def test_sequences_as_long_as_their_batch_needs(k):
    batches = sequences([3, 2, 1, 5, 1, 2]).padded_batch(2)
    inputs = k.Input((None,), dtype="int64")
    h = k.layers.Embedding(9, 4, mask_zero=True)(inputs)
    model = k.Model(inputs, k.layers.GlobalAveragePooling1D()(h))
    for check in (BATCH, PURITY):
        expect_pass(check, model, batches)


def test_batches_of_unlike_images_are_one_sentence():
    images = [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 5, 3))]
    with pytest.raises(BNConsistencyError, match="rows of unlike shapes in x") as caught:
        assert_batch_invariance(lambda x: x, iter(images))
    assert "\n" not in str(caught.value)
