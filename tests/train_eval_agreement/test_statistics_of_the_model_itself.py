"""A model that normalises in its own `call`, by statistics that no layer holds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

AGREEMENT, FROZEN = "train_eval_agreement", "frozen_stability"


def net(k, *, momentum=0.9, stays=True):
    class Net(k.Model):
        def __init__(self):
            super().__init__(name="net")
            self.hidden, self.head = k.layers.Dense(16, name="hidden"), k.layers.Dense(2)
            own = {"shape": (16,), "trainable": False}
            self.mean = self.add_weight(name="mean", initializer="zeros", **own)
            self.variance = self.add_weight(name="variance", initializer="ones", **own)

        def call(self, x, training=False):
            h = self.hidden(x)
            mean, variance = self.mean, self.variance
            if training and (self.trainable or not stays):
                mean, variance = tf.nn.moments(h, [0])
                for kept, now in ((self.mean, mean), (self.variance, variance)):
                    kept.assign(momentum * kept + (1 - momentum) * now)
            return self.head(tf.nn.relu((h - mean) / tf.sqrt(variance + 1e-3)))

    return Net()


@pytest.fixture
def rows():
    keras.utils.set_random_seed(0)
    x = 3 + 2 * np.random.default_rng(0).standard_normal((512, 8)).astype(np.float32)
    return x, ((x[:, 0] - 3) * (x[:, 1] - 3) > 0).astype(np.int32)


def trained(k, x, y, **kinds):
    model = net(k, **kinds)
    model(x[:2])
    compiled(k, model).fit(x, y, epochs=20, verbose=0)
    return model


def compiled(k, model):
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    return model


def test_statistics_that_follow_pass(k, rows):
    result = expect_pass(AGREEMENT, trained(k, *rows), *rows)
    assert "under moving against population statistics of 1 normalization layer" in result.summary


def test_statistics_that_are_stale(k, rows):
    model = trained(k, *rows, momentum=0.9999)
    finding = expect_failure(AGREEMENT, model, *rows, rule="BN201", layer="net", cause_tested=True)
    assert finding.cause.startswith("momentum 0.9999 after 320 updates leaves 96.")


@pytest.mark.thorough
def test_statistics_in_each_others_place(k, rows):
    model = trained(k, *rows)
    mean = model.mean.numpy()
    model.mean.assign(model.variance)
    model.variance.assign(mean)
    expect_failure(AGREEMENT, model, *rows, rule="BN212", layer="net", cause_tested=True)


@pytest.mark.parametrize("stays", [True, False])
def test_a_frozen_model_that_moves_its_statistics(k, rows, stays):
    model = trained(k, *rows, stays=stays)
    model.trainable = False
    compiled(k, model)
    if stays:
        expect_pass(FROZEN, model, *rows)
    else:
        expect_failure(FROZEN, model, *rows, rule="BN301", layer="net")


@pytest.mark.thorough
def test_a_variance_below_zero(k, rows):
    model = trained(k, *rows)
    model.variance.assign(-model.variance)
    finding = expect_failure(AGREEMENT, model, *rows, rule="BN402", layer="net")
    assert "the stored variance of net is negative in 16 of 16 channels" in finding.cause


@pytest.mark.thorough
def test_a_variance_that_is_no_number(k, rows):
    model = trained(k, *rows)
    assert "2 statistics of 1" in expect_pass("statistics_health", model, *rows).summary
    model.variance.assign(np.where(np.arange(16) == 3, np.nan, model.variance.numpy()))
    expect_failure("statistics_health", model, *rows, rule="BN401", layer="net")
