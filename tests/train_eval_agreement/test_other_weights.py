"""Weights changed after the last step: the statistics that are stored belong to others."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_models import trained_on_features_alike

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK, OTHER_WEIGHTS, UNKNOWN = "train_eval_agreement", "BN213", "BN204"


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x[:512] / 16).astype(np.float32), y[:512].astype(np.int32)


def trained(k, digits, rate=0.05, **options):
    k.utils.set_random_seed(0)
    layers = []
    for name in ("bn", "other"):
        bn = k.layers.BatchNormalization(momentum=0.9, name=name)
        layers += [k.layers.Dense(32), bn, k.layers.ReLU()]
    model = k.Sequential([k.Input((64,)), *layers, k.layers.Dense(10)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(rate, **options), loss, metrics=["accuracy"])
    model.fit(*digits, epochs=4, batch_size=32, verbose=0)
    return model


def kernels(model):
    return [weight for weight in model.trainable_weights if len(weight.shape) > 1]


@pytest.mark.thorough
def test_an_average_that_the_optimizer_puts_in_at_the_end(k, digits):
    model = trained(k, digits, use_ema=True, ema_momentum=0.99)
    finding = expect_failure(
        CHECK, model, *digits, rule=OTHER_WEIGHTS, cause_tested=True, batch_size=32
    )
    assert "the average of the weights" in finding.cause
    assert "where the average is not put in" in finding.tested
    assert "recalibrate(model, x)" in finding.remedy
    recalibrate(model, digits[0], batch_size=32)
    expect_pass(CHECK, model, *digits, batch_size=32)


@pytest.mark.thorough
def test_weights_exchanged_for_those_of_the_optimizer(k, digits):
    model = trained(k, digits, use_ema=True, ema_momentum=0.98)
    recalibrate(model, digits[0])
    weights = [weight.numpy() for weight in model.trainable_weights]
    copies = model.optimizer._model_variables_moving_average
    rng = np.random.default_rng(2)
    for weight, slot in zip(model.trainable_weights, copies, strict=True):
        slot.assign(weight.numpy())
        spread = 0.7 * float(np.std(weight.numpy()))
        weight.assign(weight.numpy() + spread * rng.standard_normal(weight.shape))
    model.optimizer.use_ema = False
    finding = expect_failure(CHECK, model, *digits, rule=OTHER_WEIGHTS, cause_tested=True)
    assert "which the optimizer keeps beside the model's" in finding.cause
    for weight, value in zip(model.trainable_weights, weights, strict=True):
        weight.assign(value)
    expect_pass(CHECK, model, *digits)


def pruned(value):
    return np.where(np.abs(value) < np.quantile(np.abs(value), 0.7), 0, value)


def quantised(value):
    step = np.abs(value).max() / 3
    return step * np.round(value / step) + 0.3 * step


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (pruned, "of the weights are exactly 0, as after pruning"),
        (quantised, "no kernel has more than 256 different weights"),
    ],
)
def test_what_weights_tell_is_likely_and_not_established(k, digits, change, said):
    model = trained(k, digits, rate=0.01)
    recalibrate(model, digits[0])
    expect_pass(CHECK, model, *digits)
    for kernel in kernels(model):
        kernel.assign(change(kernel.numpy()))
    finding = expect_failure(
        CHECK, model, *digits, rule=OTHER_WEIGHTS, cause_tested=False, cause_contains=said
    )
    assert finding.cause.startswith("not established")
    assert "recalibrate(model, x)" in finding.remedy
    recalibrate(model, digits[0])
    expect_pass(CHECK, model, *digits)


@pytest.mark.thorough
def test_weights_that_tell_nothing(k, digits):
    """The mean of two nets, say: other weights or other data, and no more is known."""
    model = trained(k, digits, rate=0.01)
    recalibrate(model, digits[0])
    rng = np.random.default_rng(0)
    for kernel in kernels(model):
        value = kernel.numpy()
        kernel.assign((value + value.std() * rng.standard_normal(value.shape)) / 1.5)
    finding = expect_failure(CHECK, model, *digits, rule=UNKNOWN, cause_tested=False)
    assert "averaged, pruned, rounded, restored" in finding.remedy
    assert "recalibrate(model, x)" in finding.remedy


def dense(model):
    return [layer for layer in model.layers if layer.weights and hasattr(layer, "kernel")]


def multiplied(layer, by):
    layer.kernel.assign(by * layer.kernel.numpy())


@pytest.mark.thorough
def test_weights_scaled_behind_another_normalization_layer(k, digits):
    model = trained(k, digits, rate=0.003)
    expect_pass(CHECK, model, *digits, batch_size=32)
    multiplied(dense(model)[1], 0.1)
    finding = expect_failure(
        CHECK, model, *digits, rule=OTHER_WEIGHTS, layer="other", cause_tested=True, batch_size=32
    )
    assert f"those of {dense(model)[1].name} by 0.1" in finding.cause
    recalibrate(model, digits[0], batch_size=32)
    expect_pass(CHECK, model, *digits, batch_size=32)


@pytest.mark.thorough
def test_the_first_weights_scaled_are_as_the_data_scaled(k, digits):
    model = trained(k, digits, rate=0.003)
    multiplied(dense(model)[0], 0.3)
    expect_failure(
        CHECK,
        model,
        *digits,
        rule="BN209",
        cause_contains="or the first weights were multiplied by as much",
        batch_size=32,
    )
    multiplied(dense(model)[0], 1 / 0.3 * 255)
    expect_failure(CHECK, model, *digits, rule="BN209", without=["weights"], batch_size=32)


@pytest.mark.thorough
def test_first_weights_of_another_scale_behind_features_alike(k):
    """The channels differ by less than what the scale does to all of them."""
    model, first, x, y = trained_on_features_alike(k)
    expect_pass(CHECK, model, x, y)
    first.kernel.assign(4 * first.kernel)
    said = "or the first weights were multiplied by as much"
    expect_failure(CHECK, model, x, y, rule="BN209", cause_contains=said, cause_tested=True)


def fold(layer, bn):
    scale = bn.gamma.numpy() / np.sqrt(bn.moving_variance.numpy() + bn.epsilon)
    layer.kernel.assign(layer.kernel.numpy() * scale)
    layer.bias.assign((layer.bias.numpy() - bn.moving_mean.numpy()) * scale + bn.beta.numpy())


@pytest.mark.thorough
def test_normalization_folded_into_the_weights_that_runs_again(k, digits):
    digits = digits[0] + 1, digits[1]
    model = trained(k, digits, rate=0.003)
    for layer, bn in zip(dense(model), map(model.get_layer, ("bn", "other")), strict=False):
        fold(layer, bn)
    finding = expect_failure(
        CHECK, model, *digits, rule=OTHER_WEIGHTS, layer="bn", cause_tested=True, batch_size=32
    )
    assert f"bn into those of {dense(model)[0].name}" in finding.cause
    recalibrate(model, digits[0], batch_size=32)  # it changes nothing then
    expect_pass(CHECK, model, *digits, batch_size=32)


@pytest.mark.thorough
def test_normalization_folded_in_branches_that_run_side_by_side(k, digits):
    """The weights that run last before a layer are those of the other branch."""
    k.utils.set_random_seed(0)
    halves, y = [digits[0][:, :32] + 1, digits[0][:, 32:] + 1], digits[1]
    inputs = [k.Input((32,), name=name) for name in "ab"]
    first = [k.layers.Dense(24, name=f"{i.name}_in")(i) for i in inputs]
    first[1] = k.layers.Dense(40, name="b_more")(first[1])
    bns = [k.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn") for name in "abc"]
    joined = k.layers.Concatenate()([bn(h) for bn, h in zip(bns, first, strict=False)])
    last = bns[2](k.layers.Dense(24, name="c_in")(k.layers.ReLU()(joined)))
    model = k.Model(inputs, k.layers.Dense(10)(k.layers.ReLU()(last)))
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(halves, y, epochs=8, batch_size=32, verbose=0)
    expect_pass(CHECK, model, halves, y, batch_size=32)
    for name, bn in zip(("a_in", "b_more", "c_in"), bns, strict=True):
        fold(model.get_layer(name), bn)
    finding = expect_failure(
        CHECK, model, halves, y, rule=OTHER_WEIGHTS, cause_tested=True, batch_size=32
    )
    assert "a_bn into those of a_in" in finding.cause
    assert "b_bn into those of b_more" in finding.cause
