"""Data or layers of preprocessing that are not those of training: named by what undoes it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from skimage import data

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK, SHIFT = "train_eval_agreement", "BN209"


@pytest.fixture(scope="module")
def images():
    """Images whose colours are unlike one another."""
    rng = np.random.default_rng(0)
    shades = rng.uniform(size=(128, 1, 1, 1)) * rng.uniform(0.5, 1, (1, 6, 6, 1))
    noise = rng.uniform(-0.1, 0.1, (128, 6, 6, 3))
    tints = np.array([0.9, 0.5, 0.2]) * shades + np.array([0.0, 0.3, 0.1])
    return np.clip(tints + noise, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def table():
    """Features of unlike means and deviations."""
    rng = np.random.default_rng(0)
    centres, deviations = rng.uniform(1, 9, 8), 10 ** np.linspace(-2, 0.5, 8)
    mixed = rng.standard_normal((256, 8)) @ (np.eye(8) + 0.3 * rng.standard_normal((8, 8)))
    return (centres + deviations * mixed / mixed.std(0)).astype(np.float32)


def settled(model, x, times=25):
    step = tf.function(lambda batch: model(batch, training=True), reduce_retracing=True)
    for _ in range(times):
        for start in range(0, len(x), 32):
            step(tf.constant(x[start : start + 32].astype(np.float32)))
    return model


def net_for_images(k):
    bn = k.layers.BatchNormalization(momentum=0.9, name="bn")
    other = k.layers.BatchNormalization(momentum=0.9, name="other")
    layers = [k.layers.Conv2D(16, 3), bn, k.layers.ReLU(), k.layers.Conv2D(16, 3), other]
    layers.append(k.layers.GlobalAveragePooling2D())
    model = k.Sequential([k.Input((6, 6, 3)), *layers, k.layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("trained", "given", "said"),
    [
        (lambda x: 2 * x - 1, lambda x: x, "those of 2 * x - 1:"),
        (lambda x: x, lambda x: 2 * x - 1, "those of 0.5 * x + 0.5:"),
        (lambda x: 2 * x - 1, lambda x: 255 * x, "those of x / 127.5 - 1:"),
        (lambda x: 2 * x - 1, lambda x: 1 - x, "those of 1 - 2 * x:"),
        (lambda x: x, lambda x: 10 * x - 3, "those of x / 10"),
        (lambda x: x, lambda x: 255 * x[..., ::-1], "those of x[..., ::-1] / 255:"),
        (
            lambda x: x * [2, 5, 3] - [1, 0, 2],
            lambda x: x,
            "those of x scaled and shifted channel by channel",
        ),
        (lambda x: (255 * x)[..., ::-1] - [103.939, 116.779, 123.68], lambda x: x, "mode 'caffe'"),
    ],
    ids=["2x-1", "(x+1)/2", "x/127.5-1", "1-2x", "odd", "bgr", "channels", "caffe"],
)
def test_images_at_another_scale(k, disagrees, images, trained, given, said):
    model = settled(net_for_images(k), trained(images))
    finding = disagrees(model, given(images).astype(np.float32), rule=SHIFT, layer="bn")
    assert said in finding.cause
    assert "evaluation is then" in finding.tested
    assert "the preprocessing of training" in finding.remedy
    expect_pass(CHECK, model, trained(images).astype(np.float32))


@pytest.fixture(scope="module")
def pieces():
    """Pieces of four photographs, whose channels are alike; which photograph is it?"""
    rng = np.random.default_rng(1)
    photos = [p()[::2, ::2] / 255 for p in (data.astronaut, data.coffee, data.cat, data.rocket)]
    corners = [(rng.integers(p.shape[0] - 16), rng.integers(p.shape[1] - 16)) for p in photos * 75]
    x = [p[a : a + 16, b : b + 16] for p, (a, b) in zip(photos * 75, corners, strict=True)]
    return np.array(x, np.float32), np.arange(300) % 4


@pytest.fixture(scope="module")
def knows_pieces(pieces):
    keras.utils.set_random_seed(0)
    inputs = h = keras.Input((16, 16, 3))
    for index, filters in enumerate((8, 16)):
        h = keras.layers.Conv2D(filters, 3, 2, padding="same")(h)
        h = keras.layers.BatchNormalization(momentum=0.9, name=f"bn{index}")(h)
        h = keras.layers.ReLU()(h)
    h = keras.layers.GlobalAveragePooling2D()(h)
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(*pieces, batch_size=16, epochs=8, verbose=0)
    model.optimizer.learning_rate = 3e-4
    model.fit(*pieces, batch_size=16, epochs=3, verbose=0)
    return model


def standardised(x, axes):
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


@pytest.mark.parametrize("alike", [True, False])
def test_preprocessing_that_the_rows_do_not_tell_from_another(k, disagrees, alike):
    """All rows have about the mean and the deviation of each channel, or each has its own."""
    noise = np.random.default_rng(0).normal(100, 40, (64, 24, 24, 3)).astype(np.float32)
    x = (
        noise
        if alike
        else noise * np.linspace(0.5, 1.5, 64, dtype=np.float32)[:, None, None, None]
    )
    net = [k.layers.Conv2D(8, 3), k.layers.BatchNormalization(momentum=0.9, name="bn")]
    model = k.Sequential([k.Input((24, 24, 3)), *net, k.layers.GlobalMaxPooling2D()])
    model.compile("sgd", "mse")
    settled(model, standardised(x, (0, 1, 2)))
    if alike:
        expect_pass(CHECK, model, standardised(x, (0, 1, 2)))
    finding = disagrees(model, x, rule=SHIFT)
    assert "each channel standardised" in finding.cause
    assert ("each row standardised" in finding.cause) == alike
    assert ("much the same on these rows" in finding.cause) == alike


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[..., ::-1], "those of the channels in reverse order"),
        (lambda x: 1 - x, "those of 1 - x"),
    ],
)
def test_targets_tell_what_statistics_hardly_tell(disagrees, pieces, knows_pieces, change, said):
    """Natural images have much the same statistics so changed; numbers that fit explain more."""
    x, y = pieces
    finding = disagrees(knows_pieces, change(x), y, rule=SHIFT)
    assert said in finding.cause
    assert "with the population statistics" in finding.tested


@pytest.mark.thorough
def test_images_as_in_training_pass(pieces, knows_pieces):
    expect_pass(CHECK, knows_pieces, *pieces)


def net_for_tables(k):
    inputs = k.Input((8,))
    h = k.layers.BatchNormalization(momentum=0.9, name="bn")(k.layers.Dense(16)(inputs))
    model = k.Model(inputs, k.layers.Dense(3)(k.layers.ReLU()(h)), name="net")
    model.compile("sgd", "mse")
    return model


def behind(k, net, layer):
    """The net as it is delivered: with its preprocessing in front of it."""
    inputs = k.Input((8,))
    model = k.Model(inputs, net(layer(inputs)))
    model.compile("sgd", "mse")
    return model


def adapted(k, x):
    layer = k.layers.Normalization(name="pre")
    layer.adapt(x)
    return layer


def given_deviations(k, x):
    return k.layers.Normalization(mean=x.mean(0), variance=x.std(0), name="pre")


def given_inverses(k, x):
    return k.layers.Normalization(mean=x.mean(0), variance=1 / x.std(0), name="pre")


def given_in_another_order(k, x):
    return k.layers.Normalization(mean=x.var(0), variance=x.mean(0), name="pre")


def given_inverted(k, x):
    return k.layers.Normalization(mean=x.mean(0), variance=x.var(0), invert=True, name="pre")


def given_others(k, x):
    drawn = np.random.default_rng(1).uniform(0.4, 2.5, (2, 8))
    return k.layers.Normalization(
        mean=drawn[0] * x.mean(0), variance=drawn[1] * x.var(0), name="pre"
    )


def dividing_by_variances(k, x):
    mean, variance = x.mean(0), x.var(0)
    return k.layers.Lambda(lambda rows: (rows - mean) / variance, name="pre")


def scaling_to_one(k, x):
    low, high = x.min(0), x.max(0)
    return k.layers.Lambda(lambda rows: (rows - low) / (high - low), name="pre")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (given_deviations, "its variance is the standard deviation of the data"),
        (given_inverses, "its variance is 1 / the standard deviation of the data"),
        (given_in_another_order, "its mean is the data's variance"),
        (given_inverted, "it multiplies by the data's standard deviation"),
        (dividing_by_variances, "it divides by the variance of the data"),
        (scaling_to_one, "it scales the data to [0, 1]"),
        (given_others, "the statistics are those of its input standardised"),
        (lambda k, x: adapted(k, 255 * x), "its mean and variance are those of 255 * x"),
    ],
)
def test_a_layer_whose_numbers_are_not_the_data_s(k, disagrees, table, wrong, said):
    rows = (table - table.mean(0)) / table.std(0)
    net = settled(net_for_tables(k), rows)
    y = net.predict(rows, verbose=0)
    finding = disagrees(behind(k, net, wrong(k, table)), table, y, rule=SHIFT, layer="pre")
    assert said in finding.cause
    assert "where pre gives its input standardised by the mean and deviation" in finding.tested


@pytest.mark.thorough
def test_layers_that_prepare_the_data_as_in_training(k, table):
    net = settled(net_for_tables(k), (table - table.mean(0)) / table.std(0))
    expect_pass(CHECK, behind(k, net, adapted(k, table)), table)
    wrong = behind(k, net_for_tables(k), given_deviations(k, table))
    expect_pass(CHECK, settled(wrong, table), table)  # trained that way


def test_data_that_is_standardised_twice(k, disagrees, table):
    rows = (table - table.mean(0)) / table.std(0)
    net = settled(net_for_tables(k), rows)
    finding = disagrees(behind(k, net, adapted(k, table)), rows, rule=SHIFT, layer="pre")
    said = "the statistics are those of its input as it is, and it gives it standardised once more"
    assert said in finding.cause


@pytest.mark.thorough
def test_targets_tell_a_shift_from_its_opposite(k, disagrees, table):
    """Features that lie evenly around 0 have the same statistics with the other sign."""
    rows = 3 * (table - table.mean(0)) / table.std(0)
    net = settled(net_for_tables(k), rows)
    y, shifted = net.predict(rows, verbose=0), rows - 4
    finding = disagrees(net, shifted, y, rule=SHIFT, layer="bn")
    assert re.search(r"those of (\S+ \* )?x \+ (4|3\.9\d*|4\.0\d*):", finding.cause)
    expect_failure(CHECK, net, shifted, rule="BN204", layer="bn", cause_tested=False)


@pytest.mark.parametrize("stem", [True, False])
def test_what_is_left_of_initial_values_is_not_blamed_on_a_layer(k, disagrees, table, stem):
    """A layer that fits the data stands before statistics that had no time."""
    inputs = h = k.Input((8,))
    if stem:
        h = k.layers.Rescaling(2.0, name="pre")(h)
    h = k.layers.BatchNormalization(name="bn")(
        h if stem else adapted(k, table)(k.layers.Dense(8)(h))
    )
    model = k.Model(inputs, k.layers.Dense(3)(h))
    model.compile("sgd", "mse")
    settled(model, table, 1)
    model.optimizer.iterations.assign(8)
    disagrees(model, table, rule="BN201", layer="bn")


@pytest.mark.thorough
def test_a_layer_of_preprocessing_with_other_numbers_of_use(k, disagrees, images):
    """Built anew with the numbers of another recipe, for images that are no full range."""
    x = 100 * images + 20
    pre = k.layers.Rescaling(1 / 127.5, -1.0, name="pre")
    inner = net_for_images(k)
    inputs = k.Input((6, 6, 3))
    model = settled(k.Model(inputs, inner(pre(inputs))), x)
    model.compile("sgd", "mse")
    expect_pass(CHECK, model, x)
    again = k.Model(inputs, inner(k.layers.Rescaling(1 / 255, name="pre")(inputs)))
    again.compile("sgd", "mse")
    finding = disagrees(again, x, rule=SHIFT)
    assert finding.layer == "pre"
    assert "the statistics are those of its input / 127.5 - 1" in finding.cause
    assert "it gives its input / 255" in finding.cause


@pytest.mark.thorough
@pytest.mark.parametrize("fewest", [2, 8])
def test_a_model_that_refuses_to_train_on_few_rows(k, images, fewest):
    """It is not asked for what it can't run, and its cause is found all the same."""

    class Refusing(k.layers.Layer):
        def call(self, x, training=None):
            if training:
                tf.debugging.assert_greater_equal(tf.shape(x)[0], fewest)
            return tf.identity(x)

    x, y = 2 * images - 1, np.zeros((len(images), 3), np.float32)
    plain = net_for_images(k)
    inputs = k.Input((6, 6, 3))
    model = k.Model(inputs, plain(Refusing()(inputs)))
    model.compile("sgd", "mse")
    settled(model, x)
    expect_pass(CHECK, model, x, y)
    expect_failure(
        CHECK,
        model,
        images,
        y,
        rule=SHIFT,
        cause_contains="those of 2 * x - 1:",
        cause_tested=True,
    )
