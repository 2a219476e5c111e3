"""Warnings of unusual statistics say what is so, in the right unit, and of nothing harmless."""

import numpy as np
import pytest

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_pass

CHECK = "statistics_health"


def model_of(k, *layers):
    model = k.Sequential([k.Input((4,)), *layers, k.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def normaliser(k, mean=0.5, variance=2.0, gamma=1.0, **arguments):
    bn = k.layers.BatchNormalization(name="bn", **arguments)
    bn.build((None, 4))
    values = {"moving_mean": mean, "moving_variance": variance, "gamma": gamma}
    for name, value in values.items():
        if getattr(bn, name, None) is not None:
            getattr(bn, name).assign(np.broadcast_to(value, 4).astype(np.float32))
    return bn


def warnings(result, rule):
    return [warning for warning in result.warnings if warning.rule == rule]


@pytest.mark.parametrize(
    ("gamma", "said"),
    [
        (1.0, "up to 31.6, an input 0.1 off gives 3.16"),
        ([0.1, 9, 9, 9], "up to 3.16, an input 0.1 off gives 0.316"),
        ([-2.0, 1, 1, 1], "up to 63.2, an input 0.1 off gives 6.32"),
        ([0.0, 1, 1, 1], None),
        ([1e-3, 1, 1, 1], None),
    ],
)
def test_the_gain_of_a_dead_channel_is_that_of_its_scale_too(k, gamma, said):
    bn = normaliser(k, variance=np.array([0, 1, 1, 1]), gamma=np.array(gamma))
    found = warnings(expect_pass(CHECK, model_of(k, bn)), "BN405")
    assert bool(found) == bool(said)
    assert all(said in warning.message for warning in found)


@pytest.mark.parametrize(
    ("scale", "arguments", "named"),
    [(1e-3, {}, True), (1.0, {}, False), (1e-3, {"epsilon": 1e-6}, False)],
    ids=["small", "scaled up", "smaller epsilon"],
)
def test_inputs_that_are_small_throughout_are_not_said_to_be_constant(k, scale, arguments, named):
    x = (scale * np.random.default_rng(0).normal(size=(64, 4))).astype(np.float32)
    bn = normaliser(k, mean=x.mean(0), variance=x.var(0), **arguments)
    found = warnings(expect_pass(CHECK, model_of(k, bn), x), "BN405")
    assert bool(found) == named
    for warning in found:
        assert "4 channels in bn have variances below a hundredth of epsilon" in warning.message
        assert "scale it up, or train with a smaller epsilon" in warning.remedy


def test_the_gain_of_a_dead_channel_without_a_scale(k):
    bn = normaliser(k, variance=np.array([0, 1, 1, 1]), scale=False)
    assert "up to 31.6" in warnings(expect_pass(CHECK, model_of(k, bn)), "BN405")[0].message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"mean": 9.0, "variance": 4.0},
            "the means of bn are 3 standard deviations from those of this data",
        ),
        ({"mean": 3.0, "variance": 16.0}, "the variances of bn are 4 times those of this data"),
        ({"mean": 3.0, "variance": 1.0}, "the variances of bn are 0.25 times those of this data"),
        ({"mean": 3.0, "variance": 4.0}, None),
    ],
)
def test_distances_are_told_in_units_of_their_own(k, changed, said):
    x = np.random.default_rng(0).standard_normal((512, 4))
    x = (3 + 2 * (x - x.mean(0)) / x.std(0)).astype(np.float32)
    bn = normaliser(k, **changed)
    model = model_of(k, bn)
    result = expect_pass(CHECK, model, x)
    found = warnings(result, "BN410")
    assert [(one["layer"], one.keys()) for one in result.evidence["distances"]] == [
        ("bn", {"layer", "mean", "variance"})
    ]
    assert [w.message for w in found] == ([said] if said else [])
    assert all("0.5 standard deviations (of a mean) or 50%" in w.bound for w in found)
    recalibrate(model, x)
    assert not warnings(expect_pass(CHECK, model, x), "BN410")


@pytest.mark.parametrize(
    ("rows", "told"), [(6, False), (8, True), (32, True)], ids=["too few", "few", "one batch"]
)
def test_distances_of_a_single_batch(k, rows, told):
    x = np.random.default_rng(0).normal(3, 2, (rows, 4)).astype(np.float32)
    bn = normaliser(k)
    model = model_of(k, bn)
    recalibrate(model, x)
    assert not warnings(expect_pass(CHECK, model, x), "BN410")
    bn.moving_mean.assign(bn.moving_mean + 20)
    found = warnings(expect_pass(CHECK, model, x), "BN410")
    assert [w.layer for w in found] == (["bn"] if told else [])


@pytest.mark.parametrize(
    ("mean", "variance", "said"),
    [
        (
            27.0,
            4.0,
            "the mean of bn is 12 standard deviations from that of this data in channel 1",
        ),
        (3, 4e20, "the variance of bn is 1e+20 times that of this data in channel 1"),
        (5.0, 8.0, None),
    ],
)
def test_a_single_channel_that_is_far_off(k, mean, variance, said):
    """One value of a batch can ruin a channel, and the others keep the median where it was."""
    x = np.random.default_rng(0).standard_normal((512, 8))
    x = 3 + 2 * (x - x.mean(0)) / x.std(0)
    x[:, 7] = 3 + 1e-4 * x[:, 7]  # of a channel that hardly varies little is known
    x = x.astype(np.float32)
    bn = k.layers.BatchNormalization(name="bn")
    model = k.Sequential([k.Input((8,)), bn, k.layers.Dense(2)])
    model.compile("sgd", "mse")
    recalibrate(model, x)
    bn.moving_variance.assign([4.0] * 7 + [0.1])
    assert not warnings(expect_pass(CHECK, model, x), "BN410")
    bn.moving_mean.assign([3.0, mean] + [3.0] * 6)
    bn.moving_variance.assign([4.0, variance] + [4.0] * 5 + [0.1])
    found = warnings(expect_pass(CHECK, model, x), "BN410")
    assert [w.message for w in found] == ([f"{said}, and near it in most others"] if said else [])


@pytest.mark.thorough
def test_initial_statistics_of_a_model_that_was_never_trained_are_no_news(k):
    def fresh():
        return model_of(k, k.layers.Dense(4), k.layers.BatchNormalization(name="bn"))

    assert not expect_pass(CHECK, fresh()).warnings
    stepped = fresh()
    stepped.optimizer.build(stepped.trainable_variables)
    stepped.optimizer.iterations.assign(3)
    learnt = fresh()
    learnt.get_layer("bn").gamma.assign([1, 2, 1, 1])
    beside = model_of(
        k, normaliser(k), k.layers.Dense(4), k.layers.BatchNormalization(name="other")
    )
    for model, name in ((stepped, "bn"), (learnt, "bn"), (beside, "other")):
        found = warnings(expect_pass(CHECK, model), "BN411")
        assert [w.layer for w in found] == [name]
