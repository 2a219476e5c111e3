"""Generated rows are such as the model takes: ids of what reads them, shapes, lengths."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, assert_batch_invariance
from pytest_bnconsistency.data.arrays import flatten
from pytest_bnconsistency.execution.accepted_sizes import specs_of
from pytest_bnconsistency.models import subject_of
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

BATCH = "batch_invariance"


def leak(k):
    class Own(k.layers.Layer):
        def call(self, x):
            return x - tf.reduce_mean(x, 0)

    return Own(name="leak")


def embedded(k, inputs):
    return k.layers.Flatten()(k.layers.Embedding(20, 3)(inputs))


def sliced(k, inputs):
    """A number and an id in one input."""
    one_hot = k.layers.Lambda(lambda x: tf.one_hot(tf.cast(x[:, 0], tf.int32), 7))(inputs)
    return k.layers.Concatenate()([one_hot, inputs])


def counted(k, inputs):
    return k.layers.CategoryEncoding(num_tokens=6, output_mode="multi_hot")(inputs)


def shifted(k, inputs):
    return k.layers.Flatten()(k.layers.Embedding(9, 3)(inputs + 2))


READERS = {embedded: 20, sliced: 7, counted: 6, shifted: 7}


@pytest.mark.thorough
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_ids_in_an_input_of_floats(k, read):
    inputs = k.Input((4,))
    spec = specs_of(subject_of(k.Model(inputs, read(k, inputs))))
    assert (spec.dtype, spec.vocabulary) == ("int32", READERS[read])
    h = k.layers.BatchNormalization()(k.layers.Dense(4)(read(k, inputs)))
    if read is embedded:
        expect_pass(BATCH, k.Model(inputs, h))
    expect_failure(BATCH, k.Model(inputs, leak(k)(h)), rule="BN101", layer="leak")


@pytest.mark.thorough
def test_ids_that_a_table_names(k):
    inputs = k.Input((2,), dtype="int64")
    looked_up = k.layers.IntegerLookup(vocabulary=[10, 20, 35], num_oov_indices=0)(inputs)
    model = k.Model(inputs, k.layers.Flatten()(k.layers.Embedding(4, 3)(looked_up)))
    assert specs_of(subject_of(model)).values == (10, 20, 35)
    expect_pass(BATCH, model)


def test_floats_stay_floats(k):
    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(2)(k.layers.BatchNormalization()(inputs)))
    assert specs_of(subject_of(model)).dtype == "float32"


@pytest.mark.thorough
def test_given_ids_in_an_input_of_floats(k):
    """No row is made of them that holds no id: a hundredfold, a NaN."""
    ids = np.random.default_rng(0).integers(0, 20, (12, 4)).astype(np.float32)
    inputs = k.Input((4,))
    sound = embedded(k, inputs)
    assert not expect_pass(BATCH, k.Model(inputs, sound), ids).notes
    expect_failure(BATCH, k.Model(inputs, leak(k)(sound)), ids, rule="BN101", layer="leak")


def of_a_dict(k, middle):
    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.read, self.dense, self.middle = (
                k.layers.Embedding(9, 4),
                k.layers.Dense(3),
                middle,
            )

        def call(self, x, training=None):
            return self.middle(self.dense(tf.reduce_mean(self.read(x["ids"]), 1) + x["numbers"]))

    model = Own()
    model({"ids": np.ones((2, 5), np.int32), "numbers": np.ones((2, 4), np.float32)})
    return model


def of_images(k, middle):
    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = k.layers.Conv2D(4, 3), k.layers.GlobalAveragePooling2D()
            self.middle = middle

        def call(self, x, training=None):
            return self.middle(self.pool(self.conv(x)))

    model = Own()
    model(np.ones((2, 20, 12, 3), np.float32))
    return model


def of_places(k, middle):
    """Whole numbers alone will do: nothing casts them."""

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.table, self.middle = tf.Variable(tf.random.normal((7, 3))), middle

        def call(self, x, training=None):
            return self.middle(tf.gather(self.table, x[0])[:, 0] * x[1])

    model = Own()
    model([np.ones((2, 5), np.int32), np.ones((2, 3), np.float32)])
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("build", [of_a_dict, of_images, of_places], ids=lambda b: b.__name__)
def test_what_a_subclassed_model_was_called_with(k, build):
    expect_failure(BATCH, build(k, leak(k)), rule="BN101", layer="leak")
    if build is of_a_dict:
        sound = build(k, k.layers.BatchNormalization())
        expect_pass(BATCH, sound)
        ids, numbers = flatten(specs_of(subject_of(sound)))
        told = [(spec.shape, spec.dtype, spec.vocabulary) for spec in (ids, numbers)]
        assert told == [((5,), "int32", 9), ((4,), "float32", 2)]
        more = {"ids": np.ones((8, 6), np.int32), "numbers": np.ones((8, 4), np.float32)}
        more["numbers"] *= np.arange(8.0)[:, None]
        expect_pass(BATCH, sound, more)  # rows of another length are its user's affair


class Positions(keras.layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(77, 8), name="table")

    def call(self, x):
        return x + self.table


@pytest.mark.thorough
def test_a_table_of_positions():
    inputs = keras.Input((None,), dtype="int32")
    h = Positions()(keras.layers.Embedding(50, 8)(inputs))
    expect_pass(BATCH, keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(h)))


class Longest(keras.layers.Layer):
    def __init__(self, longest):
        super().__init__()
        self.longest = longest

    def call(self, x):
        tf.debugging.assert_less_equal(tf.shape(x)[1], self.longest)
        return x


def test_a_longest_sequence():
    inputs = keras.Input((None, 3))
    h = keras.layers.GlobalAveragePooling1D()(Longest(11)(inputs))
    expect_pass(BATCH, keras.Model(inputs, h))


@pytest.mark.thorough
def test_a_flattened_sequence(k):
    inputs = k.Input((None, 8))
    h = k.layers.Conv1D(4, 3, padding="same")(inputs)
    flat = k.layers.Lambda(lambda x: tf.reshape(x, [-1, 20 * 4]))(h)
    model = k.Model(inputs, k.layers.Dense(2)(flat))
    expect_pass(BATCH, model)


def of_one_length():
    """Nothing in it says how long its sequences are."""
    inputs = keras.Input((None, 3), name="steps")
    h = keras.layers.Lambda(lambda x: x + tf.range(13.0)[:, None])(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(h))


@pytest.mark.parametrize("shape", [(13, 3), {"steps": (13, 3)}, "steps=(13, 3)", "(13, 3)"])
def test_the_shape_that_the_user_says(shape):
    expect_pass(BATCH, of_one_length(), shape=shape)


@pytest.mark.thorough
def test_the_shape_where_nothing_tells_one():
    table = tf.random.stateless_normal((6, 2), (0, 1))
    expect_pass(BATCH, lambda x: x @ table, shape=(6,))
    expect_failure(BATCH, lambda x: x @ table - tf.reduce_mean(x), shape=(6,), rule="BN101")
    two = {"left": (6,), "right": (2,)}
    expect_pass(BATCH, lambda x: x["left"] @ table + x["right"], shape=two)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (None, r"say how long the axes are: shape=\(128, 3\), --bn-shape '\(128, 3\)'"),
        ({"other": (13, 3)}, "names 'other'; expected one of the inputs steps"),
        ((13,), r"option 'shape' is \(13,\) for input 'steps'; expected \(any, 3\)"),
        ("steps=(13, 3.5)", r"option 'shape' is 'steps=\(13, 3.5\)'; expected the axes of a row"),
        ((13, 0), "whole numbers of 1 or more"),
        ("", "expected the axes of a row"),
    ],
)
def test_a_wrong_shape_is_one_sentence(shape, sentence):
    with pytest.raises(BNConsistencyError, match=sentence) as caught:
        assert_batch_invariance(of_one_length(), shape=shape)
    assert "\n" not in str(caught.value)


@pytest.mark.thorough
@pytest.mark.parametrize("check", [BATCH, "inference_purity"])
def test_rows_that_a_model_makes_infinite_of_are_asked_for(k, check):
    """A curve that is drawn again and again stays where pixels are, and nowhere else."""

    class Curves(k.layers.Layer):
        def call(self, x):
            for _ in range(12):
                x = x + 2 * (tf.square(x) - x)
            return x

    model = k.Sequential([k.Input((4,)), Curves()])
    result = expect_verdict(check, "vacuous", model)
    assert "NaN or Inf" in result.summary
    assert result.hint.startswith("give rows as the model takes them as x, or --bn-data")
    rows = np.random.default_rng(0).uniform(0, 1, (8, 4)).astype(np.float32)
    expect_pass(check, model, rows)
    stored = expect_verdict(check, "vacuous", model, 100 * rows)
    assert stored.hint == "statistics_health says whether stored statistics are at fault"
