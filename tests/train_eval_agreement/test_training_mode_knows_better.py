"""Training mode as the reference where population statistics are none, or do not mend it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"
pytestmark = pytest.mark.thorough


def blobs(rows=320, classes=3, shift=2.1):
    rng = np.random.default_rng(1)
    x = rng.normal(2, 0.6, (rows, 12)).astype(np.float32)
    y = rng.integers(0, classes, rows)
    x[:, :classes] += shift * np.eye(classes, dtype=np.float32)[y]
    return x * np.linspace(0.5, 4, 12, dtype=np.float32), y


class Normalising(keras.layers.Layer):
    """Normalises by what `training` computes of a batch, and by what `stored` reads in evaluation.

    `states` are the first values of its variables, a row of them for each.
    """

    def __init__(self, states, training, stored=lambda *states: states, momentum=0.9, **arguments):
        super().__init__(**arguments)
        self.states, self.momentum = states, momentum
        self.of_batch, self.stored = training, stored

    def build(self, shape):
        self.variables_ = [
            self.add_weight(
                shape=(shape[-1],),
                initializer=keras.initializers.Constant(value),
                trainable=False,
                name=f"state_{index}",
            )
            for index, value in enumerate(self.states)
        ]

    def call(self, x, training=None):
        if training:
            found = self.of_batch(x)
            for variable, value in zip(self.variables_, found, strict=True):
                variable.assign(self.momentum * variable + (1 - self.momentum) * value)
        else:
            found = self.stored(*(tf.convert_to_tensor(v) for v in self.variables_))
        low, scale = self.from_states(*found)
        return (x - low) / scale

    @staticmethod
    def from_states(mean, variance):
        return mean, tf.sqrt(variance + 1e-3)


class MeanAndSquare(Normalising):
    @staticmethod
    def from_states(mean, square):
        return mean, tf.sqrt(tf.maximum(square - mean**2, 0) + 1e-3)


class LowAndHigh(Normalising):
    @staticmethod
    def from_states(low, high):
        return low, high - low + 1e-3


def quantile(x, q):
    ordered = tf.sort(x, axis=0)
    return tf.gather(ordered, tf.cast(q * tf.cast(tf.shape(x)[0] - 1, tf.float32), tf.int32))


def moments(x):
    return tf.reduce_mean(x, 0), tf.math.reduce_variance(x, 0)


def mean_and_square(x):
    return tf.reduce_mean(x, 0), tf.reduce_mean(x * x, 0)


def median_and_range(x):
    return quantile(x, 0.5), quantile(x, 0.75) - quantile(x, 0.25)


def low_and_high(x):
    return tf.reduce_min(x, 0), tf.reduce_max(x, 0)


def trained(make, x, y, *, epochs=14, seed=3, activation="tanh", rate=1e-2):
    keras.utils.set_random_seed(seed)
    layers = [make("n1"), keras.layers.Dense(16, activation=activation), make("n2")]
    head = keras.layers.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((12,)), *layers, head])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    model.optimizer.learning_rate.assign(2e-4)
    model.fit(x, y, epochs=epochs // 2, batch_size=32, verbose=0)
    return model


@pytest.mark.parametrize(
    ("kind", "of_batch", "options"),
    [
        (MeanAndSquare, mean_and_square, {"activation": "relu", "rate": 3e-3}),
        (LowAndHigh, median_and_range, {}),
    ],
    ids=["mean square", "quantiles"],
)
def test_a_statistic_that_two_rows_take_for_another(kind, of_batch, options):
    """Of two rows the median is the mean; of one number and zeros the mean square a variance."""
    x, y = blobs()
    for seed in (3, 7):
        model = trained(
            lambda name: kind((0.0, 1.0), of_batch, name=name), x, y, seed=seed, **options
        )
        expect_pass(CHECK, model, x, y)
        second = model.get_layer("n2").variables_[1]
        stored = second.numpy()
        recalibrate(model, x)
        assert np.median(second / stored) == pytest.approx(1, abs=0.25)


def test_state_that_has_not_come_to_rest():
    x, y = blobs()

    def of(momentum):
        return trained(
            lambda name: LowAndHigh((0.0, 1.0), low_and_high, momentum=momentum, name=name),
            x,
            y,
            epochs=3,
        )

    slow = of(0.99)
    before = slow.evaluate(x, y, verbose=0)
    found = expect_failure(
        CHECK,
        slow,
        x,
        y,
        rule="BN204",
        layer="n1",
        cause_tested=True,
        cause_contains="is not where it comes to rest under these weights",
        without=["another formula", "reads other state"],
    )
    assert "batches in training mode, with the weights untouched, loss" in found.tested
    for _ in range(60):
        for start in range(0, len(x), 32):
            slow(x[start : start + 32], training=True)
    assert slow.evaluate(x, y, verbose=0) < 0.8 * before
    nothing_fails(slow, x, y)
    nothing_fails(of(0.8), x, y)


def nothing_fails(model, x, y):
    """Nothing fails; that its statistics are not known may be said."""
    assert not check_consistency(model, x, y, checks=[CHECK])[CHECK].findings


def test_evaluation_that_forgets_a_scale_and_decides_alike():
    """Only the loss tells, and by much."""
    x, y = blobs(640)

    class Scaled(keras.layers.BatchNormalization):
        def __init__(self, forgets, **arguments):
            super().__init__(momentum=0.9, **arguments)
            self.forgets = forgets

        def call(self, x, training=None):
            outputs = super().call(x, training=training)
            return outputs / self.gamma if self.forgets and not training else outputs

    def of(forgets):
        keras.utils.set_random_seed(0)
        bn = Scaled(forgets, gamma_initializer=keras.initializers.Constant(4.0), name="bn")
        layers = [keras.layers.Dense(3, use_bias=False), bn]
        model = keras.Sequential([keras.Input((12,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
        model.fit(x, y, epochs=15, batch_size=32, verbose=0)
        return model

    expect_pass(CHECK, of(False), x, y)
    expect_failure(CHECK, of(True), x, y, rule="BN216", layer="bn")


def test_one_layer_for_all_steps_of_a_sequence():
    """Each step has statistics of its own in training, and all steps have one in evaluation."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]

    def of(wrapped):
        keras.utils.set_random_seed(1)
        bn = keras.layers.BatchNormalization(momentum=0.9, name="bn")
        layers = [
            keras.layers.Reshape((8, 8)),
            keras.layers.Conv1D(12, 3, padding="same"),
            keras.layers.TimeDistributed(bn, name="each") if wrapped else bn,
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
        model = keras.Sequential([keras.Input((64,)), *layers])
        steps = 40 * -(-len(x) // 64)
        rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=1 / 300)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=40, batch_size=64, verbose=0)
        return model

    expect_pass(CHECK, of(False), x, y, batch_size=64)
    expect_failure(CHECK, of(True), x, y, rule="BN204", layer="each/bn", batch_size=64)


