"""A fault is found, and a sound model passes, in other precisions, odd code and odd names."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from small_models import centred, passing_on

from pytest_bnconsistency import preserve_state, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

BATCH, PURITY = "batch_invariance", "inference_purity"


AGREE, FROZEN = "train_eval_agreement", "frozen_stability"


def recalibrated(model, x):
    recalibrate(model, x)
    return model


@pytest.mark.thorough
def test_generated_integers_leave_no_trace():
    inputs = keras.Input((None,), dtype="int32")
    h = keras.layers.LSTM(4)(keras.layers.Embedding(20, 4, mask_zero=True)(inputs))
    expect_pass(BATCH, keras.Model(inputs, h))


def test_generated_rows_leave_no_trace():
    inputs = keras.Input((4,))
    bn = keras.layers.BatchNormalization(name="bn")

    class Own(keras.layers.Layer):
        def call(self, x):
            return bn(x, training=True)

    model = keras.Model(inputs, Own(name="own")(inputs))
    before = bn.moving_mean.numpy()
    expect_failure(BATCH, model, rule="BN102", cause_tested=True)
    np.testing.assert_array_equal(bn.moving_mean.numpy(), before)


@pytest.fixture
def in_precision(k):
    set_policy = (
        k.mixed_precision.set_global_policy if k is tf_keras else k.config.set_dtype_policy
    )
    yield set_policy
    set_policy("float32")


def dense_and_normaliser(k, middle):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(name="bn")(k.layers.Dense(8)(inputs))
    return k.Model(inputs, k.layers.Dense(2)(middle(h)))


PRECISIONS = ["mixed_float16", "mixed_bfloat16", "float64", "float16", "bfloat16"]


@pytest.mark.thorough
@pytest.mark.parametrize("policy", PRECISIONS)
def test_rows_in_other_precisions(k, rows, policy, in_precision):
    in_precision(policy)
    expect_failure(BATCH, dense_and_normaliser(k, centred(k)), rows, rule="BN101", layer="leak")
    model = dense_and_normaliser(k, passing_on(k))
    expect_pass(BATCH, model, rows)
    model.layers[2].trainable = False
    model.compile("sgd", "mse")
    expect_pass(FROZEN, model, rows, rows[:, :2])


@pytest.mark.parametrize("policy", PRECISIONS)
def test_stale_statistics_in_other_precisions(k, rows, policy, in_precision):
    in_precision(policy)
    model = dense_and_normaliser(k, passing_on(k))
    for _ in range(5):
        model(rows + 3, training=True)
    expect_failure(
        AGREE,
        model,
        rows + 3,
        updates=5,
        rule="BN201",
        layer="bn",
        remedy=lambda _: recalibrated(model, rows + 3),
    )


def test_wide_statistics_of_narrow_arithmetic(rows):
    class Narrow(keras.layers.BatchNormalization):
        def call(self, x, training=None):
            outputs = super().call(x, training=training)
            if training:
                for statistic in (self.moving_mean, self.moving_variance):
                    statistic.assign(tf.cast(tf.cast(statistic.value, tf.float16), tf.float32))
            return outputs

    inputs = keras.Input((4,))
    h = Narrow(name="bn")(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(h))
    for _ in range(5):
        model(rows + 3, training=True)
    expect_failure(AGREE, model, rows + 3, updates=5, rule="BN201", layer="bn")


@pytest.mark.thorough
def test_eager_steps(k, rows):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    model = k.Model(inputs, k.layers.Dense(1)(bn(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    expect_pass(BATCH, model, rows)
    model.fit(rows + 3, rows[:, :1], verbose=0)
    expect_failure(AGREE, model, rows + 3, rows[:, :1], rule="BN201", layer="bn")
    bn.trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    expect_pass(FROZEN, model, rows, rows[:, :1])


def needs_the_number_of_rows(k, rows, axis):
    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.bn, self.head = k.layers.BatchNormalization(name="bn"), k.layers.Dense(2)

        def call(self, x, training=None):
            h = tf.reshape(x, [int(x.shape[0]), 2, 2])
            h = h - tf.reduce_mean(h, axis, keepdims=True)
            return self.head(self.bn(tf.reshape(h, [int(x.shape[0]), 4]), training=training))

    model = Own()
    model(rows)
    model.compile("sgd", "mse", run_eagerly=True)
    return model


@pytest.mark.thorough
def test_code_that_needs_the_number_of_rows(k, rows):
    expect_failure(BATCH, needs_the_number_of_rows(k, rows, 0), rows, rule="BN101")
    model = needs_the_number_of_rows(k, rows, 1)
    expect_pass(BATCH, model, rows)
    model.bn.trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    expect_pass(FROZEN, model, rows, rows[:, :2])


def test_stale_statistics_in_code_that_needs_the_number_of_rows(k, rows):
    model = needs_the_number_of_rows(k, rows, 1)
    model.fit(rows * 3, rows[:, :2], verbose=0)
    with preserve_state(model):
        said = np.asarray(model(rows * 3, training=True))
    expect_failure(
        AGREE,
        model,
        rows * 3,
        said,
        rule="BN201",
        layer="bn",
        remedy=lambda _: recalibrated(model, rows * 3),
    )


@pytest.mark.parametrize("name", ["0.1-a>b", "a.b_", "x" * 60])
def test_odd_names(rows, name):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(centred(keras, name)(inputs)), name=name)
    expect_failure(BATCH, model, rows, rule="BN101", layer=name)
    bn = keras.layers.BatchNormalization(name=name)
    model = keras.Model(inputs, bn(inputs))
    model(rows, training=True)
    expect_failure(
        AGREE,
        model,
        rows + 3,
        updates=1,
        rule="BN201",
        layer=name,
        remedy=lambda _: recalibrated(model, rows + 3),
    )


def test_two_layers_of_one_name(rows):
    """Nested models may repeat a name: the path tells them apart."""
    parts = [
        keras.Sequential([keras.Input((4,)), layer], name=f"part_{number}")
        for number, layer in enumerate((passing_on(keras), centred(keras)))
    ]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(parts[1](parts[0](inputs))))
    expect_failure(BATCH, model, rows, rule="BN101", layer="part_1/leak")


def test_an_uncompiled_model(k, rows):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn", trainable=False)
    model = k.Model(inputs, k.layers.Dense(1)(bn(inputs)))
    expect_pass(BATCH, model, rows)
    expect_pass(FROZEN, model, rows)
    expect_verdict(AGREE, "not applicable", model, rows)
    bn.trainable = True
    for _ in range(3):
        model(rows + 3, training=True)
    expect_failure(
        AGREE,
        model,
        rows + 3,
        rule="BN201",
        layer="bn",
        remedy=lambda _: recalibrated(model, rows + 3),
    )


@pytest.mark.thorough
def test_rows_fewer_than_asked_for(k, rows):
    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(1)(centred(k)(inputs)))
    for count in (1, 2, 3):
        expect_failure(BATCH, model, rows[:count], rule="BN101", layer="leak")
    expect_failure(BATCH, model, rows, rows=2, rule="BN101", layer="leak")
    expect_failure(BATCH, model, np.zeros((8, 4), np.float32), rule="BN101", layer="leak")


def test_an_output_without_the_rows_first_beside_one_that_has_them(rows):
    inputs = keras.Input((4,))
    boxes = keras.ops.reshape(keras.layers.Dense(8)(inputs), (-1, 4))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), boxes])
    notes = expect_pass(BATCH, model, rows).notes
    assert notes[0] == (
        "1 of the 2 outputs of tf.function of model(x, training=False) has not the rows first: "
        "not judged"
    )


@pytest.mark.thorough
@pytest.mark.parametrize("length", [1, 8, 32])
def test_a_table_among_the_outputs_that_is_as_long_as_the_batch(k, length):
    """Anchors, or learned queries: 8 rows are drawn, and 32 are a batch of `predict`."""

    class Table(k.layers.Layer):
        def call(self, x):
            return tf.random.stateless_normal((length, 4), (1, 2)) + 0 * tf.reduce_sum(x[:0])

        def compute_output_shape(self, shape):
            return (length, 4)

    inputs = k.Input((4,))
    model = k.Model(inputs, [k.layers.Dense(3)(inputs), Table()(inputs)])
    notes = expect_pass(BATCH, model).notes
    assert "1 of the 2 outputs of" in notes[0]
    assert expect_pass(PURITY, model)
    whole = k.Model(inputs, [Table()(inputs)])
    assert "rows first" in expect_verdict(BATCH, "vacuous", whole).hint


@pytest.mark.thorough
def test_outputs_whose_names_are_of_several_types(k, rows):
    def model(mixing):
        class Own(k.Model):
            def __init__(self):
                super().__init__()
                self.middle = centred(k) if mixing else passing_on(k)

            def call(self, x):
                h = self.middle(x)
                return {"a": h * 2, 1: h, ("b", 2): h + 1}

        built = Own()
        built(rows)
        return built

    expect_failure(BATCH, model(True), rows, rule="BN101", layer="leak")
    passed = expect_pass(BATCH, model(False), rows)
    assert "predict raised TypeError" in passed.notes[0]  # these libraries sort the names
