"""Weights that were trained with another epsilon than the model has."""

import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


def net(k, epsilon):
    k.utils.set_random_seed(0)
    inputs = h = k.Input((8,))
    for name in ("one", "two"):
        h = k.layers.Dense(16, use_bias=False)(h)
        h = k.layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=name)(h)
        h = k.layers.ReLU()(h)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(3e-3), loss)
    return model


def moved(model, x, y, rate=3e-3, epochs=8):
    model.optimizer.learning_rate.assign(rate)
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="module")
def small():
    """Features of a hundredth, so that variances are small beside an epsilon of 1e-3."""
    rng, y = np.random.default_rng(0), np.arange(256) % 3
    x = rng.normal(0, 0.7, (3, 8))[y] + rng.normal(0, 1, (256, 8))
    return (0.01 * x).astype(np.float32), y


@pytest.mark.thorough
def test_weights_of_another_framework(k, small):
    ported = net(k, 1e-5)
    moved(ported, *small)
    moved(ported, *small, rate=1e-4)
    expect_pass(CHECK, ported, *small)
    model = net(k, 1e-3)
    model.set_weights(ported.get_weights())
    finding = expect_failure(CHECK, model, *small, rule="BN406", layer="one", cause_tested=True)
    assert "trained with epsilon 1e-05, and the model has 0.001" in finding.cause
    assert {model.get_layer(name).epsilon for name in ("one", "two")} == {1e-3}


@pytest.mark.thorough
def test_variances_that_no_epsilon_is_anything_of(k, small):
    x, y = 100 * small[0], small[1]
    ported = moved(moved(net(k, 1e-5), x, y), x, y, rate=1e-4)
    model = net(k, 1e-3)
    model.set_weights(ported.get_weights())
    expect_pass(CHECK, model, x, y)
