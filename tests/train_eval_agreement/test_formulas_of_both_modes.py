"""Layers written by hand whose evaluation is not what training keeps for it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from pytest_bnconsistency.measurement.mode_formulas import formulas
from pytest_bnconsistency.models import subject_of
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


class Norm(layers.Layer):
    """Batch normalization by hand, right or wrong in one way."""

    def __init__(self, way="right", momentum=0.8, name="norm", more=900.0):
        super().__init__(name=name)
        self.more = more
        self.way, self.momentum = way, momentum

    def build(self, shape):
        self.mu = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False)
        self.var = self.add_weight(shape=shape[-1:], initializer="ones", trainable=False)
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones")
        self.beta = self.add_weight(shape=shape[-1:], initializer="zeros")

    def call(self, x, training=None):
        mean, var = ops.moments(x, [0]) if training else (self.mu, self.var)
        if training:
            self.keep(self.mu, var if self.way == "swapped" else mean, never="no mean")
            kept = {
                "swapped": mean,
                "deviation": ops.sqrt(var),
                "square": ops.mean(x * x, 0),
                "sum": var / (1 - self.momentum),
                "third": ops.mean(ops.abs(x - mean) ** 3, 0),
            }
            self.keep(self.var, kept.get(self.way, var), never="no variance")
            return (x - mean) / ops.sqrt(var + 1e-3) * self.gamma + self.beta
        if self.way == "read as deviation":
            return (x - mean) / (var + 1e-3) * self.gamma + self.beta
        if self.way == "other epsilon":
            var = var + self.more
        scaled = (x - mean) / ops.sqrt(var + 1e-3)
        return scaled * self.gamma if self.way == "no beta" else scaled * self.gamma + self.beta

    def keep(self, variable, new, never):
        if self.way not in (never, "neither"):
            variable.assign(self.momentum * variable + (1 - self.momentum) * new)


def trained(way):
    """Warm statistics, and targets that training mode meets: a model and its data."""
    keras.utils.set_random_seed(0)
    x = (
        np.random.default_rng(0)
        .normal([30, -20, 50, 10], [10, 30, 20, 15], (256, 4))
        .astype("float32")
    )
    norm = Norm(way)
    model = keras.Sequential([keras.Input((4,)), norm, layers.Dense(1)])
    model.compile("sgd", "mse")
    norm.gamma.assign([1.0, 0.5, 2.0, 1.5])
    norm.beta.assign([2.0, -1.0, 3.0, 1.0])
    for start in [*range(0, 256, 32)] * 5:
        model(x[start : start + 32], training=True)
        model.optimizer.iterations.assign_add(1)
    before = model.get_weights()
    y = np.asarray(model(x, training=True))
    model.set_weights(before)
    return model, x, y


@pytest.mark.parametrize(
    ("way", "rule", "cause"),
    [
        ("neither", "BN203", "training never updates mu, which evaluation reads as the mean"),
        ("no mean", "BN203", "training never updates mu, which evaluation reads as the mean"),
        ("no variance", "BN203", "never updates var, which evaluation reads as the variance"),
        ("deviation", "BN214", "keeps the standard deviation of the input in var"),
        ("square", "BN214", "keeps the mean square of the input in var"),
        ("sum", "BN214", "training keeps 5 times the variance of the input in var"),
        (
            "swapped",
            "BN214",
            "training keeps the variance of the input in mu",
        ),
        ("third", "BN214", "training keeps no variance in var"),
        ("read as deviation", "BN214", "evaluation reads the standard deviation"),
        ("no beta", "BN216", "evaluation in norm leaves out beta, which training applies"),
        ("other epsilon", "BN216", "evaluation in norm follows another formula than training"),
    ],
)
def test_the_formula_of_one_mode_is_not_that_of_the_other(way, rule, cause):
    expect_failure(
        CHECK, *trained(way), rule=rule, layer="norm", cause_tested=True, cause_contains=cause
    )


@pytest.mark.thorough
def test_one_formula_for_both_modes():
    expect_pass(CHECK, *trained("right"))


@pytest.mark.thorough
def test_small_batches_do_not_hide_another_formula():
    """Statistics of 16 rows cost training mode a part of what evaluation loses."""
    rng, y = np.random.default_rng(0), np.arange(512) % 3
    x = rng.normal(0, 0.6, (3, 8))[y] + rng.normal(0, 1, (512, 8))
    keras.utils.set_random_seed(0)
    one, two = Norm(momentum=0.9, name="one"), Norm("other epsilon", 0.9, "two", more=3.0)
    hidden = [layers.Dense(16), one, layers.ReLU(), layers.Dense(16), two, layers.ReLU()]
    model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    for rate, epochs in ((3e-3, 6), (2e-4, 3)):
        model.optimizer.learning_rate.assign(rate)
        model.fit(x, y, batch_size=16, epochs=epochs, verbose=0)
    finding = expect_failure(
        CHECK, model, x, y, rule="BN216", layer="two", cause_tested=True, batch_size=16
    )
    assert "in training mode in batches of 512" in finding.message
    two.way = "right"
    expect_pass(CHECK, model, x, y, batch_size=16)


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(),
        layers.BatchNormalization(axis=1),
        layers.BatchNormalization(momentum=0.5, epsilon=1e-5, scale=False),
        Norm(),
    ],
)
def test_stock_layers_read_what_they_keep(layer):
    model = keras.Sequential([keras.Input((4, 4) if layer.name != "norm" else (4,)), layer])
    before = model.get_weights()
    found = formulas(subject_of(model), layer)
    assert found is not None
    assert found.agree
    assert [use.read_as for use in found.uses] == ["mean", "variance"]
    np.testing.assert_equal(model.get_weights(), before)


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(trainable=False),
        layers.LayerNormalization(),
        layers.SpectralNormalization(layers.Dense(3)),
    ],
)
def test_what_reads_no_batch_statistics_tells_no_formula(layer):
    model = keras.Sequential([keras.Input((4,)), layer])
    assert formulas(subject_of(model), layer) is None


def test_more_outputs_in_training_are_no_reference(k):
    """An auxiliary head that only training gives, and evaluation a little worse than it may be."""
    norm = k.layers.BatchNormalization(momentum=0.9, name="norm")
    heads = [k.layers.Dense(1), k.layers.Dense(1)]

    class Model(k.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.heads = norm, heads

        def call(self, x, training=None):
            h = self.norm(x, training=training)
            said = [head(h) for head in self.heads]
            return said if training else said[0]

    k.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(2, 3, (128, 4)).astype(np.float32)
    model = Model()
    model(x[:2])
    for start in [*range(0, 128, 32)] * 15:
        model(x[start : start + 32], training=True)
    norm.moving_mean.assign(norm.moving_mean + 0.1)
    y = np.asarray(model(x, training=True)[0])
    model.compile("sgd", "mse")
    noise = np.random.default_rng(1).normal(0, 0.3 * y.std(), y.shape)
    expect_pass(CHECK, model, x, y + noise.astype(np.float32), updates=60)
