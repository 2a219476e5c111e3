"""Models that take one number of rows only: purity needs no other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import export

from pytest_bnconsistency.testing import expect_failure, expect_pass

PURE = "inference_purity"


@pytest.fixture
def steps():
    return np.random.default_rng(0).standard_normal((20, 4, 1), np.float32)


def model_of(k, recurrent, rows):
    inputs = k.Input(batch_shape=(rows, 4, 1))
    return k.Model(inputs, k.layers.Dense(2)(recurrent(inputs)))


RECURRENT = {
    "lstm": lambda k, stateful: k.layers.LSTM(3, stateful=stateful, name="layer"),
    "cell": lambda k, stateful: k.layers.RNN(k.layers.GRUCell(3), stateful=stateful, name="layer"),
    "both directions": lambda k, stateful: k.layers.Bidirectional(
        k.layers.GRU(3, stateful=stateful), name="layer"
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "rows"), [("lstm", 6), ("lstm", 1), ("cell", 6), ("both directions", 16)]
)
def test_a_stateful_recurrence_carries_its_state(k, steps, kind, rows):
    model = model_of(k, RECURRENT[kind](k, True), rows)
    found = expect_failure(PURE, model, steps, rule="BN001", cause_tested=True)
    assert found.layer.startswith("layer")
    assert "stateful" in found.cause
    assert "reset_states()" in found.remedy
    assert set(found.evidence["moves"]) > {"predict", "model(x)"}
    if rows == 6:
        expect_pass(PURE, model_of(k, RECURRENT[kind](k, False), rows), steps)


@pytest.mark.thorough
def test_a_stateful_recurrence_on_generated_rows_and_few(k, steps):
    model = model_of(k, RECURRENT["lstm"](k, True), 16)
    for x in (None, steps[:3]):
        expect_failure(PURE, model, x, rule="BN001", cause_contains="stateful")


@pytest.mark.parametrize("faulty", [True, False])
def test_a_layer_that_lays_out_a_fixed_batch(k, steps, faulty):
    class Own(k.layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            if faulty:
                self.seen.assign_add(1.0)
            return tf.reshape(x, (6, 4)) + tf.ones((6, 1))

    model = model_of(k, Own(name="own"), 6)
    if faulty:
        expect_failure(PURE, model, steps, rule="BN001", layer="own", cause_tested=True)
    else:
        expect_pass(PURE, model, steps)


@pytest.mark.thorough
def test_exports_and_functions_of_a_fixed_batch(tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 4), np.float32)
    for name, told in (("sound", {}), ("baked", {"training": True})):
        inputs = keras.Input((4,))
        bn = keras.layers.BatchNormalization(name="bn")
        model = keras.Model(inputs, keras.layers.Dense(2)(bn(inputs, **told)))
        signature = [keras.InputSpec(shape=(6, 4), dtype="float32")]
        export(model, str(tmp_path / name), input_signature=signature)
        loaded = tf.saved_model.load(str(tmp_path / name))
        for subject in (loaded, loaded.signatures["serving_default"]):
            for rows in (x, None):
                if told:
                    expect_failure(PURE, subject, rows, rule="BN001", layer="saved_model/bn")
                else:
                    summary = expect_pass(PURE, subject, rows).summary
                    assert "on 6 rows" in summary
                    assert "Hypothesis" not in summary

    @tf.function(input_signature=[tf.TensorSpec((6, 4))])
    def noisy(x):
        return x + tf.random.normal(())

    @tf.function(input_signature=[tf.TensorSpec((6, 4))])
    def sound(x):
        return x + 1.0

    expect_failure(PURE, noisy, x, rule="BN002")
    expect_pass(PURE, sound, x)
    assert "6 rows" in expect_pass("batch_invariance", sound, x).notes[0]