def test_the_loss_is_that_of_evaluate(k):
    """Of a share that rounds to 1 Keras takes the loss by its logits."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 512)
    x = rng.normal(0, 1, (512, 6)).astype(np.float32)
    x[:, 0] += np.where(y == 1, 8, -8)
    k.utils.set_random_seed(0)
    bn = k.layers.BatchNormalization(momentum=0.9, name="bn")
    layers = [bn, k.layers.Dense(16, activation="relu"), k.layers.Dense(1, activation="sigmoid")]
    model = k.Sequential([k.Input((6,)), *layers])
    model.compile(k.optimizers.Adam(2e-2), "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=20, verbose=0)
    y[:5] = 1 - y[:5]
    expect_pass(CHECK, model, x, y)
    bn.moving_variance.assign(bn.moving_variance / 40)
    result, loss = check_consistency(model, x, y, checks=[CHECK])[CHECK], model.evaluate(x, y)[0]
    assert [found.rule for found in result.findings] == ["BN214"]
    assert loss > 0.2
    assert result.evidence["moving"]["loss"] == pytest.approx(loss, rel=1e-3)


class Whitening(keras.layers.Layer):
    def __init__(self, momentum, **arguments):
        super().__init__(**arguments)
        self.momentum = momentum

    def build(self, shape):
        width = shape[-1]
        self.mean = self.add_weight(shape=(width,), initializer="zeros", trainable=False)
        identity = keras.initializers.Identity()
        self.covariance = self.add_weight(
            shape=(width, width), initializer=identity, trainable=False
        )

    def call(self, x, training=None):
        mean, covariance = (tf.convert_to_tensor(v) for v in (self.mean, self.covariance))
        if training:
            mean = tf.reduce_mean(x, 0)
            off = x - mean
            rows = tf.cast(tf.shape(x)[0], tf.float32)
            covariance = tf.matmul(off, off, transpose_a=True) / rows
            for v, new in ((self.mean, mean), (self.covariance, covariance)):
                v.assign(self.momentum * v + (1 - self.momentum) * new)
        root = tf.linalg.cholesky(covariance + 0.05 * tf.eye(x.shape[-1]))
        return tf.transpose(tf.linalg.triangular_solve(root, tf.transpose(x - mean)))


def test_a_covariance_that_holds_much_of_the_identity():
    x, y = blobs(640)
    x = 0.3 * (x - x.mean(axis=0))  # so that nothing but the covariance is off

    def of(momentum):
        keras.utils.set_random_seed(0)
        layers = [Whitening(momentum, name="whitening"), keras.layers.Dense(16, "tanh")]
        model = keras.Sequential([keras.Input((12,)), *layers, keras.layers.Dense(3, "softmax")])
        model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=15, batch_size=32, verbose=0)
        return model

    expect_pass(CHECK, of(0.9), x, y)
    cause = "momentum 0.998 after 300 updates leaves 54.8% of the initial values"
    expect_failure(CHECK, of(0.998), x, y, rule="BN201", layer="whitening", cause_contains=cause)
