"""Models that were compiled to run several steps at once."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

PURE = "inference_purity"


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)


def trained(k, kind, x):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(momentum=0.9, name="bn")(inputs)
    model = kind(inputs, k.layers.Dense(3)(h))
    model.compile("sgd", "mse", steps_per_execution=5)
    model.fit(x, x[:, :3], epochs=20, verbose=0)
    return model


@pytest.mark.thorough
def test_what_the_library_does_not_run_is_no_fault_of_the_model(k, x):
    model = trained(k, k.Model, x)
    result = expect_pass(PURE, model, x, x[:, :3], entry_points="all")
    told = [note for note in result.notes if "predict_on_batch" in note]
    try:
        model.predict_on_batch(x)
    except tf.errors.OutOfRangeError:
        assert "steps_per_execution=5; with 1 it runs" in told[0]
    else:
        assert not told
    expect_pass("batch_invariance", model, x)


@pytest.mark.thorough
def test_faults_of_the_model_are_found_all_the_same(k, x):
    class Training(k.Model):
        def predict_step(self, data):
            return self(data[0] if isinstance(data, tuple) else data, training=True)

    class Refusing(k.Model):
        def predict_step(self, data):
            outputs = super().predict_step(data)
            tf.debugging.assert_greater(tf.shape(outputs)[0], 5)
            return outputs

    expect_failure(PURE, trained(k, Training, x), x, rule="BN001", layer="predict_step")
    expect_failure(PURE, trained(k, Refusing, x), x, rule="BN003", layer="predict_step")
