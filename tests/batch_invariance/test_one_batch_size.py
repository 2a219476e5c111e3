"""Models that take one number of rows only are judged at that number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"
ROWS = 6


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((ROWS, 4, 3)).astype(np.float32)


def mixed(h):
    return h + 1e-4 * tf.reduce_mean(h, axis=0, keepdims=True)


def stateful(k, *behind, mode=None):
    inputs = h = k.Input(batch_shape=(ROWS, 4, 3))
    h = k.layers.LSTM(3, stateful=True, name="lstm")(h)
    for layer in behind:
        h = layer(h) if mode is None else layer(h, training=mode)
    return k.Model(inputs, k.layers.Dense(2)(h))


def passes(model, *x):
    result = expect_pass(CHECK, model, *x)
    assert "other sizes were not tried, which the model refuses" in result.summary
    assert "a leak of the batch mean into a row would have been seen from 1e-06" in result.summary
    assert any(f"batches of {ROWS} rows and no others" in note for note in result.notes)


@pytest.mark.thorough
@pytest.mark.parametrize("given", [True, False], ids=["given", "generated"])
def test_a_stateful_recurrence(k, x, given):
    class Mixing(k.layers.Layer):
        def call(self, h):
            return mixed(h)

    data = [x] if given else []
    passes(stateful(k), *data)
    leaking = stateful(k, Mixing(name="mixing"))
    expect_failure(CHECK, leaking, *data, rule="BN101", layer="mixing", cause_tested=True)


@pytest.mark.thorough
def test_batch_statistics_behind_a_stateful_recurrence(k, x):
    normalised = stateful(k, k.layers.BatchNormalization(name="bn"), mode=True)
    found = expect_failure(CHECK, normalised, x, rule="BN102", layer="bn", cause_tested=True)
    assert found.cause.startswith("bn normalises by the batch: it runs in training mode")
    purity = check_consistency(normalised, x, checks=["inference_purity"])["inference_purity"]
    found = [(finding.layer, finding.cause_tested) for finding in purity.findings]
    assert found == [("lstm", True), ("bn", True)]
    passes(stateful(k, k.layers.BatchNormalization(name="bn")), x)


@pytest.mark.parametrize("mixing", [True, False])
def test_rows_that_are_laid_out_by_a_fixed_number(k, x, mixing):
    class Laid(k.layers.Layer):
        def call(self, h):
            flat = tf.reshape(h, (ROWS, 12))
            return tf.reshape(mixed(flat) if mixing else flat, (ROWS, 4, 3))

    inputs = k.Input(batch_shape=(ROWS, 4, 3))
    model = k.Model(inputs, k.layers.Dense(2)(Laid(name="laid")(inputs)))
    if mixing:
        found = expect_failure(CHECK, model, x, rule="BN101", layer="laid")
        assert "its input row is the same to the bit" in found.cause
    else:
        passes(model, x)


def signature(function):
    return tf.function(function, input_signature=[tf.TensorSpec((ROWS, 4, 3))])


@pytest.mark.parametrize("given", [True, False])
def test_a_function_of_one_size(x, given):
    dense = keras.layers.Dense(2)
    dense.build((None, 4, 3))
    data = [x] if given else []
    passes(signature(lambda h: dense(h)), *data)
    expect_failure(CHECK, signature(lambda h: dense(mixed(h))), *data, rule="BN101")


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [True, False])
def test_an_export_of_one_size(x, mode, tmp_path):
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.BatchNormalization()])
    served = tf.Module()
    served.model = model
    function = signature(lambda h: {"y": model(h, training=mode)})
    tf.saved_model.save(served, str(tmp_path / "served"), signatures=function)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    if mode:
        expect_failure(CHECK, loaded, x, rule="BN101", layer="saved_model")
    else:
        passes(loaded, x)


def test_two_rows_and_one(k):
    def leaking(rows):
        @tf.function(input_signature=[tf.TensorSpec((rows, 3))])
        def function(h):
            return mixed(h)

        return function

    expect_failure(CHECK, leaking(2), np.ones((2, 3), np.float32) * [[1], [2]], rule="BN101")
    alone = expect_verdict(CHECK, "not applicable", leaking(1))
    assert alone.summary.startswith("the model takes batches of 1 row and no others")
