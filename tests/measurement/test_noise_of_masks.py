"""What cannot round, or is masked away, adds nothing to the noise bound."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"
pytestmark = pytest.mark.filterwarnings("ignore:Layer '.*mask:UserWarning")
TEXTS = [[5, 3, 8], [7, 2, 9, 4], [1, 6], [3, 4, 12, 20, 9], [2, 5]]
IDS = keras.utils.pad_sequences(TEXTS, padding="post")


def adding(low):
    def attend(h, there):
        scores = tf.matmul(h, h, transpose_b=True)
        away = (1.0 - tf.cast(there, h.dtype))[:, None, :] * tf.cast(low, h.dtype)
        return tf.matmul(tf.nn.softmax(scores + away), h)

    return attend


def choosing(low):
    def attend(h, there):
        scores = tf.where(there[:, None, :], tf.matmul(h, h, transpose_b=True), low)
        return tf.matmul(tf.nn.softmax(scores), h)

    return attend


def multiplying(h, there):
    share = tf.cast(there, h.dtype)
    return h * share[..., None] * (1e6 - (1e6 - 1) * tf.reduce_max(share))


def counting(h, there):
    """A clock in seconds and the time since it began, both whole numbers."""
    clock = tf.cast(tf.range(tf.shape(h)[1]), h.dtype)[None] + 1.5e6 + 0 * tf.cast(there, h.dtype)
    since = (clock - tf.reduce_min(clock, 1, keepdims=True)) / 5
    return h * since[..., None]


def choosing_by_number(h, there):
    """One-hot rows in floating numbers, and a huge number for what they leave out."""
    hot = tf.one_hot(tf.cast(there, tf.int32), 2, dtype=h.dtype)
    return h - (1 - tf.reduce_sum(hot, -1, keepdims=True)) * 1e12


MASKS = {
    "added -1e9": adding(-1e9),
    "added -1e4": adding(-1e4),
    "added smallest number": adding(tf.float32.min),
    "chosen -1e9": choosing(-1e9),
    "chosen -inf": choosing(-np.inf),
    "multiplied": multiplying,
    "a clock": counting,
    "one-hot": choosing_by_number,
}


def network(mask, share):
    """A mean of steps behind a mask, of which a share depends on the number of rows."""

    class Masked(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.supports_masking = True

        def call(self, h, mask=None):
            return kind(h, mask)

    kind = mask
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32")
    normal = keras.initializers.RandomNormal(0, 1)
    h = keras.layers.Embedding(30, 8, mask_zero=True, embeddings_initializer=normal)(ids)
    h = keras.layers.GlobalAveragePooling1D()(Masked()(h))

    def sized(h):
        return h * (1 + share / tf.cast(tf.shape(h)[0], h.dtype))

    return keras.Model(ids, keras.layers.Dense(2)(keras.layers.Lambda(sized, name="sized")(h)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", MASKS)
def test_a_size_that_matters_is_not_hidden_by_a_mask(name):
    expect_failure(CHECK, network(MASKS[name], 3e-4), IDS, rule="BN104")
    if name in ("added -1e9", "a clock"):
        expect_pass(CHECK, network(MASKS[name], 0.0), IDS)


@pytest.mark.thorough
def test_a_mask_of_operations_in_a_graph(k):
    def build(share):
        k.utils.set_random_seed(0)
        ids, there = k.Input((5,), dtype="int32"), k.Input((5,), dtype="int32")
        h = k.layers.Embedding(30, 8)(ids)

        def weights(given):
            h, there = given
            return tf.matmul(h, h, transpose_b=True) + (1.0 - there)[:, None, :] * -1e9

        one = k.layers.Lambda(lambda there: tf.cast(there, "float32"))(there)
        scores = k.layers.Lambda(weights)([h, one])
        h = k.layers.Dot((2, 1))([k.layers.Softmax()(scores), h])
        h = k.layers.Lambda(lambda h: h * (1 + share / tf.cast(tf.shape(h)[0], h.dtype)))(h)
        return k.Model([ids, there], k.layers.Dense(2)(k.layers.GlobalAveragePooling1D()(h)))

    rows = [IDS, (IDS > 0).astype("int32")]
    expect_failure(CHECK, build(3e-4), rows, rule="BN104")
    expect_pass(CHECK, build(0.0), rows)


ROWS = np.random.default_rng(0).normal(size=(8, 12, 6)).astype("f")


def cancelling(mask):
    """A mean over a sequence that was normalised over it: nothing is left of it."""

    def of_steps(given):
        h, x = given
        share = tf.cast(tf.reduce_any(x != 0, -1, keepdims=True), h.dtype)
        return tf.reduce_sum(h * share, 1) / tf.reduce_sum(share, 1)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 6))
    h = keras.layers.Dense(6)(keras.layers.Masking()(inputs) if mask else inputs)
    h = keras.layers.GroupNormalization(groups=6, name="normalise")(h)
    h = keras.layers.Lambda(of_steps, name="mean")([h, inputs])
    return keras.Model(inputs, keras.layers.Dense(2)(h))


@pytest.mark.thorough
def test_outputs_that_cancel_are_as_large_as_in_the_other_run():
    model = cancelling(mask=True)
    expect_failure(CHECK, model, ROWS, rule="BN106", layer="normalise", cause_tested=True)


@pytest.mark.thorough
def test_outputs_that_are_nothing_but_rounding_prove_nothing():
    result = expect_verdict(CHECK, "vacuous", cancelling(mask=False), ROWS)
    assert "rounding alone may move the outputs by as much as they are large" in result.summary
    assert "cancel" in result.hint
