"""Features of a table in another order, scale or place than in training: named one by one."""

import re

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK, SHIFT = "train_eval_agreement", "BN209"
FEATURES = 8


@pytest.fixture(scope="module")
def table():
    """Features of unlike means and deviations, and three classes that hang on them."""
    rng = np.random.default_rng(0)
    y = np.arange(384) % 3
    mixed = np.eye(FEATURES) + 0.3 * rng.standard_normal((FEATURES, FEATURES))
    x = (rng.normal(0, 0.8, (3, FEATURES))[y] + rng.normal(0, 1, (384, FEATURES))) @ mixed
    scales, places = rng.uniform(0.5, 5, FEATURES), rng.normal(0, 6, FEATURES)
    return (x * scales + places).astype(np.float32), y


def trained(k, table, *, normalised_first=False):
    k.utils.set_random_seed(0)
    first = [k.layers.BatchNormalization(momentum=0.9, name="first")] if normalised_first else []
    hidden = [
        part
        for name in ("one", "two")
        for part in (
            k.layers.Dense(32),
            k.layers.BatchNormalization(momentum=0.9, name=name),
            k.layers.ReLU(),
        )
    ]
    model = k.Sequential([k.Input((FEATURES,)), *first, *hidden, k.layers.Dense(3)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    for rate, epochs in ((5e-3, 20), (1e-4, 8)):
        model.optimizer.learning_rate.assign(rate)
        model.fit(*table, epochs=epochs, verbose=0)
    return model


def standardised(x):
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def to_unit_interval(x):
    return ((x - x.min(0)) / (x.max(0) - x.min(0))).astype(np.float32)


def times_four(*features):
    factors = np.where(np.isin(np.arange(FEATURES), features), 4, 1).astype(np.float32)
    return lambda x: x * factors


ORDER = [3, 0, 1, 2, 7, 6, 5, 4]
BACK = [1, 2, 3, 0, 7, 6, 5, 4]
CHANGES = [
    (lambda x: x[:, ORDER], f"those of the features in the order {BACK}"),
    (standardised, "those of the features before they were standardised"),
    (to_unit_interval, "those of the features before they were scaled to [0, 1]"),
    (times_four(1, 4), "those of x with feature 1 as 0.2"),
]
IDS = ["order", "standardised", "to [0, 1]", "two features"]


@pytest.fixture(scope="module", params=[False, True], ids=["dense first", "normalised first"])
def model(request, table):
    return trained(keras, table, normalised_first=request.param)


@pytest.mark.thorough
@pytest.mark.parametrize(("change", "said"), CHANGES, ids=IDS)
def test_features_preprocessed_otherwise(model, table, change, said):
    x, y = table
    finding = expect_failure(CHECK, model, change(x), y, rule=SHIFT, cause_tested=True)
    assert said in finding.cause
    assert finding.layer in {"first", "one"}
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
def test_a_scaler_fitted_on_other_data(k, table):
    x, y = table
    rng = np.random.default_rng(1)
    factors, places = rng.uniform(0.4, 2.5, FEATURES), rng.choice([-5, 5], FEATURES) * x.std(0)
    model, given = trained(k, table), (x * factors + places).astype(np.float32)
    finding = expect_failure(CHECK, model, given, y, rule=SHIFT, layer="one", cause_tested=True)
    assert "those of x with feature 0 as " in finding.cause
    assert "and 5 more" in finding.cause
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
def test_weights_that_were_changed_are_no_matter_of_the_features(model, table):
    rng = np.random.default_rng(2)
    before = model.get_weights()
    kernel = next(layer.kernel for layer in model.layers if hasattr(layer, "kernel"))
    kernel.assign(kernel + 0.7 * np.std(kernel) * rng.standard_normal(kernel.shape))
    (finding,) = check_consistency(model, *table, checks=[CHECK])[CHECK].findings
    assert finding.rule != SHIFT
    model.set_weights(before)


@pytest.mark.thorough
@pytest.mark.parametrize("times", [4.0, 10.0])
def test_variances_off_by_one_number_are_not_told_by_two_of_each_feature(k, table, times):
    model = trained(k, table)
    variance = model.get_layer("one").moving_variance
    variance.assign(times * variance)
    finding = expect_failure(CHECK, model, *table, rule="BN214", layer="one", cause_tested=True)
    assert "the stored variances of one are " in finding.cause


@pytest.fixture(scope="module")
def heavy_tailed():
    """All features have mean 0 and deviation 1, as standardised ones have, and far outliers."""
    rng = np.random.default_rng(0)
    y = np.arange(512) % 3
    x = np.exp(rng.normal(0, 0.8, (3, FEATURES))[y] + rng.normal(0, 0.7, (512, FEATURES)))
    return standardised(x), y


@pytest.mark.thorough
@pytest.mark.parametrize("offset", [0.0, 1.0], ids=["mean 0", "mean 1"])
def test_features_that_vary_with_the_last_batches_are_not_named(k, heavy_tailed, offset):
    """Of mean 0 and deviation 1 are the values that a layer is built with, too."""
    x, y = heavy_tailed
    x = x + np.float32(offset)
    model = trained(k, (x, y), normalised_first=True)
    finding = expect_failure(
        CHECK, model, x * times_four(3)(1) ** 3, y, rule=SHIFT, cause_tested=True
    )
    alone = re.search(r"those of x with feature 3 as [^,]*: this data", finding.cause)
    assert alone or "those of the features standardised" in finding.cause


@pytest.mark.thorough
def test_each_step_of_a_sequence_has_features(k):
    rng = np.random.default_rng(3)
    phase, y = rng.uniform(0, 6, (256, 1, 1)), np.arange(256) % 2
    time = (0.3 + 0.3 * y[:, None, None]) * np.arange(16)[None, :, None]
    x = np.sin(time + phase) * [1, 4, 0.3] + [3, -2, 1] + rng.normal(0, 0.2, (256, 16, 3))
    x = x.astype(np.float32)
    k.utils.set_random_seed(0)
    bn = k.layers.BatchNormalization(momentum=0.9, name="bn")
    model = k.Sequential([k.Input((16, 3)), bn, k.layers.LSTM(12), k.layers.Dense(2)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(1e-2), loss)
    model.fit(x, y, epochs=12, verbose=0)
    given = ((x - x.mean((0, 1))) / x.std((0, 1))).astype(np.float32)
    finding = expect_failure(CHECK, model, given, y, rule=SHIFT, layer="bn", cause_tested=True)
    assert "before they were standardised" in finding.cause
    expect_pass(CHECK, model, x, y)
