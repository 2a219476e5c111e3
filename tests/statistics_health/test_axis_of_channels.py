"""Statistics along another axis than the channels fail, wherever the channels were brought to."""

import keras
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "statistics_health"


def fails(model, axis):
    return expect_failure(
        CHECK,
        model,
        rule="BN407",
        layer="bn",
        cause_tested=True,
        cause_contains=f"axis {axis}: the model's channels lie along axis -1",
    )


def model_of(k, *layers, shape=(8, 9, 1)):
    inputs = h = k.Input(shape)
    for layer in layers:
        h = layer(h)
    model = k.Model(inputs, k.layers.Dense(2)(k.layers.Flatten()(h)))
    model.compile("sgd", "mse")
    return model


def along(k, axis):
    return k.layers.BatchNormalization(axis=axis, name="bn")


def test_the_wrong_channel_axis(k):
    def of(axis):
        return model_of(k, k.layers.Conv2D(3, 3), along(k, axis))

    finding = fails(of(1), axis=1)
    assert "6 statistics" in finding.message
    assert "built anew with axis=-1 it does not (0%)" in finding.tested
    expect_pass(CHECK, of(-1))


@pytest.mark.parametrize("between", ["ReLU", "MaxPooling2D"])
def test_channels_that_were_brought_to_another_axis(k, between):
    def of(*order):
        conv, act = k.layers.Conv2D(3, 3), getattr(k.layers, between)()
        return model_of(k, conv, act, k.layers.Permute(order), along(k, 1))

    expect_pass(CHECK, of(3, 1, 2))
    fails(of(2, 1, 3), axis=1)


@pytest.mark.thorough
def test_the_steps_of_a_sequence(k):
    def of(axis, *between):
        conv, bn = k.layers.Conv1D(3, 3), along(k, axis)
        return model_of(k, conv, *between, bn, k.layers.Conv1D(2, 2), shape=(8, 2))

    fails(of(1), axis=1)
    fails(of(1, k.layers.ReLU(), k.layers.MaxPooling1D(2)), axis=1)
    expect_pass(CHECK, of(-1))
    expect_pass(CHECK, of(1, k.layers.Permute((2, 1))))
    # Behind a recurrence nobody knows what an axis is; nor in front of all layers.
    expect_pass(CHECK, of(1, k.layers.LSTM(4, return_sequences=True)))
    expect_pass(CHECK, model_of(k, along(k, 1), k.layers.Conv1D(3, 3), shape=(8, 5)))


class Turned(keras.layers.Layer):
    """Normalises channels that lie first, between two transpositions of its own."""

    def __init__(self, order):
        super().__init__(name="turned")
        self.order, self.bn = order, along(keras, 1)

    def build(self, shape):
        self.bn.build([shape[axis] for axis in self.order])

    def call(self, x, training=None):
        return self.bn(keras.ops.transpose(x, self.order), training=training)


def test_channels_that_a_layer_turns_itself():
    def of(*order):
        return model_of(keras, keras.layers.Conv2D(3, 3), Turned(order))

    expect_pass(CHECK, of(0, 3, 1, 2))
    expect_failure(CHECK, of(0, 2, 1, 3), rule="BN407", layer="turned/bn", cause_tested=True)


@pytest.mark.thorough
def test_frequencies_of_a_spectrogram(k):
    """It has one channel only: a statistic for each frequency is meant."""

    def of(channels):
        return model_of(k, along(k, 2), k.layers.Conv2D(3, 3), shape=(8, 9, channels))

    expect_pass(CHECK, of(1))
    fails(of(3), axis=2)
