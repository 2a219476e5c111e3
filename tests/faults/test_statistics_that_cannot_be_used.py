"""What is certainly wrong in the stored statistics fails; what is only unusual is a warning."""

import time

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "statistics_health"


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)


def model_of(k, *layers, shape=(4,)):
    inputs = h = k.Input(shape)
    for layer in layers:
        h = layer(h)
    model = k.Model(inputs, k.layers.Dense(2)(h))
    model.compile("sgd", "mse")
    return model


def normaliser(k, mean=0.5, variance=2.0, **arguments):
    bn = k.layers.BatchNormalization(name="bn", **arguments)
    bn.build((None, 4))
    bn.moving_mean.assign(np.full(4, mean, np.float32))
    bn.moving_variance.assign(np.broadcast_to(variance, 4).astype(np.float32))
    return bn


def warning(result, rule):
    found = [warning for warning in result.warnings if warning.rule == rule]
    assert found, text.render(result, verbose=True)
    assert rule in text.render(result)
    return found[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_poisoned_by_one_batch(k, data, value):
    bn = normaliser(k, momentum=0.9)
    model = model_of(k, bn)
    model(data * np.float32(value), training=True)
    expect_failure(CHECK, model, rule="BN401", layer="bn")
    recalibrate(model, data)
    expect_pass(CHECK, model)


def test_an_overflow_that_the_optimizer_skipped(k, data):
    bn = normaliser(k, momentum=0.9)
    model = model_of(k, bn)
    optimizer = k.mixed_precision.LossScaleOptimizer(k.optimizers.SGD())
    model.compile(optimizer, "mse")
    bn.moving_mean.assign(np.full(4, np.inf, np.float32))
    expect_failure(CHECK, model, rule="BN401", layer="bn", cause_contains="scales the loss")


def test_a_negative_variance(k, data):
    model = model_of(k, normaliser(k, variance=-0.3))
    expect_failure(CHECK, model, rule="BN402", layer="bn")
    recalibrate(model, data)
    expect_pass(CHECK, model)


@pytest.mark.parametrize("momentum", [0.0, 1.0, 1.5, -0.1])
def test_a_momentum_that_is_none(k, momentum):
    expect_failure(CHECK, model_of(k, normaliser(k, momentum=momentum)), rule="BN403", layer="bn")
    expect_pass(CHECK, model_of(k, normaliser(k, momentum=0.9)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_statistics_in_half_precision(dtype):
    bn = keras.layers.BatchNormalization(dtype=dtype, name="bn")
    expect_failure(CHECK, model_of(keras, bn), rule="BN404", layer="bn")
    mixed = keras.layers.BatchNormalization(dtype=f"mixed_{dtype}", name="bn")
    expect_pass(CHECK, model_of(keras, mixed))


def test_the_wrong_channel_axis(k):
    def of(axis):
        bn = k.layers.BatchNormalization(axis=axis, name="bn")
        return model_of(k, k.layers.Conv2D(3, 3), bn, k.layers.Flatten(), shape=(8, 9, 1))

    finding = expect_failure(CHECK, of(1), rule="BN407", layer="bn")
    assert "6 statistics" in finding.message
    expect_pass(CHECK, of(-1))


def test_a_normalization_that_was_never_adapted(k, data):
    layer = k.layers.Normalization(name="norm")
    model = model_of(k, layer)
    expect_failure(CHECK, model, rule="BN408", layer="norm")
    layer.adapt(data)
    expect_pass(CHECK, model)


def test_dead_channels(k):
    bn = normaliser(k, variance=np.array([0, 1, 1, 1]))
    result = expect_pass(CHECK, model_of(k, bn))
    assert "up to 31.6, an input 0.1 off gives 3.16" in warning(result, "BN405").message


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"epsilon": 0.5}, "BN406"),
        ({"epsilon": 1e-3, "variance": 1e-4}, "BN406"),
        ({"momentum": 0.1}, "BN206"),
        ({"mean": 0.0, "variance": 1.0}, "BN411"),
    ],
)
def test_what_is_unusual_is_a_warning(k, arguments, rule):
    model = model_of(k, normaliser(k, **arguments))
    assert warning(expect_pass(CHECK, model), rule).layer == "bn"
    usual = expect_pass(CHECK, model_of(k, normaliser(k)))
    assert usual.warnings == ()


def test_dropout_that_feeds_a_normaliser(k):
    def of(*layers):
        return model_of(k, *layers)

    bn, drop = normaliser(k), k.layers.Dropout(0.5, name="drop")
    found = warning(expect_pass(CHECK, of(drop, k.layers.Dense(4), bn)), "BN409")
    assert "drop feeds bn" in found.message
    after = of(normaliser(k), k.layers.Dense(4), k.layers.Dropout(0.5))
    assert expect_pass(CHECK, after).warnings == ()


def test_one_layer_called_twice(k):
    bn, inputs = normaliser(k), k.Input((4,))
    model = k.Model(inputs, bn(inputs) + bn(inputs * 2.0))
    assert "2 times" in warning(expect_pass(CHECK, model), "BN211").message


def test_the_distance_to_the_population_in_standard_errors(k, data):
    bn = normaliser(k, mean=0.0, variance=1.1)
    model = model_of(k, bn)
    result = expect_pass(CHECK, model, data, batch_size=8)
    assert warning(result, "BN410").layer == "bn"
    assert float(result.table.rows[0][1]) > 10
    recalibrate(model, data, batch_size=8)
    result = expect_pass(CHECK, model, data, batch_size=8)
    assert result.warnings == ()
    assert float(result.table.rows[0][1]) < 1


def test_without_data_it_takes_milliseconds():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), include_top=False)
    check_consistency(model, checks=[CHECK])
    start = time.perf_counter()
    result = check_consistency(model, checks=[CHECK])[CHECK]
    assert time.perf_counter() - start < 2  # 0.05 s when nothing else runs
    assert result.evidence["normalisers"] == 53


@pytest.mark.parametrize("layer", ["LayerNormalization", "UnitNormalization"])
def test_layers_without_statistics(k, layer):
    expect_verdict(CHECK, "not applicable", model_of(k, getattr(k.layers, layer)()))
