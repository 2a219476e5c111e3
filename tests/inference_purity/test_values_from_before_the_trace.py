"""Layers that are given, or give, what Python computed before: positions, a table, a mask."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_failure, leaves_no_trace

STEPS, WIDTH = 6, 4


def positions(k):
    """The usual embedding of positions: its ids are a constant of the model."""
    embedding = k.layers.Embedding(STEPS, WIDTH)
    return lambda h: h + embedding(np.arange(STEPS, dtype=np.int32))


def table(k):
    """A layer that gives a table from its constructor, whatever it is given."""

    class Table(k.layers.Layer):
        def __init__(self):
            super().__init__()
            angles = np.arange(STEPS * WIDTH, dtype=np.float32).reshape(STEPS, WIDTH)
            self.values = tf.sin(angles)

        def call(self, h):
            return self.values

    return lambda h: h + Table()(h)


def weights(k):
    """A constant that is handed to a layer by its name."""

    class Weighted(k.layers.Layer):
        def call(self, h, by=None):
            return h * by

    constant = tf.constant(np.linspace(0, 1, STEPS, dtype=np.float32)[:, np.newaxis])
    return lambda h: Weighted()(h, by=constant)


def with_dropout(k, placed, leaking=False):
    class BatchMean(k.layers.Layer):
        def call(self, h):
            return h - tf.reduce_mean(h, axis=0, keepdims=True)

    ids = k.Input((STEPS,), dtype="int32")
    h = placed(k.layers.Embedding(9, WIDTH)(ids))
    h = k.layers.LayerNormalization()(k.layers.Dropout(0.5)(h))
    if leaking:
        h = BatchMean(name="leak")(h)
    return k.Model(ids, k.layers.Dense(2)(k.layers.GlobalAveragePooling1D()(h)))


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, 9, (16, STEPS)).astype(np.int32)


@pytest.mark.parametrize("placed", [positions, table, weights])
def test_constants_beside_a_layer_that_draws(k, ids, placed):
    model = with_dropout(k, placed(k))
    with leaves_no_trace(model, ids):
        report = check_consistency(model, ids)
    assert report.ok, "\n".join(text.render(result) for result in report.failed)
    verdicts = {result.check: result.verdict.value for result in report}
    assert verdicts["batch_invariance"] == verdicts["inference_purity"] == "passed"


def test_a_leak_behind_such_constants_is_found(k, ids):
    model = with_dropout(k, positions(k), leaking=True)
    expect_failure("batch_invariance", model, ids, rule="BN101", layer="leak")
