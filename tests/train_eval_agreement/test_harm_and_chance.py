"""What is harm, what may be chance, and what is neither."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_pass, expect_verdict

CHECK = "train_eval_agreement"


def rows(count):
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def undecided(x):
    """A classifier of ten classes that learned nothing: most rows are close calls."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    bn = keras.layers.BatchNormalization(momentum=0.9, name="bn")
    h = keras.layers.ReLU()(bn(keras.layers.Dense(16)(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy")
    y = np.random.default_rng(1).integers(0, 10, len(x))
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    recalibrate(model, x)
    return model, bn


@pytest.mark.parametrize("shift, verdict", [(0.08, "passed"), (0.3, "vacuous")])
def test_close_calls_are_decided_otherwise(shift, verdict):
    """Without targets, decisions that change count where the outputs move as well."""
    x = rows(512)
    model, bn = undecided(x)
    bn.moving_mean.assign_add(shift * keras.ops.sqrt(bn.moving_variance))
    result = expect_verdict(CHECK, verdict, model, x)
    changed = next(e for e in result.evidence["excess"] if e["of"] == "changed decisions")
    assert changed["excess"] > 0.03
