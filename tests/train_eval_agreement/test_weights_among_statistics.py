"""Statistics and weights of normalization layers that were loaded in each other's place."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_pass

CHECK, MISPLACED = "train_eval_agreement", "BN212"
NAMES = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(3, 2, (512, 6)).astype(np.float32)


def net(k, x):
    """Scales around 1 and offsets of either sign, and the statistics of the data under them."""
    rng = np.random.default_rng(1)
    h = inputs = k.Input((6,))
    for name in ("bn0", "bn1"):
        h = k.layers.Dense(12, kernel_initializer=k.initializers.RandomNormal(0, 1, seed=2))(h)
        h = k.layers.BatchNormalization(momentum=0.9, name=name)(h)
        h = k.layers.ReLU()(h)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    model.compile("sgd", "mse")
    for name in ("bn0", "bn1"):
        bn = model.get_layer(name)
        bn.gamma.assign(rng.uniform(0.5, 1.5, 12))
        bn.beta.assign(rng.normal(0.3, 0.5, 12))
    for _ in range(6):
        for start in range(0, len(x), 32):
            model(tf.constant(x[start : start + 32]), training=True)
    model.optimizer.iterations.assign(96)
    return model


def load(model, order, names=("bn0", "bn1")):
    """For each vector of a layer in turn, `order` says which one is put in its place."""
    for name in names:
        bn = model.get_layer(name)
        vectors = [getattr(bn, name) for name in NAMES]
        values = [vector.numpy() for vector in vectors]
        for vector, source in zip(vectors, order, strict=True):
            vector.assign(values[source])


@pytest.mark.parametrize(
    ("order", "said"),
    [
        pytest.param(
            (2, 3, 0, 1),
            "moving_mean in that of gamma and moving_variance in that of beta",
            id="statistics first",
        ),
        pytest.param((0, 2, 1, 3), "moving_mean in that of beta", id="mean second"),
        pytest.param(
            (3, 1, 2, 0), "moving_variance in that of gamma", id="ends", marks=pytest.mark.thorough
        ),
        pytest.param(
            (3, 2, 1, 0),
            "moving_mean in that of beta and moving_variance in that of gamma",
            id="backwards",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            (1, 2, 0, 3),
            "moving_mean in that of beta",
            id="three in turn",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_weights_and_statistics_in_another_order(k, disagrees, x, order, said):
    model = net(k, x)
    load(model, order)
    finding = disagrees(model, x, rule=MISPLACED)
    assert said in finding.cause
    assert "bn0 and bn1" in finding.cause
    assert "by name" in finding.remedy
    assert "recalibrate" not in finding.remedy, "the weights are in the wrong place as well"


@pytest.mark.thorough
@pytest.mark.parametrize("names", [("bn0", "bn1"), ("bn0",)])
def test_weights_in_each_others_place(k, disagrees, x, names):
    """Statistics stay where they are; those behind are of what the right weights gave."""
    model = net(k, x)
    load(model, (1, 0, 2, 3), names)
    finding = disagrees(model, x, rule=MISPLACED, layer="bn0")
    assert "vectors of bn0 stand" in finding.cause
    assert "gamma in that of beta and beta in that of gamma" in finding.cause
    assert "none tell of the last such layer" in finding.cause
    assert "by name" in finding.remedy
    load(model, (1, 0, 2, 3), names)
    expect_pass(CHECK, model, x)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["bn0", "bn1"])
def test_one_layer_in_another_order(k, disagrees, x, name):
    model = net(k, x)
    load(model, (0, 2, 1, 3), [name])
    finding = disagrees(model, x, rule=MISPLACED)
    assert f"vectors of {name} stand" in finding.cause
    assert finding.layer == name


@pytest.mark.thorough
@pytest.mark.parametrize("source", ["moving_variance", "beta"])
def test_a_mean_that_is_a_copy_of_another_vector(k, disagrees, x, source):
    model = net(k, x)
    bn = model.get_layer("bn1")
    bn.moving_mean.assign(getattr(bn, source).numpy())
    finding = disagrees(model, x, rule=MISPLACED)
    assert f"moving_mean of bn1 is its {source}" in finding.cause


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "begun"), [("moving_mean", 0), ("moving_variance", 1)])
def test_one_statistic_that_was_not_loaded(k, disagrees, x, name, begun):
    model = net(k, x)
    for layer in ("bn0", "bn1"):
        vector = getattr(model.get_layer(layer), name)
        vector.assign(np.full(12, begun))
    finding = disagrees(model, x, rule="BN201")
    assert f"{name} of bn0 and {name} of bn1 are exactly as built" in finding.cause


@pytest.mark.thorough
def test_a_statistic_that_is_kept_twice_is_no_copy(k, disagrees, x):
    """As of averages that are kept beside their debiased values."""

    class Twice(k.layers.BatchNormalization):
        def build(self, shape):
            super().build(shape)
            self.kept = [
                self.add_weight(name=f"kept_{i}", shape=(shape[-1],), trainable=False)
                for i in range(2)
            ]

        def call(self, inputs, training=None):
            outputs = super().call(inputs, training=training)
            if training:
                self.kept[0].assign(self.moving_mean)
                self.kept[1].assign(self.moving_variance)
            return outputs

    k.utils.set_random_seed(0)
    model = k.Sequential([k.Input((6,)), Twice(name="twice"), k.layers.Dense(2)])
    for start in [*range(0, len(x), 32)] * 40:
        model(tf.constant(x[start : start + 32]), training=True)
    expect_pass(CHECK, model, x)
    disagrees(model, 255 * x, rule="BN209")


@pytest.mark.thorough
def test_vectors_in_their_own_places_pass(k, x):
    model = net(k, x)
    expect_pass(CHECK, model, x)
    load(model, (2, 3, 0, 1))
    load(model, (2, 3, 0, 1))
    expect_pass(CHECK, model, x)
