"""What users run as Python is judged as Python: a trace never takes a branch on values."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def halved_beside_a_large_one(x):
    if tf.executing_eagerly() and float(tf.reduce_max(x)) > 9:
        return x / 2
    return x * 1.0


def clipped_outside_of_a_trace(x):
    return tf.where(x > 9, 9.0, x) if tf.executing_eagerly() else tf.minimum(x, 9.0)


def model_with(function):
    class Branch(keras.layers.Layer):
        def call(self, x):
            return function(x)

    inputs = keras.Input((4,))
    h = Branch(name="branch")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(h))


@pytest.mark.parametrize("eagerly", [True, False], ids=["run_eagerly", "predict compiled"])
def test_a_branch_on_values_that_no_trace_takes(eagerly):
    model = model_with(halved_beside_a_large_one)
    model.compile("sgd", "mse", run_eagerly=eagerly)
    found = expect_failure(CHECK, model, X, rule="BN101", layer="branch", cause_tested=True)
    assert ("predict" in found.evidence["fails"]) is eagerly
    assert "tf.function of model(x, training=False)" in found.evidence["holds"]


def test_rows_that_meet_in_all_sizes():
    """A row alone gives other values as well, and that is not the cause."""

    def centred(x):
        return x - tf.reduce_mean(x, axis=0) if tf.executing_eagerly() else x * 1.0

    found = expect_failure(CHECK, model_with(centred), X, rule="BN101", layer="branch")
    assert found.cause_tested


class Halved:
    def __call__(self, x):
        return halved_beside_a_large_one(x)


class Operation(keras.Operation):
    def call(self, x):
        return halved_beside_a_large_one(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "layer", [keras.layers.Activation(Halved(), name="branch"), Operation(name="branch")]
)
def test_code_that_a_layer_of_the_library_holds_or_that_is_no_layer(layer):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))
    expect_failure(CHECK, model, X, rule="BN101", layer="branch", cause_tested=True)


def test_another_way_to_compute_each_row_outside_of_a_trace():
    model = model_with(clipped_outside_of_a_trace)
    model.compile("sgd", "mse", run_eagerly=True)
    expect_pass(CHECK, model, X)


class Module(tf.Module):
    def __init__(self):
        super().__init__(name="module")
        self.w = tf.Variable(X[:, :3].T)

    def __call__(self, x):
        return tf.matmul(halved_beside_a_large_one(x)[:, :3], self.w)


@pytest.mark.thorough
def test_functions_and_modules_that_run_as_python():
    expect_failure(CHECK, Module(), X, rule="BN101", layer="module", cause_tested=True)
    expect_failure(CHECK, halved_beside_a_large_one, X, rule="BN101", cause_tested=True)
    expect_pass(CHECK, tf.function(halved_beside_a_large_one, autograph=False), X)
