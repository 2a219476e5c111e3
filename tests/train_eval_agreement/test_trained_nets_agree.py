"""Sound nets, trained for real: `train_eval_agreement` passes, whatever the seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from pytest_bnconsistency.testing import expect_pass, expect_verdict

CHECK = "train_eval_agreement"
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    images, y = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), y


def bn(**arguments):
    return keras.layers.BatchNormalization(momentum=0.9, **arguments)


def block(h, filters, **arguments):
    layers = keras.layers
    short = layers.Conv2D(filters, 1)(h)
    h = layers.ReLU()(bn()(layers.Conv2D(filters, 3, padding="same")(h)))
    h = bn(**arguments)(layers.Conv2D(filters, 3, padding="same")(h))
    return layers.ReLU()(layers.Add()([short, h]))


def small_resnet(h):
    h = keras.layers.MaxPooling2D()(block(h, 8))
    return keras.layers.GlobalAveragePooling2D()(block(h, 16, gamma_initializer="zeros"))


def plain(h, *after, norm=bn):
    for filters in (8, 16):
        h = keras.layers.Conv2D(filters, 3, padding="same")(h)
        h = keras.layers.MaxPooling2D()(keras.layers.ReLU()(norm()(h)))
    h = keras.layers.Flatten()(h)
    for layer in after:
        h = layer(h)
    return h


def frozen(h):
    return plain(plain_input(h), norm=lambda: bn(trainable=False))


def plain_input(h):
    return bn()(keras.layers.Conv2D(4, 3, padding="same")(h))


NETS = {
    "plain": plain,
    "small resnet": small_resnet,
    "dropout after": lambda h: plain(h, keras.layers.Dropout(0.3)),
    "noise after": lambda h: plain(h, keras.layers.GaussianNoise(0.3)),
    "augmentation": lambda h: plain(keras.layers.RandomTranslation(0.05, 0.05)(h)),
    "frozen": frozen,
}


def trained(net, x, y, seed):
    """Ends with a slow phase, so that the statistics catch up with the weights."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(net(inputs)))
    for rate, epochs in ((3e-3, 6), (1e-4, 3)):
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        model.fit(x, y, epochs=epochs, batch_size=64, verbose=0)
    return model


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("small resnet", "dropout after") else pytest.param(name, marks=SLOW)
        for name in NETS
    ],
)
def test_a_net_trained_to_convergence(digits, name):
    x, y = digits
    model = trained(NETS[name], x, y, 0)
    result = expect_pass(CHECK, model, x, y, batch_size=64)
    assert all(times == pytest.approx(1, abs=0.05) for times in steps(result))
    expect_pass(CHECK, model, x, batch_size=64)


def steps(result):
    return result.evidence.get("updates_per_step", {}).values()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["LayerNormalization", "GroupNormalization"])
def test_a_net_that_normalises_each_row(digits, name):
    x, y = digits
    arguments = {"groups": 4} if name == "GroupNormalization" else {}
    norm = lambda: getattr(keras.layers, name)(**arguments)  # noqa: E731
    model = trained(lambda h: plain(h, norm=norm), x[:512], y[:512], 0)
    expect_verdict(CHECK, "not applicable", model, x, y)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_hundred_seeds(digits, seed):
    x, y = digits
    name = list(NETS)[seed % len(NETS)]
    expect_pass(CHECK, trained(NETS[name], x, y, seed), x, y, batch_size=64, seed=seed)


@pytest.mark.thorough
def test_a_covariance_that_a_root_is_taken_of(digits):
    """What sampling does to each of its numbers alone leaves no matrix that has a root."""

    class Whitening(keras.layers.Layer):
        def build(self, shape):
            self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False)
            self.covariance = self.add_weight(
                shape=(shape[-1], shape[-1]),
                initializer=keras.initializers.Identity(),
                trainable=False,
            )

        def call(self, x, training=None):
            mean, covariance = self.mean.value, self.covariance.value
            if training:
                mean = tf.reduce_mean(x, 0)
                rows = tf.cast(tf.shape(x)[0], x.dtype)
                covariance = tf.matmul(x - mean, x - mean, transpose_a=True) / rows
                self.mean.assign(0.9 * self.mean + 0.1 * mean)
                self.covariance.assign(0.9 * self.covariance + 0.1 * covariance)
            ridge = 1e-4 * tf.eye(x.shape[-1])
            return (x - mean) @ tf.linalg.inv(tf.linalg.cholesky(covariance + ridge))

    inputs = keras.Input((16,))
    h = keras.layers.ReLU()(Whitening()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(h))
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = digits[0].reshape(-1, 64)[:512, 26:34], digits[1][:512]
    x = np.concatenate([x, x + 0.01 * np.random.default_rng(0).standard_normal(x.shape)], 1)
    model.fit(x, y, epochs=20, verbose=0)
    expect_pass(CHECK, model, x, y)
