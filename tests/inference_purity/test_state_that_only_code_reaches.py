"""State that no layer holds: in containers and classes that its code refers to, in tables."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "inference_purity"
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
STORE = {"seen": tf.Variable(0.0)}
GIVEN = tf.Variable(0.0)


class Config:
    seen = tf.Variable(0.0)


def add_to_given(variable, x):
    variable.assign_add(1.0)
    return x


def layers(k):
    class InDict(k.layers.Layer):
        def call(self, x):
            STORE["seen"].assign_add(1.0)
            return x

    class InOtherClass(k.layers.Layer):
        def call(self, x):
            Config.seen.assign_add(1.0)
            return x

    class InOwnClass(k.layers.Layer):
        seen = tf.Variable(0.0)

        def call(self, x):
            type(self).seen.assign_add(1.0)
            return x

    partial = functools.partial(add_to_given, GIVEN)
    return {
        "dict": lambda: InDict(name="own"),
        "another class": lambda: InOtherClass(name="own"),
        "own class": lambda: InOwnClass(name="own"),
        "partial": lambda: k.layers.Lambda(partial, name="own"),
    }


def model_of(k, *own):
    return k.Sequential([k.Input((6,)), *own, k.layers.Dense(3)])


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["dict", "another class", "own class", "partial"])
def test_a_variable_that_code_refers_to(k, where):
    expect_failure(CHECK, model_of(k, layers(k)[where]()), X, rule="BN001", layer="own")
    expect_pass(CHECK, model_of(k), X)


def test_a_variable_in_a_dict_of_a_function():
    def counting(x):
        STORE["seen"].assign_add(1.0)
        return tf.nn.relu(x)

    expect_failure(CHECK, counting, X, rule="BN001", layer="counting")


def test_a_table_is_filled_as_before():
    class Counts(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

        def call(self, x):
            keys = tf.cast(10 * x[:, 0], tf.int64)
            self.table.insert(keys, self.table.lookup(keys) + 1)
            return x

    counts = Counts()
    model = model_of(keras, counts)
    model.predict(X, verbose=0)

    def filled():
        return dict(zip(*(part.numpy().tolist() for part in counts.table.export()), strict=True))

    before = filled()
    check_consistency(model, X, checks=["batch_invariance", CHECK])
    assert before
    assert filled() == before


@pytest.mark.parametrize("check", ["batch_invariance", CHECK])
def test_a_model_that_must_be_told_its_mode(check):
    class Told(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, x, training):
            return self.norm(x, training=training)

    model = Told()
    model(X, training=False)
    result = expect_pass(check, model, X)
    assert "model(x) " not in result.summary
