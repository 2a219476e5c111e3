"""What looks suspicious and is not: no check may fail on any of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_pass, expect_verdict, leaves_no_trace

BATCH, AGREE, FROZEN = "batch_invariance", "train_eval_agreement", "frozen_stability"
CHECKS = [BATCH, AGREE, FROZEN]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (64, 4)).astype(np.float32)
    return x, (x[:, 0] > 1).astype(np.int32)


def settled(model, x):
    """Statistics that have converged, by many forward passes in training mode."""
    step = tf.function(lambda: model(x, training=True))
    for _ in range(1500):
        step()
    return model


def classifier(k, *middle, shape=(4,)):
    inputs = k.Input(shape)
    h = inputs
    for layer in middle:
        h = layer(h)
    model = k.Model(inputs, k.layers.Dense(2, activation="softmax", name="head")(h))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def nothing_fails(model, x, y=None, **options):
    with leaves_no_trace(model, x, y):
        report = check_consistency(model, x, y, checks=CHECKS, **options)
    failed = "\n".join(text.render(result) for result in report.failed)
    assert report.ok, failed
    return {result.check: result.verdict.value for result in report}


def test_normalisation_of_each_row_by_itself(k, data):
    layers = [k.layers.Dense(8), k.layers.LayerNormalization(), k.layers.GroupNormalization(2)]
    if hasattr(k.layers, "RMSNormalization"):
        layers.append(k.layers.RMSNormalization())
    verdicts = nothing_fails(classifier(k, *layers), *data)
    assert verdicts == {BATCH: "passed", AGREE: "not applicable", FROZEN: "not applicable"}


@pytest.mark.thorough
@pytest.mark.parametrize("told", [{"training": True}, {"training": False}, {}], ids=str)
def test_a_frozen_normaliser_however_it_is_called(k, data, told):
    bn = k.layers.BatchNormalization()
    model = classifier(k, k.layers.Dense(8), lambda h: bn(h, **told))
    bn.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    verdicts = nothing_fails(model, *data)
    assert verdicts == {BATCH: "passed", AGREE: "not applicable", FROZEN: "passed"}


@pytest.mark.thorough
def test_a_gap_from_dropout_and_noise_alone(k, data):
    x, y = data
    layers = [k.layers.Dense(8), k.layers.BatchNormalization(), k.layers.ReLU()]
    noisy = [k.layers.GaussianNoise(0.5), k.layers.Dropout(0.6)]
    model = settled(classifier(k, *layers, *noisy), x)
    model.optimizer.iterations.assign(1500)
    assert nothing_fails(model, x, y) == {
        BATCH: "passed",
        AGREE: "passed",
        FROZEN: "not applicable",
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    "arguments",
    [{"scale": False, "center": False}, {"gamma_initializer": "zeros"}, {"momentum": 0.9}],
    ids=["no gamma, no beta", "zero gamma", "defaults"],
)
def test_ways_to_make_a_normaliser(k, data, arguments):
    dense = k.layers.Dense(8, use_bias=True)  # redundant before a normalization layer
    model = settled(classifier(k, dense, k.layers.BatchNormalization(**arguments)), data[0])
    model.optimizer.iterations.assign(1500)
    verdicts = nothing_fails(model, *data)
    assert verdicts[AGREE] == "passed"
    assert verdicts[BATCH] == "passed"


@pytest.mark.thorough
def test_adapted_preprocessing_upstream(k, data):
    x, y = data
    adapted = k.layers.Normalization()
    adapted.adapt(x * 50)
    layers = [k.layers.Rescaling(50.0), adapted, k.layers.BatchNormalization()]
    model = settled(classifier(k, *layers), x)
    model.optimizer.iterations.assign(1500)
    verdicts = nothing_fails(model, x, y)
    assert (verdicts[BATCH], verdicts[AGREE]) == ("passed", "passed")


@pytest.mark.thorough
def test_random_augmentation_in_the_model(k):
    x = np.random.default_rng(0).random((32, 8, 8, 3), np.float32)
    y = np.arange(32) % 2
    augment = [k.layers.RandomFlip(), k.layers.RandomRotation(0.1), k.layers.RandomContrast(0.2)]
    layers = [*augment, k.layers.Conv2D(4, 3), k.layers.LayerNormalization()]
    model = classifier(k, *layers, k.layers.GlobalAveragePooling2D(), shape=(8, 8, 3))
    nothing_fails(model, x, y)


@pytest.mark.thorough
@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
def test_recurrent_layers(layer):
    x = np.random.default_rng(0).standard_normal((16, 5, 4)).astype(np.float32)
    layers = keras.layers
    made = layers.Bidirectional(layers.GRU(4)) if layer == "Bidirectional" else None
    made = made or getattr(layers, layer)(4, dropout=0.2)
    verdicts = nothing_fails(classifier(keras, made, shape=(5, 4)), x, np.arange(16) % 2)
    assert verdicts[BATCH] == "passed"


@pytest.mark.thorough
def test_attention():
    x = np.random.default_rng(0).standard_normal((16, 5, 4)).astype(np.float32)
    attention = keras.layers.MultiHeadAttention(2, 4, dropout=0.1)
    pool = keras.layers.GlobalAveragePooling1D()
    model = classifier(keras, lambda h: attention(h, h), pool, shape=(5, 4))
    assert nothing_fails(model, x, np.arange(16) % 2)[BATCH] == "passed"


def test_a_model_with_nothing_frozen(k, data):
    model = classifier(k, k.layers.Dense(8), k.layers.BatchNormalization())
    expect_verdict(FROZEN, "not applicable", model, *data)


@pytest.mark.thorough
def test_a_gradient_that_does_not_stop_at_the_frozen_base(k, data):
    base = k.Sequential([k.Input((4,)), k.layers.Dense(4), k.layers.BatchNormalization()])
    model = classifier(k, k.layers.Dense(4, name="below"), base)
    base.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    expect_pass(FROZEN, model, *data)


@pytest.mark.thorough
def test_a_converged_net_on_digits():
    """Two convolutions, momentum 0.9, a slow last phase: what is left is sampling error."""
    images, y = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    layers = []
    for filters in (8, 16):
        layers.append(keras.layers.Conv2D(filters, 3, padding="same"))
        layers.append(keras.layers.BatchNormalization(momentum=0.9))
        layers += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    model = classifier(keras, *layers, keras.layers.Flatten(), shape=(8, 8, 1))
    model = keras.Model(
        model.inputs, keras.layers.Dense(10, activation="softmax")(model.layers[-2].output)
    )
    for rate, epochs in ((1e-3, 20), (1e-4, 5)):
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    assert nothing_fails(model, x, y, batch_size=64)[AGREE] == "passed"
    expect_pass(AGREE, model, x, batch_size=64)
    expect_pass(AGREE, model, x, y)
    expect_pass(AGREE, model, x[-200:], y[-200:])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "EfficientNetV2B0"])
def test_an_architecture_with_random_weights(name):
    size = 32
    base = getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
    )
    x = (np.random.default_rng(0).random((8, size, size, 3)) * 255).astype(np.float32)
    result = expect_verdict(AGREE, "vacuous", base, x)
    assert "never trained" in result.summary
    assert result.hint
    expect_pass(BATCH, base, x, rows=4)
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(base(inputs)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    expect_pass(FROZEN, model, x, np.arange(8) % 2, steps=1)


@pytest.mark.thorough
def test_a_frozen_block_with_dropout_inside(k, x):
    """Dropout of a frozen layer is active in training; that is not its normalisation's fault."""

    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.drop = k.layers.Dropout(0.5)
            self.bn = k.layers.BatchNormalization()

        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
            self.bn.build(shape)

        def call(self, x, training=None):
            return self.bn(self.drop(x * self.scale, training=training), training=training)

    inputs = k.Input((4,))
    block = Block()
    model = k.Model(inputs, k.layers.Dense(2)(block(inputs)))
    block.trainable = False
    model.compile("sgd", "mse")
    expect_pass("frozen_stability", model, x, x[:, :2])
