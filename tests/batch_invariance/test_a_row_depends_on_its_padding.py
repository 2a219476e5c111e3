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


def masked(k, name):
    return k.Input((None,), dtype="int32", name=name), k.Input((None,), name=f"{name}_mask")


@pytest.mark.parametrize("blind", ["to none", "to the questions'"])
def test_two_sequences_each_with_a_mask_among_the_inputs(k, blind):
    """Steps of padding of the one read more of the padding of the other: they don't count."""
    text, text_mask = masked(k, "text")
    question, question_mask = masked(k, "question")
    embed = k.layers.Embedding(20, 8)
    normal = k.initializers.RandomNormal(0, 1)

    class Attend(k.layers.Layer):
        def call(self, h, few, mask, few_mask):
            scores = tf.matmul(h, few, transpose_b=True)
            if blind == "to none":
                scores += 1e9 * (tf.minimum(few_mask[:, None], mask[:, :, None]) - 1)
            return h + tf.matmul(tf.nn.softmax(scores), few)

    h = Attend(name="attend")(embed(text), embed(question), text_mask, question_mask)
    outputs = k.layers.Dense(2, kernel_initializer=normal)(h)
    model = k.Model([text, text_mask, question, question_mask], outputs)
    rows = []
    for steps, seed in ((10, 0), (7, 1)):
        ids = np.random.default_rng(seed).integers(1, 20, (8, steps)).astype(np.int32)
        for row in range(1, 8):
            ids[row, steps - 1 - row % (steps - 2) :] = 0
        rows += [ids, (ids != 0).astype(np.float32)]
    if blind == "to none":
        assert "more padding moves none" in expect_pass(CHECK, model, rows).summary
    else:
        expect_failure(CHECK, model, rows, rule="BN106", cause_tested=True)


@pytest.mark.thorough
def test_lengths_that_are_multiples(k):
    """A sequence in patches of 4 steps: 3 more of them are refused."""

    class Patches(k.layers.Layer):
        def call(self, h, mask):
            patches = tf.reshape(h * mask[..., None], (tf.shape(h)[0], -1, 4 * 2))
            count = tf.maximum(tf.reduce_sum(mask, 1, keepdims=True) / 4, 1)
            if self.name == "of_all":
                count = 0 * count + tf.cast(tf.shape(patches)[1], tf.float32)
            return tf.reduce_sum(patches, 1) / count

    def model(name):
        steps, mask = k.Input((None, 2), name="steps"), k.Input((None,), name="mask")
        return k.Model([steps, mask], k.layers.Dense(2)(Patches(name=name)(steps, mask)))

    mask = np.ones((8, 16), np.float32)
    for row in range(1, 8):
        mask[row, 4 * (1 + row % 3) :] = 0
    steps = np.random.default_rng(0).standard_normal((8, 16, 2), np.float32) * mask[..., None]
    found = expect_failure(CHECK, model("of_all"), [steps, mask], rule="BN106", layer="of_all")
    assert "padded 4 steps further" in found.message
    assert "more padding moves none" in expect_pass(CHECK, model("own"), [steps, mask]).summary


def test_a_row_that_is_too_short_to_run_alone(ids):
    """Two steps make one of a convolution: a row of one step is refused, and others tell."""

    def model(pool):
        inputs = keras.Input((None,), dtype="int64")
        h = keras.layers.Embedding(20, 8, mask_zero=True)(inputs)
        h = keras.layers.Conv1D(6, 2, name="pair")(h)
        return keras.Model(inputs, pool(h))

    ids[3, 1:] = 0
    pool = keras.layers.GlobalMaxPooling1D(name="pool")
    with pytest.warns(UserWarning, match="mask"):
        expect_failure(CHECK, model(pool), ids, rule="BN106", layer="pool")
