"""Models that sort, pad or pack the rows of a batch and put them back: nothing depends on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"


@pytest.fixture
def ids():
    """Eight sequences of one to six ids, padded with 0 to seven."""
    rows = np.random.default_rng(0).integers(1, 20, (8, 7))
    for row, length in enumerate((5, 3, 4, 6, 6, 2, 1, 5)):
        rows[row, length:] = 0
    return rows


def model_of(k, call):
    """A subclassed model that embeds ids and runs a recurrent layer over them, in its own way."""

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.embed = k.layers.Embedding(20, 4, mask_zero=True, name="embed")
            self.gru = k.layers.GRU(4, name="gru")
            self.head = k.layers.Dense(2, name="head")

        def call(self, ids):
            return self.head(call(self, ids))

    model = Own()
    model(np.ones((2, 7), int))
    return model


def lengths(ids):
    return tf.math.count_nonzero(ids, 1)


def trimmed(model, ids):
    return model.gru(model.embed(ids[:, : tf.reduce_max(lengths(ids))]))


def by_length(model, ids):
    order = tf.argsort(lengths(ids), stable=True)
    return tf.gather(model.gru(model.embed(tf.gather(ids, order))), tf.argsort(order))


def packed(model, ids):
    steps = tf.where(ids != 0)
    single = model.gru(model.embed(tf.gather_nd(ids, steps)[:, None]))
    return tf.math.unsorted_segment_sum(single, steps[:, 0], tf.shape(ids)[0])


@pytest.mark.thorough
@pytest.mark.parametrize("call", [trimmed, by_length, packed])
def test_sequences(k, ids, call):
    expect_pass(CHECK, model_of(k, call), ids)


@pytest.mark.thorough
def test_texts_that_are_padded_to_the_longest():
    texts = [
        "a cat sat",
        "the dog",
        "a dog ran far away",
        "zebra",
        "cat cat",
        "dog",
        "the the",
        "no",
    ]
    layers = keras.layers
    words = layers.TextVectorization(max_tokens=20)
    words.adapt(texts)
    body = [layers.Embedding(20, 8, mask_zero=True), layers.Bidirectional(layers.LSTM(4))]
    model = keras.Sequential([keras.Input((1,), dtype="string"), words, *body, layers.Dense(1)])
    expect_pass(CHECK, model, np.array(texts)[:, None])


@pytest.mark.thorough
def test_rows_that_are_sorted_by_expert(k, x):
    class Experts(k.layers.Layer):
        def build(self, shape):
            self.gate = k.layers.Dense(3)
            self.kernel = self.add_weight(shape=(3, 4, 4), initializer="glorot_uniform")

        def call(self, x):
            expert = tf.argmax(self.gate(x), -1)
            order = tf.argsort(expert, stable=True)
            kernels = tf.gather(self.kernel, tf.gather(expert, order))
            mixed = tf.einsum("bi,bij->bj", tf.gather(x, order), tf.convert_to_tensor(kernels))
            return tf.gather(mixed, tf.argsort(order))

    expect_pass(CHECK, k.Sequential([k.Input((4,)), Experts(), k.layers.Dense(3)]), x)


@pytest.mark.thorough
def test_a_leak_is_found_beside_them(k, ids):
    def leaking(model, ids):
        h = by_length(model, ids)
        return h + 1e-3 * tf.reduce_mean(h, 0)

    expect_failure(CHECK, model_of(k, leaking), ids, rule="BN101")


def wide_experts(k, mixing):
    """Each row goes to one of four, as wide as kernels that round by the number of rows."""

    class Experts(k.layers.Layer):
        def __init__(self):
            super().__init__(name="experts")
            self.gate = k.layers.Dense(4)
            self.experts = [k.layers.Dense(32, "relu") for _ in range(4)]

        def build(self, shape):
            for layer in (self.gate, *self.experts):
                layer.build(shape)
            super().build(shape)

        def compute_output_shape(self, shape):
            return (shape[0], 32)

        def call(self, x):
            x = x - mixing * tf.reduce_mean(x, 0) if mixing else x
            chosen = tf.argmax(self.gate(x), -1, output_type=tf.int32)
            places = tf.dynamic_partition(tf.range(tf.shape(x)[0]), chosen, 4)
            parts = tf.dynamic_partition(x, chosen, 4)
            given = [expert(part) for expert, part in zip(self.experts, parts, strict=True)]
            return tf.ensure_shape(tf.dynamic_stitch(places, given), [None, 32])

    inputs = k.Input((640,))
    return k.Model(inputs, k.layers.Dense(3)(Experts()(inputs)))


@pytest.mark.thorough
def test_experts_that_take_as_many_rows_as_come(k):
    rows = np.random.default_rng(0).standard_normal((8, 640), np.float32)
    result = expect_pass(CHECK, wide_experts(k, 0.0), rows)
    rounded = any("get other numbers of rows" in note for note in result.notes)  # by the machine
    assert ("keeps its values within noise" in result.summary) is rounded
    expect_failure(CHECK, wide_experts(k, 1e-3), rows, rule="BN101")


def gated(k, expert):
    """Rows with a first feature above zero go through the expert, the others are zeros."""

    class Gated(k.layers.Layer):
        def call(self, x):
            taken = tf.where(x[:, 0] > 0)
            return tf.scatter_nd(taken, expert(tf.gather_nd(x, taken)), tf.shape(x, tf.int64))

        def compute_output_shape(self, shape):
            return shape

    inputs = k.Input((5,))
    return k.Model(inputs, k.layers.Dense(3)(Gated(name="gated")(inputs)))


def test_a_first_row_that_no_expert_takes(k):
    """Whether a leak would be seen is then tried on another row."""
    rows = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    rows[:, 0] = [-1, 1, 1, -1, 1, -1, 1, -1]
    expect_pass(CHECK, gated(k, tf.square), rows)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("expert", [tf.sigmoid, lambda x: x**2.0], ids=["sigmoid", "power"])
def test_an_expert_inside_of_a_layer(k, expert, seed):
    """The rows that it gets have other places beside other rows: kernels round otherwise."""
    rows = np.random.default_rng(seed).standard_normal((8, 5)).astype(np.float32)
    expect_pass(CHECK, gated(k, expert), rows, examples=10)
    leaking = gated(k, lambda x: expert(x) + 1e-3 * tf.reduce_mean(x, 0))
    expect_failure(CHECK, leaking, rows, rule="BN101", layer="gated")


def joined_with_itself(h, mixing):
    """As in a Siamese net: both inputs run as one batch, and are taken apart again."""
    both = tf.concat([h, -h], 0)
    if mixing:
        both = both / tf.norm(both, axis=0, keepdims=True)
    first, second = tf.split(both, 2)
    return first - second


def averaged_over_views(h, mixing):
    """As in augmentation at test time: all rows, then all of them turned."""
    both = tf.tanh(tf.concat([h, tf.reverse(h, [1])], 0))
    pairs = tf.reshape(both, (-1, 2, 4) if mixing else (2, -1, 4))
    return tf.reduce_mean(pairs, 1 if mixing else 0)


def in_two_groups(h, mixing):
    """As in ghost batch normalization, which takes no single row."""
    groups = tf.reshape(h, (2, -1, 4))
    if mixing:
        groups = groups - tf.reduce_mean(groups, 1, keepdims=True)
    return tf.reshape(groups, (-1, 4))


def in_groups_of_four(h, mixing):
    groups = tf.reshape(h, (-1, 4, 4))
    if mixing:
        groups = groups - tf.reduce_mean(groups, 1, keepdims=True)
    return tf.reshape(groups, (-1, 4))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (in_groups_of_four, "the rows meet in Mean over axis 1"),
        (in_two_groups, "the rows meet in Mean over axis 1"),
        (joined_with_itself, "Sum over axis 0"),
        (averaged_over_views, "Reshape"),
    ],
)
def test_what_lays_rows_out_anew_is_not_where_they_meet(x, function, operation):
    class Own(keras.layers.Layer):
        def __init__(self, mixing):
            super().__init__(name="own")
            self.inside = keras.layers.Dense(4, name="inside")
            self.mixing = mixing

        def build(self, shape):
            self.inside.build(shape)

        def call(self, h):
            return function(self.inside(h), self.mixing)

    def build(mixing):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(2)(Own(mixing)(inputs)))

    found = expect_failure(CHECK, build(True), x, rule="BN101", cause_tested=True)
    assert operation in found.cause
    assert found.layer == "own" or found.layer.startswith("between own/inside and")
    if function in (joined_with_itself, averaged_over_views):
        expect_pass(CHECK, build(False), x)  # the others go on refusing odd numbers of rows


@pytest.mark.thorough
def test_a_normalization_layer_between_spaces_put_into_the_batch(x):
    layers = tf_keras.layers

    def build(**called):
        inputs = tf_keras.Input((4, 4, 3))
        blocks = layers.Lambda(lambda h: tf.space_to_batch(h, [2, 2], [[0, 0], [0, 0]]))(inputs)
        h = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 1)(blocks), **called)
        h = layers.Lambda(lambda h: tf.batch_to_space(h, [2, 2], [[0, 0], [0, 0]]))(h)
        return tf_keras.Model(inputs, layers.GlobalMaxPooling2D()(h))

    pictures = np.random.default_rng(0).standard_normal((8, 4, 4, 3)).astype(np.float32)
    expect_failure(
        CHECK, build(training=True), pictures, rule="BN102", layer="norm", cause_tested=True
    )
    expect_pass(CHECK, build(), pictures)
