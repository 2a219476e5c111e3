"""Variables that neither train nor are statistics: what normalises is found beside them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(2, 3, (256, 6)).astype(np.float32)


def frozen_backbone(k):
    """With a normalization layer of its own, frozen with the rest."""
    layers = [k.layers.Dense(8, "relu"), k.layers.BatchNormalization(), k.layers.Dense(5)]
    base = k.Sequential([k.Input((6,)), *layers], name="base")
    base.trainable = False
    return base


def frozen_before_it_is_built(k):
    return k.layers.Dense(5, trainable=False)


def counting(k):
    """Scales by the batches that it has seen, which the model trains with."""

    class Warming(k.layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(shape=(), trainable=False, initializer="ones")

        def call(self, x, training=None):
            if training:
                self.seen.assign_add(1.0)
            return x * self.seen / (self.seen + 1e-5)

    return Warming()


@pytest.mark.thorough
@pytest.mark.parametrize("before", [frozen_backbone, frozen_before_it_is_built, counting])
def test_a_normaliser_behind_it_keeps_its_reference(k, x, before):
    inputs, bn = k.Input((6,)), k.layers.BatchNormalization(momentum=0.9, name="head_bn")
    h = before(k)(inputs)
    model = k.Model(inputs, k.layers.Dense(3, "softmax")(bn(h)))
    given = k.Model(inputs, h).predict(x, verbose=0)
    bn.moving_mean.assign(given.mean(0))
    bn.moving_variance.assign(given.var(0))
    expect_pass(CHECK, model, x)
    assert recalibrate(model, x) == ["head_bn"]
    np.testing.assert_allclose(bn.moving_mean, given.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(bn.moving_variance, given.var(0), rtol=1e-3)
    bn.moving_mean.assign(given.mean(0) + 2 * given.std(0))
    expect_failure(CHECK, model, x, rule="BN204", layer="head_bn")


class OfAllRows(keras.layers.Layer):
    """The mean and the variance of all rows so far, as of observations in reinforcement learning.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """

    def build(self, shape):
        self.mean = self.add_weight(shape=shape[-1:], trainable=False, initializer="zeros")
        self.variance = self.add_weight(shape=shape[-1:], trainable=False, initializer="ones")
        self.count = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x, training=None):
        if training:
            mean, variance = tf.nn.moments(x, 0)
            rows, count = tf.cast(tf.shape(x)[0], tf.float32), tf.convert_to_tensor(self.count)
            whole, apart = rows + count, mean - self.mean
            squares = self.variance * count + variance * rows + apart**2 * rows * count / whole
            self.mean.assign(self.mean + apart * rows / whole)
            self.variance.assign(squares / whole)
            self.count.assign(whole)
        return (x - self.mean) / tf.sqrt(self.variance + 1e-8)


def test_the_statistics_of_all_rows_so_far(x):
    layer = OfAllRows(name="observed")
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(3, "softmax")])
    for _ in range(4):
        for batch in np.split(x, 8):
            model(batch, training=True)
    np.testing.assert_allclose(layer.mean, x.mean(0), rtol=1e-3)
    for check in (CHECK, "statistics_health"):
        assert not expect_pass(check, model, x).warnings
    before = model.predict(x, verbose=0)
    recalibrate(model, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), before, atol=1e-3)


class Codebook(keras.layers.Layer):
    """Vector quantisation whose codes are moving averages of the rows nearest to them."""

    def build(self, shape):
        made = {"trainable": False, "initializer": "random_normal"}
        self.codes = self.add_weight(shape=(8, shape[-1]), **made)
        self.sums = self.add_weight(shape=(8, shape[-1]), **made)
        self.sizes = self.add_weight(shape=(8,), trainable=False, initializer="ones")

    def call(self, x, training=None):
        codes = tf.convert_to_tensor(self.codes)
        nearest = tf.one_hot(tf.argmin(tf.norm(x[:, None] - codes, axis=-1), 1), 8)
        if training:
            self.sizes.assign(0.9 * self.sizes + 0.1 * tf.reduce_sum(nearest, 0))
            self.sums.assign(0.9 * self.sums + 0.1 * tf.matmul(nearest, x, transpose_a=True))
            self.codes.assign(self.sums / (self.sizes[:, None] + 1e-5))
        return tf.matmul(nearest, codes)


def test_a_codebook_is_no_normaliser(x):
    model = keras.Sequential([keras.Input((6,)), Codebook(), keras.layers.Dense(6)])
    for batch in np.split(x, 8):
        model(batch, training=True)
    for check in (CHECK, "statistics_health"):
        expect_verdict(check, "not applicable", model, x)


class RootMeanSquare(keras.layers.Layer):
    """Divides by a moving root mean square, and subtracts nothing."""

    def build(self, shape):
        self.root = self.add_weight(shape=shape[-1:], trainable=False, initializer="ones")

    def call(self, x, training=None):
        if not training:
            return x / self.root
        root = tf.sqrt(tf.reduce_mean(x * x, 0) + 1e-6)
        self.root.assign(0.99 * self.root + 0.01 * root)
        return x / root


class FromZero(keras.layers.Layer):
    """Batch normalization whose variance begins at 0, as weights do by themselves."""

    def build(self, shape):
        made = {"shape": shape[-1:], "trainable": False, "initializer": "zeros"}
        self.mean, self.variance = self.add_weight(**made), self.add_weight(**made)

    def call(self, x, training=None):
        if not training:
            return (x - self.mean) / tf.sqrt(self.variance + 1e-3)
        mean, variance = tf.nn.moments(x, 0)
        self.mean.assign(0.99 * self.mean + 0.01 * mean)
        self.variance.assign(0.99 * self.variance + 0.01 * variance)
        return (x - mean) / tf.sqrt(variance + 1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("own", [RootMeanSquare, FromZero])
def test_initial_values_of_a_layer_of_ones_own(x, own):
    """A root mean square begins at 1 as a variance does; a variance may begin at 0."""
    layer = own(name="own")
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(3)])
    for repeats, updates in ((2, 16), (80, 656)):
        for _ in range(repeats):
            for batch in np.split(4 * x + 7, 8):
                model(batch, training=True)
        if updates == 16:
            expect_failure(
                CHECK,
                model,
                4 * x + 7,
                updates=updates,
                rule="BN201",
                layer="own",
                cause_tested=True,
                cause_contains="after 16 updates leaves 85.1%",
            )
    expect_pass(CHECK, model, 4 * x + 7, updates=updates)


class LowestAndHighest(keras.layers.Layer):
    """Scales to moving extremes."""

    def build(self, shape):
        self.low = self.add_weight(shape=shape[-1:], trainable=False, initializer="zeros")
        self.high = self.add_weight(shape=shape[-1:], trainable=False, initializer="ones")

    def call(self, x, training=None):
        if training:
            self.low.assign(0.9 * self.low + 0.1 * tf.reduce_min(x, 0))
            self.high.assign(0.9 * self.high + 0.1 * tf.reduce_max(x, 0))
        return (x - self.low) / (self.high - self.low)


def test_state_that_is_no_known_statistic_is_named(x):
    layer = LowestAndHighest(name="extremes")
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(3, "softmax")])
    for batch in np.split(x, 8):
        model(batch, training=True)
    result = expect_verdict(CHECK, "not applicable", model, x)
    assert "what training mode moves in extremes" in result.summary


class Renormalised(keras.layers.BatchNormalization):
    """Batch renormalisation (Ioffe, 2017): training corrects the batch by what is stored."""

    def call(self, x, training=False):
        stored, deviation = (
            tf.convert_to_tensor(self.moving_mean),
            tf.sqrt(self.moving_variance + 1e-3),
        )
        if not training:
            return self.gamma * (x - stored) / deviation + self.beta
        mean, variance = tf.nn.moments(x, 0)
        own = tf.sqrt(variance + 1e-3)
        scale, offset = own / deviation, (mean - stored) / deviation
        self.moving_mean.assign(0.9 * stored + 0.1 * mean)
        self.moving_variance.assign(0.9 * self.moving_variance + 0.1 * variance)
        normalized = (x - mean) / own
        corrected = normalized * tf.clip_by_value(scale, 1 / 3, 3.0)
        return self.gamma * (corrected + tf.clip_by_value(offset, -5.0, 5.0)) + self.beta


@pytest.mark.thorough
def test_training_that_hangs_on_what_is_stored_is_read_from_that(x):
    x = 4 * x + 30
    y = (x[:, 0] > 38).astype(np.int32)
    keras.utils.set_random_seed(0)
    layers = [Renormalised(name="renorm"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    model.fit(x, y, epochs=12, verbose=0)
    result = expect_pass(CHECK, model, x, y)
    said = result.evidence
    assert said["training"]["loss"] == pytest.approx(said["moving"]["loss"], rel=0.1)
