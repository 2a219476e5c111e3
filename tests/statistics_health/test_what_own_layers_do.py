"""What layers of the user's own do counts, and not what their attributes are called or say."""

import numpy as np
import pytest
from own_normalizers import home_made, nameless

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "statistics_health"


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)


def model_of(k, layer):
    model = k.Sequential([k.Input((4,)), layer, k.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def run(model, data, times=40):
    for _ in range(times):
        model(data, training=True)
    return model


@pytest.mark.parametrize("declared", [0.1, 0.9])
def test_a_momentum_that_is_the_share_of_the_new_value(k, data, declared):
    model = run(model_of(k, home_made(k, kept=1 - declared)(momentum=declared, name="home")), data)
    for given in ([], [data]):
        warned = [w for w in expect_pass(CHECK, model, *given).warnings if w.rule == "BN206"]
        assert bool(warned) == (declared == 0.9)
        assert all("an update keeps 10% of what is stored in home" in w.message for w in warned)


def test_a_layer_that_is_run_by_itself_is_as_before(k, data):
    class Counting(home_made(k)):
        called = 0

        def call(self, x, training=None):
            self.called += 1
            return super().call(x, training=training)

    model = run(model_of(k, Counting(momentum=0.9, name="home")), data)
    home = model.get_layer("home")
    before, weights = home.called, model.get_weights()
    assert not expect_pass(CHECK, model).warnings
    assert home.called == before
    assert all(map(np.array_equal, weights, model.get_weights()))


def test_a_negative_variance_by_any_name(k, data):
    home = nameless(k)
    home.epsilon = 1e-3  # so that it is known without data, and m and v say nothing
    model = run(model_of(k, home), data)
    expect_pass(CHECK, model)
    home.v.assign(-home.v)
    expect_failure(
        CHECK,
        model,
        rule="BN402",
        layer="home",
        cause_contains="not established; weights mixed up",
        without=["place"],
    )
    cause = "only what is stored"
    expect_failure(
        CHECK, model, data, rule="BN402", layer="home", cause_tested=True, cause_contains=cause
    )
