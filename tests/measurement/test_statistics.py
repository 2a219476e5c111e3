"""Population statistics are what one pass over all rows at once would give."""

import keras
import numpy as np
import pytest
from small_models import OwnNormalization

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.measurement.batch_statistics import BatchStatistics
from pytest_bnconsistency.measurement.population import Estimate, Moment


def normalised(k, layer, shape=(4,)):
    inputs = k.Input(shape)
    return k.Model(inputs, layer(inputs))


@pytest.mark.parametrize("batch_size", [7, 16, 50])
@pytest.mark.parametrize("shape", [(4,), (3, 5, 4)], ids=str)
def test_unequal_batches_join_to_the_whole(k, batch_size, shape):
    x = np.random.default_rng(0).normal(2, 3, (50, *shape)).astype(np.float32)
    bn = k.layers.BatchNormalization(fused=False) if k is not keras else None
    bn = bn or k.layers.BatchNormalization()
    model = normalised(k, bn, shape)
    assert recalibrate(model, x, batch_size=batch_size) == [bn.name]
    axes = tuple(range(len(shape)))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(bn.moving_mean.numpy(), exact.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(bn.moving_variance.numpy(), exact.var(axes), rtol=1e-6)


def test_an_estimate_knows_its_halves_and_how_batches_differ():
    class Mean:
        @staticmethod
        def value(moment):
            return moment.mean

    rng = np.random.default_rng(0)
    batches = [rng.normal(2, 3, (rows, 4)) for rows in (7, 16, 5, 12, 9)]
    estimate = Estimate([Mean()])
    assert (estimate.rows, estimate.spread, estimate.halves) == (0, [], [])
    for batch in batches:
        moment = Moment(len(batch), batch.mean(0), batch.var(0))
        estimate.add(BatchStatistics(len(batch), ((moment,),), (batch.mean(0),), []))
    assert (estimate.rows, estimate.batches) == (49, 5)
    np.testing.assert_allclose(estimate.population[0], np.concatenate(batches).mean(0))
    for half, (mean,) in enumerate(estimate.halves):
        np.testing.assert_allclose(mean, np.concatenate(batches[half::2]).mean(0))
    means = np.array([batch.mean(0) for batch in batches])
    np.testing.assert_allclose(estimate.spread[0], means.std(0, ddof=1))


@pytest.mark.parametrize("level", [100, 10_000])
def test_a_mean_that_is_large_against_the_deviation(k, level):
    x = np.random.default_rng(0).normal(level, 1, (64, 4)).astype(np.float32)
    bn = k.layers.BatchNormalization()
    recalibrate(normalised(k, bn), x, batch_size=16)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(bn.moving_mean.numpy(), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(bn.moving_variance.numpy(), exact.var(0), rtol=1e-6)


def test_a_home_made_normaliser_is_found_by_what_it_does():
    x = np.random.default_rng(0).normal(2, 3, (50, 4)).astype(np.float32)
    own = OwnNormalization(name="own")
    assert recalibrate(normalised(keras, own), x, batch_size=16) == ["own"]
    np.testing.assert_allclose(own.level.numpy(), x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(own.power.numpy(), x.var(0), rtol=1e-5)


def test_a_normaliser_in_code_that_no_layer_tracks():
    x = np.random.default_rng(0).normal(2, 3, (50, 4)).astype(np.float32)
    bn = keras.layers.BatchNormalization(name="hidden")
    bn.build((None, 4))

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            return bn(x, training=training)

    model = normalised(keras, Outer(name="outer"))
    assert recalibrate(model, x) == ["outer/hidden"]
    np.testing.assert_allclose(bn.moving_mean.numpy(), x.mean(0), rtol=1e-5)


def test_a_layer_called_twice_gets_one_set_of_statistics(k):
    x = np.random.default_rng(0).normal(2, 3, (64, 4)).astype(np.float32)
    bn = k.layers.BatchNormalization(name="bn", momentum=0.9)
    inputs = k.Input((4,))
    model = k.Model(inputs, bn(inputs) + bn(inputs))
    assert recalibrate(model, x, batch_size=64) == ["bn"]
    np.testing.assert_allclose(bn.moving_mean.numpy(), x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(bn.moving_variance.numpy(), x.var(0), rtol=1e-4)


def test_counters_and_sums_are_no_statistics():
    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x, training=None):
            if training:
                self.count.assign_add(1.0)
            return x

    x = np.random.default_rng(0).normal(2, 3, (50, 4)).astype(np.float32)
    bn = keras.layers.BatchNormalization(name="bn")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, bn(Counting()(inputs)))
    assert recalibrate(model, x) == ["bn"]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999])
def test_any_momentum(k, momentum):
    x = np.random.default_rng(0).normal(2, 3, (64, 4)).astype(np.float32)
    bn = k.layers.BatchNormalization(name="bn", momentum=momentum)
    assert recalibrate(normalised(k, bn), x) == ["bn"]
    np.testing.assert_allclose(bn.moving_mean.numpy(), x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(bn.moving_variance.numpy(), x.var(0), rtol=1e-4)
