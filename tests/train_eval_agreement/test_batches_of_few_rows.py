"""Weights that were trained on batches of few rows, judged at whatever batch size is given."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure

CHECK = "train_eval_agreement"


def trained(batch_size):
    """Rows of some classes are brighter, which tells them where rows are not standardised."""
    keras.utils.set_random_seed(0)
    y = np.arange(192) % 4
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(4, 6, 6, 1))
    x = (shapes[y] + rng.normal(0, 0.5, (192, 6, 6, 1)) + 0.5 * y[:, None, None, None]).astype(
        np.float32
    )
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(momentum=0.95, name="bn"),
            layers.ReLU(),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(momentum=0.95, name="next"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    for rate in (3e-3, 1e-4):
        model.optimizer.learning_rate = rate
        model.fit(x, y, epochs=15, batch_size=batch_size, verbose=0)
    return model, x, y


@pytest.mark.thorough
@pytest.mark.parametrize("given", [1, 32])
def test_rows_that_were_trained_one_by_one(given):
    model, x, y = trained(1)
    finding = expect_failure(
        CHECK, model, x, y, rule="BN208", layer="bn", cause_tested=True, batch_size=given
    )
    assert "on batches of single rows" in finding.cause
    assert "GroupNormalization" in finding.remedy


@pytest.mark.thorough
@pytest.mark.parametrize("given", [1, 32])
def test_rows_that_were_trained_in_wide_batches_are_not(given):
    (result,) = check_consistency(*trained(32), checks=[CHECK], batch_size=given)
    assert "BN208" not in [finding.rule for finding in result.findings]
