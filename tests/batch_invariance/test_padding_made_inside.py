"""Models that pad their texts to the longest of the batch, inside of themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "far", "away", "and", "then", "came"]
TEXTS = np.array(
    [[" ".join(np.random.default_rng(n).choice(WORDS, 1 + n))] for n in range(8)], object
)


def build(k, texts_to_ids, *, mask_zero, convolve=False):
    k.utils.set_random_seed(0)
    texts = k.Input((1,), dtype="string")
    h = k.layers.Embedding(
        20, 8, mask_zero=mask_zero, embeddings_initializer=k.initializers.RandomNormal(0, 1)
    )(texts_to_ids(texts))
    if convolve:
        h = k.layers.Conv1D(8, 3, padding="same", name="convolve")(h)
    h = k.layers.GlobalAveragePooling1D(name="pool")(h)
    return k.Model(texts, k.layers.Dense(2)(h))


def vectorization(k, **options):
    return k.layers.TextVectorization(vocabulary=WORDS, name="to_ids", **options)


def splitting(k):
    """Ids by hashing, ragged and then padded."""

    class ToIds(k.layers.Layer):
        def call(self, texts):
            words = tf.strings.split(tf.squeeze(texts, 1))
            return (tf.strings.to_hash_bucket_fast(words, 19) + 1).to_tensor()

        def compute_output_shape(self, shape):
            return (shape[0], None)

        def compute_output_spec(self, texts):
            return keras.KerasTensor((texts.shape[0], None), "int64")

    return ToIds(name="to_ids")


@pytest.mark.thorough
def test_pooling_reads_what_a_vectorization_pads(k):
    finding = expect_failure(
        CHECK,
        build(k, vectorization(k), mask_zero=False),
        TEXTS,
        rule="BN106",
        layer="pool",
        cause_tested=True,
        cause_contains="to_ids pads each batch to its longest row",
    )
    assert "output_sequence_length" in finding.remedy
    expect_pass(CHECK, build(k, vectorization(k), mask_zero=True), TEXTS)
    fixed = vectorization(k, output_sequence_length=12)
    expect_pass(CHECK, build(k, fixed, mask_zero=False), TEXTS)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_pooling_reads_what_a_layer_of_the_users_pads(k, mask_zero):
    model = build(k, splitting(k), mask_zero=mask_zero)
    if mask_zero:
        expect_pass(CHECK, model, TEXTS)
    else:
        expect_failure(CHECK, model, TEXTS, rule="BN106", layer="pool", cause_tested=True)


def of_one_length():
    return np.array([[" ".join(np.roll(WORDS, n)[:4])] for n in range(8)], object)


def taking_turns():
    """Every ninth text, as 8 of 64 lie when they are spread evenly, has the same length."""
    return np.array([[" ".join(np.roll(WORDS, n)[: 3 + n % 3])] for n in range(64)], object)


@pytest.mark.thorough
@pytest.mark.parametrize("texts", [of_one_length, taking_turns])
def test_texts_that_are_not_the_longest_there_are(k, texts):
    """Longer ones come along in use."""
    expect_pass(CHECK, build(k, vectorization(k), mask_zero=True), texts())
    model = build(k, vectorization(k), mask_zero=False)
    expect_failure(CHECK, model, texts(), rule="BN106", layer="pool", cause_tested=True)


def test_a_convolution_reads_it_first():
    model = build(keras, vectorization(keras), mask_zero=False, convolve=True)
    expect_failure(CHECK, model, TEXTS, rule="BN106", layer="convolve", cause_contains="pool")


class Texts(keras.Model):
    """Pads and pools in its own code, with no layer to do it."""

    def __init__(self, masked):
        super().__init__()
        self.embed, self.dense = keras.layers.Embedding(20, 6), keras.layers.Dense(6, name="dense")
        self.head, self.masked = keras.layers.Dense(2, name="head"), masked

    def call(self, texts):
        words = tf.strings.split(tf.squeeze(texts, 1))
        ids = (tf.strings.to_hash_bucket_fast(words, 19) + 1).to_tensor()
        h = self.dense(self.embed(ids))
        if self.masked:
            h = tf.where((ids != 0)[..., None], h, -1e9)
        return self.head(tf.reduce_max(h, axis=1))


@pytest.mark.thorough
def test_code_between_layers_reads_what_code_before_them_pads():
    def build(masked):
        keras.utils.set_random_seed(0)
        model = Texts(masked)
        model(tf.constant(TEXTS))
        return model

    finding = expect_failure(
        CHECK,
        build(False),
        tf.constant(TEXTS),
        rule="BN106",
        layer="between dense and head",
        cause_tested=True,
        cause_contains="the code between the input and embedding",
    )
    assert "pads each batch to its longest row" in finding.cause
    expect_pass(CHECK, build(True), tf.constant(TEXTS))
