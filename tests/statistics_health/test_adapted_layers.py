"""Layers whose statistics `adapt` takes: adapted, in use, and of features that vary."""

import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "statistics_health"


def model_of(k, *layers, shape=(4,)):
    model = k.Sequential([k.Input(shape), *layers, k.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def drawn(*shape):
    return np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)


def fails(model, cause, *data):
    return expect_failure(
        CHECK, model, *data, rule="BN408", layer="norm", cause_tested=True, cause_contains=cause
    )


@pytest.mark.parametrize(("shape", "axis"), [((4,), -1), ((4,), None), ((3, 2, 4), (1, 3))])
def test_a_normalization_that_was_never_adapted(k, shape, axis):
    layer = k.layers.Normalization(axis=axis, name="norm")
    model = model_of(k, layer, k.layers.Flatten(), shape=shape)
    fails(model, "adapt was never called")
    layer.adapt(drawn(16, *shape))
    expect_pass(CHECK, model)


def test_an_adapting_layer_that_does_something_unadapted(k):
    class Doubling(k.layers.Normalization):
        def call(self, x):
            return 2 * super().call(x)

    expect_pass(CHECK, model_of(k, Doubling()))


def test_data_to_which_adapting_changes_nothing(k):
    """Its mean is 0 and its variance 1 to the last bit."""
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]] * 4, np.float32)
    layer = k.layers.Normalization(name="norm")
    model = model_of(k, layer, shape=(2,))
    layer.adapt(corners)
    expect_pass(CHECK, model, corners)
    fails(model, "adapt was never called", corners + 1)
    behind = model_of(k, k.layers.Rescaling(2.0), layer, shape=(2,))
    expect_pass(CHECK, behind, corners / 2)
    fails(behind, "adapt was never called", corners)


@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_are_set_and_not_taken_into_use(k, nested):
    layer = k.layers.Normalization(name="norm")
    inner = [k.Sequential([k.Input((4,)), layer], name="inner")] if nested else [layer]
    model, x = model_of(k, *inner), drawn(64, 4)
    layer.adapt(x)
    copy = k.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copied = (copy.get_layer("inner") if nested else copy).get_layer("norm")
    if np.array_equal(copy(x), model(x)):
        # tf_keras takes into use what is set, and can't what is assigned.
        expect_pass(CHECK, copy)
        copied.adapt_mean.assign(copied.adapt_mean + 1)
    before, path = copy(x), "inner/norm" if nested else "norm"
    finding = expect_failure(
        CHECK,
        copy,
        rule="BN408",
        layer=path,
        cause_tested=True,
        cause_contains="finalize_state was not called since",
    )
    assert f"after {path}.finalize_state() mean" in finding.tested
    np.testing.assert_array_equal(copy(x), before)
    copied.finalize_state()
    assert not np.allclose(copy(x), before)
    expect_pass(CHECK, copy)


def test_weights_that_are_loaded_are_in_use(k, tmp_path):
    layer = k.layers.Normalization(name="norm")
    model = model_of(k, layer)
    layer.adapt(drawn(64, 4))
    model.save_weights(tmp_path / "w.weights.h5")
    copy = k.models.clone_model(model)
    copy.load_weights(tmp_path / "w.weights.h5")
    expect_pass(CHECK, copy)


@pytest.mark.parametrize(
    ("value", "named"), [(0.0, True), (0.1, True), (1700.3, True), (None, False)]
)
def test_features_that_were_constant(k, value, named):
    x, layer = drawn(256, 4), k.layers.Normalization(name="norm")
    if value is not None:
        x[:, 2] = value
    model = model_of(k, layer)
    layer.adapt(x)
    found = [w for w in expect_pass(CHECK, model).warnings if w.rule == "BN405"]
    assert [w.layer for w in found] == (["norm"] if named else [])
    for warning in found:
        assert warning.message.startswith("1 channel in norm has a variance of no more than")
        assert warning.tested
        assert "leave features out" in warning.remedy
        moved = x[:1] + np.float32(0.1) * (np.arange(4) == 2)
        gain = np.abs(layer(moved.astype(np.float32)) - layer(x[:1])).max() / 0.1
        said = float(warning.message.partition("up to ")[2].partition(",")[0])
        assert said == pytest.approx(gain, rel=0.1)
