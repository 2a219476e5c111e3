"""Outputs as wide as their batch, in the user's own classes, or others than those of the call."""

import collections
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

BATCH, PURITY = "batch_invariance", "inference_purity"
TEXTS = np.array([["red cat"], ["red"], ["dog cat red"], ["cat"], ["dog dog dog dog"], ["red"]])


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((8, 6), np.float32)


@pytest.mark.parametrize("length", [None, 5])
def test_a_row_for_each_text_as_long_as_the_longest(length):
    inputs = keras.Input((1,), dtype="string")
    split = keras.layers.TextVectorization(
        vocabulary=["red", "cat", "dog"], output_sequence_length=length, name="words"
    )
    model = keras.Model(inputs, split(inputs))
    if length:
        expect_pass(BATCH, model, TEXTS)
        return
    finding = expect_failure(BATCH, model, TEXTS, rule="BN103", layer="words", cause_tested=True)
    assert (
        finding.cause
        == "words gives each row as many values as the longest row of its batch needs"
    )
    assert finding.remedy.startswith("give all batches one width")


@pytest.mark.parametrize("fixed", [False, True], ids=("until all have ended", "always as many"))
def test_a_loop_that_writes_as_many_steps_as_the_longest_row_needs(rows, fixed):
    def decoded(x):
        left = 1 + tf.cast(8 * tf.sigmoid(tf.reduce_sum(x, 1)), tf.int32)
        steps = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=(None,))
        longest = 9 if fixed else tf.reduce_max(left)
        for step in tf.range(longest):
            steps = steps.write(step, tf.maximum(left - step, 0))
        return tf.transpose(steps.stack())

    decoded = tf.function(decoded)
    if fixed:
        expect_pass(BATCH, decoded, rows)
        return
    finding = expect_failure(BATCH, decoded, rows, rule="BN103")
    assert finding.remedy.startswith("give all batches one width")


@pytest.mark.parametrize("depth", [None, 7])
def test_as_many_classes_as_the_batch_holds(depth):
    ids = np.array([3, 1, 6, 0, 2, 5], np.int32)

    def coded(x):
        return tf.one_hot(x, (tf.reduce_max(x) + 1) if depth is None else depth)

    if depth:
        expect_pass(BATCH, coded, ids)
    else:
        expect_failure(BATCH, coded, ids, rule="BN103")


def test_as_many_values_as_the_rows_kept(rows):
    """The values of a row that are large somewhere in the batch."""

    def found(x):
        return tf.boolean_mask(x, tf.reduce_any(x > 1.5, axis=0), axis=1)

    expect_failure(BATCH, found, rows, rule="BN103")


def detector(k, decode):
    class Detector(k.Model):
        def predict_step(self, *args):
            return decode(super().predict_step(*args))

    inputs = k.Input((6,))
    h = k.layers.BatchNormalization()(k.layers.Dense(32)(inputs))
    return Detector(inputs, [k.layers.Dense(3, name="a")(h), k.layers.Dense(2, name="b")(h)])


def more(outputs):
    a, b = outputs
    return {"boxes": a, "classes": tf.argmax(a, -1), "sides": b, "scores": tf.reduce_max(a, -1)}


def fewer(outputs):
    return tf.nn.softmax(outputs[0])


def otherwise(outputs):
    return outputs[1], {"of a": outputs[0] * 2, "of b": [outputs[1], outputs[1] + 1]}


@pytest.mark.thorough
@pytest.mark.parametrize("decode", [more, fewer, otherwise])
def test_a_step_with_outputs_of_its_own(k, rows, decode):
    model = detector(k, decode)
    result = expect_pass(BATCH, model, rows)
    assert result.evidence["entry_points"]["predict"] == "holds"
    expect_pass(PURITY, model, rows)


@pytest.mark.thorough
def test_a_step_with_outputs_of_its_own_that_mixes_rows(k, rows):
    model = detector(
        k, lambda outputs: {**more(outputs), "best": outputs[0] - tf.reduce_max(outputs[0])}
    )
    finding = expect_failure(BATCH, model, rows, rule="BN101", cause_tested=True)
    assert finding.layer == "predict_step"


class Attributes(collections.OrderedDict):
    """A dict whose items are attributes, as of many libraries of models."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclasses.dataclass
class Record:
    logits: object
    hidden: object = None


Named = collections.namedtuple("Named", ["logits", "hidden"])


def classifier(k, made, middle):
    class Encoder(k.layers.Layer):
        def __init__(self):
            super().__init__(name="encoder")
            self.dense, self.middle = k.layers.Dense(4), middle

        def call(self, x):
            h = self.dense(x)
            return made(logits=self.middle(h), hidden=h)

    class Classifier(k.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.bn = Encoder(), k.layers.BatchNormalization(name="bn")

        def call(self, x, training=None):
            found = self.encoder(x)
            logits = self.bn(found.logits, training=training)
            return made(logits=logits, hidden=found.hidden)

    model = Classifier()
    model(np.zeros((2, 6), np.float32))
    return model


def leaking(k):
    class Own(k.layers.Layer):
        def call(self, x):
            return x - tf.reduce_mean(x, 0)

    return Own(name="leak")


@pytest.mark.thorough
@pytest.mark.parametrize("made", [Attributes, Record, Named], ids=lambda made: made.__name__)
def test_outputs_in_a_class_of_the_users_own(k, rows, made):
    sound = classifier(k, made, k.layers.Activation("tanh"))
    expect_pass(BATCH, sound, rows)
    if (made, k) in ((Named, keras), (Attributes, tf_keras)):  # others are no batches to Keras
        expect_pass(PURITY, sound, rows)
    expect_failure(
        BATCH, classifier(k, made, leaking(k)), rows, rule="BN101", layer="encoder/leak"
    )
