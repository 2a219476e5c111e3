"""Sequences that a longer other row has padded further."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"
pytestmark = pytest.mark.filterwarnings("ignore:Layer 'pool'")  # Keras warns of the fault, too


@pytest.fixture
def ids():
    """Eight sequences of ids, of three to nine steps and padded with 0."""
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 20, (8, 9))
    for row, length in enumerate(rng.integers(3, 10, 8)):
        rows[row, length:] = 0
    return rows


def classifier(k, pool, mask_zero=True):
    inputs = k.Input((None,), dtype="int64")
    h = k.layers.Embedding(20, 8, mask_zero=mask_zero, name="embed")(inputs)
    return k.Model(inputs, k.layers.Dense(3, name="head")(pool(h)))


@pytest.mark.thorough
def test_pooling_that_sees_the_padding(k, ids):
    pool = k.layers.GlobalMaxPooling1D(name="pool")
    expect_failure(CHECK, classifier(k, pool), ids, rule="BN106", layer="pool", cause_tested=True)
    expect_pass(CHECK, classifier(k, k.layers.GlobalAveragePooling1D()), ids)


@pytest.mark.thorough
@pytest.mark.parametrize("given", ["all rows padded", "generated"])
def test_rows_that_are_all_padded(k, ids, given):
    """Then further steps of padding alone would show nothing to a maximum."""
    rows = np.pad(ids, [(0, 0), (0, 2)]) if given == "all rows padded" else None
    pool = k.layers.GlobalMaxPooling1D(name="pool")
    expect_failure(CHECK, classifier(k, pool), rows, rule="BN106", layer="pool")
    result = expect_pass(CHECK, classifier(k, k.layers.GlobalAveragePooling1D()), rows)
    assert "more padding moves none" in result.summary
    unmasked = classifier(k, k.layers.GlobalAveragePooling1D(), mask_zero=False)
    assert "padding" not in expect_pass(CHECK, unmasked, rows).summary


@pytest.mark.thorough
def test_pooling_without_masks_where_the_padding_is_declared(ids):
    mean = keras.layers.GlobalAveragePooling1D(name="pool")
    model = classifier(keras, mean, mask_zero=False)
    expect_failure(CHECK, model, ids, rule="BN106", layer="pool", cause_tested=True, padding=0)
    expect_pass(CHECK, model, ids)  # zeros may be steps like any other


@pytest.mark.thorough
def test_vectors_with_masks(k):
    def build(pool):
        inputs = k.Input((None, 4))
        return k.Model(inputs, pool(k.layers.Masking()(inputs)))

    rows = -np.random.default_rng(0).random((8, 6, 4), np.float32)
    rows[:4, 4:] = 0
    expect_failure(CHECK, build(k.layers.GlobalMaxPooling1D(name="pool")), rows, rule="BN106")
    expect_pass(CHECK, build(k.layers.LSTM(5)), rows)
    expect_pass(CHECK, build(k.layers.Bidirectional(k.layers.LSTM(5))), rows)


def test_images_of_any_size_are_no_sequences(k):
    inputs = k.Input((None, None, 3))
    model = k.Model(inputs, k.layers.GlobalMaxPooling2D()(k.layers.Conv2D(4, 3)(inputs)))
    rows = np.random.default_rng(0).standard_normal((8, 6, 6, 3), np.float32)
    expect_pass(CHECK, model, rows, padding=0)


@pytest.mark.thorough
def test_a_causal_model_that_keeps_its_steps(k, ids):
    model = classifier(k, k.layers.LSTM(6, return_sequences=True))
    expect_pass(CHECK, model, ids)


@pytest.mark.thorough
def test_padding_stripped_to_the_longest_row_of_generated_ids(k):
    class Strip(k.layers.Layer):
        def call(self, ids):
            return ids[:, : tf.reduce_max(tf.math.count_nonzero(ids, 1))]

    def build(*strip):
        body = [k.layers.Embedding(20, 8), k.layers.GlobalAveragePooling1D(), k.layers.Dense(3)]
        return k.Sequential([k.Input((None,), dtype="int64"), *strip, *body])

    expect_failure(CHECK, build(Strip(name="strip")), rule="BN101", layer="strip")
    expect_pass(CHECK, build())
