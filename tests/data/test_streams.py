"""Data that is longer than what is kept: read batch by batch, in memory that does not grow."""

import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.context import Door, Progress, door
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.testing import expect_pass


def normalised(bn, shape=(4,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, bn(inputs))


class Own(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return -(-len(self.x) // 48)

    def __getitem__(self, index):
        return (self.x[48 * index : 48 * (index + 1)],)


def in_parts(x):
    yield from (x[start : start + 70] for start in range(0, len(x), 70))


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(50),
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(1),
        Own,
        in_parts,
    ],
    ids=["array", "tf.data", "single rows", "PyDataset", "generator"],
)
def test_all_rows_count_however_they_come(given):
    x = np.random.default_rng(0).normal(1e4, 1, (333, 4)).astype(np.float32)
    bn = keras.layers.BatchNormalization(name="bn")
    assert recalibrate(normalised(bn), given(x), max_rows=100) == ["bn"]
    exact = x.astype(np.float64)
    np.testing.assert_allclose(bn.moving_mean.numpy(), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(bn.moving_variance.numpy(), exact.var(0), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 32])
def test_normalisers_one_after_the_other_on_single_rows(k, size):
    """The second gets the first's offset, and nothing else, wherever a row is normalised alone."""
    x = np.random.default_rng(0).normal(3, 2, (333, 4)).astype(np.float32)
    inputs = k.Input((4,))
    first = k.layers.BatchNormalization()(inputs)
    model = k.Model(inputs, k.layers.BatchNormalization(name="bn")(first))
    recalibrate(model, tf.data.Dataset.from_tensor_slices(x).batch(size), max_rows=100)
    np.testing.assert_allclose(model.get_layer("bn").moving_variance.numpy(), 1, rtol=0.05)


@pytest.mark.thorough
def test_a_generator_without_end_is_read_so_far():
    def endless():
        rng = np.random.default_rng(0)
        while True:
            yield rng.normal(size=(8, 4)).astype(np.float32)

    model = normalised(keras.layers.BatchNormalization())
    options = {"max_rows": 16, "statistics_rows": 40, "updates": 0}
    recalibrate(model, endless(), max_rows=16, statistics_rows=40)
    result = check_consistency(model, endless(), checks=["train_eval_agreement"], **options)
    assert result.results[0].evidence["statistics_rows"] == 40


def test_a_late_bad_row_is_refused_and_nothing_is_written():
    x = np.random.default_rng(0).normal(size=(333, 4)).astype(np.float32)
    x[300, 1] = np.nan
    bn = keras.layers.BatchNormalization(name="bn")
    with pytest.raises(DataError, match="x has NaN or Inf in 1 of"):
        recalibrate(normalised(bn), in_parts(x), max_rows=100)
    assert not bn.moving_mean.numpy().any()


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_rows():
    bn = keras.layers.BatchNormalization(name="bn", momentum=0.9)
    model = normalised(bn, (16, 16, 4))

    def rows(count):
        rng = np.random.default_rng(0)
        for _ in range(count // 50):
            yield rng.normal(size=(50, 16, 16, 4)).astype(np.float32)

    recalibrate(model, rows(200))

    def peak(count):
        tracemalloc.start()
        expect_pass("train_eval_agreement", model, rows(count), max_rows=100)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return memory

    peak(100)
    assert peak(10_000) < 1.2 * peak(100)


def test_progress_of_a_long_reading(monkeypatch):
    lines = []
    progress = Progress()
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr(progress, "show", lines.append)
    token = door.set(Door(progress=progress))
    try:
        x = np.random.default_rng(0).normal(size=(333, 4)).astype(np.float32)
        recalibrate(normalised(keras.layers.BatchNormalization()), x, max_rows=100)
    finally:
        door.reset(token)
    assert lines[-2:] == ["recalibrate: statistics of 333 rows of 333 read", ""]


def test_masked_places_count_as_training_counts_them(k):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 1, (40, 6, 3)).astype(np.float32)
    kept = rng.random((40, 6)) < 0.6
    x[~kept] = 0
    bn = k.layers.BatchNormalization(name="bn")
    inputs = k.Input((6, 3))
    model = k.Model(inputs, bn(k.layers.Masking()(inputs)))
    recalibrate(model, x, batch_size=16)
    exact = x[kept].astype(np.float64)
    np.testing.assert_allclose(bn.moving_mean.numpy(), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(bn.moving_variance.numpy(), exact.var(0), rtol=1e-6)


@pytest.mark.thorough
def test_sample_weights_count_in_the_loss_and_not_in_the_statistics(k):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 1, (64, 4)).astype(np.float32)
    weight = (np.arange(64) < 32).astype(np.float32)
    bn = k.layers.BatchNormalization(name="bn")
    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(1)(bn(inputs)))
    model.compile("sgd", "mse", weighted_metrics=["mae"])
    batches = tf.data.Dataset.from_tensor_slices((x, x[:, :1], weight)).batch(16)
    recalibrate(model, batches)
    np.testing.assert_allclose(bn.moving_mean.numpy(), x.mean(0), rtol=1e-6)
    result = expect_pass("train_eval_agreement", model, batches, updates=1000)
    scores = model.evaluate(batches, verbose=0, return_dict=True)
    assert result.evidence["moving"] == pytest.approx(scores, rel=1e-5)


def test_frozen_layers_are_changed_only_when_told(k):
    x = np.random.default_rng(0).normal(2, 1, (64, 4)).astype(np.float32)
    layers = [k.layers.BatchNormalization(name=name) for name in ("frozen", "free")]
    layers[0].trainable = False
    inputs = k.Input((4,))
    model = k.Model(inputs, layers[1](layers[0](inputs)))
    assert recalibrate(model, x) == ["free"]
    assert recalibrate(model, x, frozen=True) == ["frozen", "free"]
    assert not layers[0].trainable
    np.testing.assert_allclose(layers[0].moving_mean.numpy(), x.mean(0), rtol=1e-6)
    model.trainable = False
    with pytest.raises(Exception, match="write recalibrate\\(model, data, frozen=True\\)"):
        recalibrate(model, x)
