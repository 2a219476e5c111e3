"""NaN or Inf in the weights: the answer says so, and names them."""

import numpy as np
import pytest

from pytest_bnconsistency import Verdict, check_consistency

CHECKS = ("batch_invariance", "inference_purity", "train_eval_agreement")


def trained(k):
    first, last = k.layers.Dense(8, name="first"), k.layers.Dense(1, name="last")
    bn = k.layers.BatchNormalization(momentum=0.5)
    model = k.Sequential([k.Input((4,)), first, bn, k.layers.ReLU(), last])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    y = x.sum(1, keepdims=True)
    model.fit(x, y, epochs=5, verbose=0)
    return model, x, y


@pytest.mark.parametrize("name", ["first", pytest.param("last", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.thorough)])
def test_weights_are_named(k, name, value):
    model, x, y = trained(k)
    model.get_layer(name).kernel.assign(value * np.ones(model.get_layer(name).kernel.shape))
    report = check_consistency(model, x, y, checks=CHECKS)
    for result in report.results:
        assert result.verdict is Verdict.VACUOUS, result
        assert f"weights (kernel of {name})" in result.summary
        assert "put sound weights in" in result.hint


def test_sound_weights_are_none(k):
    model, x, y = trained(k)
    for result in check_consistency(model, x, y, checks=CHECKS).results:
        assert "weights (" not in result.summary, result
