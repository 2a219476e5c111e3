"""The same sound model, checked again and again: never a false alarm."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency

REPEATS = 200
CHECKS = ["batch_invariance", "inference_purity"]


def dense():
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(64), layers.BatchNormalization(), layers.Dense(10)]
    )


def convolution():
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    h = layers.Conv2D(16, 3, padding="same")(inputs)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.Add()([h, layers.DepthwiseConv2D(3, padding="same")(h)])
    return keras.Model(inputs, layers.Dense(5, "softmax")(layers.GlobalAveragePooling2D()(h)))


def recurrent():
    layers = keras.layers
    inputs = keras.Input((None,), dtype="int64")
    h = layers.Embedding(30, 8, mask_zero=True)(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GRU(8)(h)))


def attention():
    layers = keras.layers
    inputs = keras.Input((12, 8))
    h = layers.LayerNormalization()(inputs)
    h = layers.Add()([inputs, layers.MultiHeadAttention(2, 4)(h, h)])
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(h)))


def noisy():
    layers = keras.layers
    inputs = {"a": keras.Input((8,), name="a"), "b": keras.Input((4,), name="b")}
    h = layers.Concatenate()([inputs["a"], layers.GaussianNoise(0.2)(inputs["b"])])
    h = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(16)(h)))
    return keras.Model(inputs, {"class": layers.Dense(3)(h), "size": layers.Dense(1)(h)})


@pytest.mark.slow
@pytest.mark.parametrize("build", [dense, convolution, recurrent, attention, noisy])
def test_two_hundred_repeats(build):
    keras.utils.set_random_seed(0)
    model = build()
    rng = np.random.default_rng(0)
    x = rng.integers(1, 30, (8, 9)) if build is recurrent else None
    failed = [
        (seed, result.headline)
        for seed in range(REPEATS)
        for result in check_consistency(model, x, checks=CHECKS, seed=seed)
        if str(result.verdict) != "passed"
    ]
    assert not failed
