"""Inference that draws random numbers: found whatever the seed, however rare they matter."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "inference_purity"
SEEDS = 2


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def rare(h):
    """A row is dropped, one in a thousand."""
    return tf.where(tf.random.uniform((tf.shape(h)[0], 1)) < 0.001, 0.0, h)


def one_choice(h):
    """The whole batch is turned around, every second time."""
    return tf.cond(tf.random.uniform(()) < 0.5, lambda: h, lambda: -h)


def rare_class(h):
    return h + tf.cast(tf.random.categorical([[0.0, -9.0]], 1), h.dtype)


def whole_number(h):
    return h + tf.cast(tf.random.uniform((), 0, 1000, tf.int32) == 0, h.dtype)


def never(h):
    """What is drawn never counts."""
    return tf.where(tf.random.uniform((tf.shape(h)[0], 1)) < 0.0, 0.0, h) + 0 * tf.random.normal(
        ()
    )


def model_of(k, draw, in_training_only=False):
    class Own(k.layers.Layer):
        def call(self, h, training=None):
            return draw(h) if training or not in_training_only else h

    inputs = k.Input((4,))
    return k.Model(inputs, k.layers.Dense(2)(Own(name="own")(inputs)))


def rules_of(model, x):
    report = check_consistency(model, x, checks=["batch_invariance", CHECK])
    return [(result.verdict, [f.rule for f in result.findings]) for result in report]


@pytest.mark.thorough
@pytest.mark.parametrize("draw", [rare, one_choice, rare_class, whole_number])
def test_the_same_verdict_and_rule_for_every_seed(k, x, draw):
    for seed in range(SEEDS):
        k.utils.set_random_seed(seed)
        assert rules_of(model_of(k, draw), x) == [("vacuous", []), ("failed", ["BN002"])]
    found = expect_failure(CHECK, model_of(k, draw), x, rule="BN002", layer="own")
    assert found.remedy.startswith("draw random numbers in training mode only")
    assert {"predict", "model(x)"} <= set(found.evidence["random"])


@pytest.mark.parametrize("draw", [never, one_choice])
def test_draws_that_never_count_in_inference(k, x, draw):
    for check in ("batch_invariance", CHECK):
        expect_pass(check, model_of(k, draw, in_training_only=draw is not never), x)


@pytest.mark.parametrize("draw", [rare, never])
def test_draws_of_a_step_of_the_models_own(k, x, draw):
    class Model(k.Model):
        def predict_step(self, data):
            return draw(super().predict_step(data))

    inputs = k.Input((4,))
    model = Model(inputs, k.layers.Dense(2)(inputs))
    if draw is never:
        expect_pass(CHECK, model, x)
        return
    found = expect_failure(CHECK, model, x, rule="BN002")
    assert "predict" in found.evidence["random"]
    assert "model(x)" not in found.evidence["random"]


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [2, 8])
def test_augmentation_in_front_of_a_frozen_base(rows):
    pictures = np.random.default_rng(0).standard_normal((rows, 8, 8, 3)).astype(np.float32)
    layers = keras.layers
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        base = keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.BatchNormalization()]
        )
        inputs = keras.Input((8, 8, 3))
        flipped = layers.RandomFlip("horizontal", name="flip")(inputs)
        h = layers.Flatten()(base(flipped, training=False))
        model = keras.Model(inputs, layers.Dense(2)(h))
        found = expect_failure(CHECK, model, pictures, rule="BN002", layer="flip")
        assert found.evidence["random"] == ["model(x)"]
        assert found.remedy.startswith("call the model with training=False for inference, model(")
        assert [rules for _, rules in rules_of(model, pictures)] == [[], ["BN002"]]
    # As users call it where it must not augment.
    expect_pass(CHECK, lambda x, training=False: model(x, training=training), pictures)
