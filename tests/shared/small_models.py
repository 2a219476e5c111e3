"""Small models, and functions through which rows meet, for the tests of several files."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf


def functional(k, body, shape=(4,), head=3):
    inputs = k.Input(shape)
    h = body(inputs)
    return k.Model(inputs, k.layers.Dense(head, name="head")(h) if head else h)


def layer_of(k, function, name="leak"):
    """A layer of the user's own around a TensorFlow function."""

    class Own(k.layers.Layer):
        def call(self, x):
            return function(x)

    return Own(name=name)


def model_of(k, *layers, kind=None):
    inputs = h = k.Input((4,))
    for layer in layers:
        h = layer(h)
    return (kind or k.Model)(inputs, k.layers.Dense(3, name="head")(h))


def with_bn(k, **call):
    bn = k.layers.BatchNormalization(name="bn")
    return functional(k, lambda h: bn(k.layers.Dense(4)(h), **call))


def lengths(longest):
    """Rows as long as they are without the zeros at their ends, padded to the longest one."""

    def call(x):
        ragged = tf.RaggedTensor.from_tensor(x, padding=0.0)
        step = tf.shape(ragged.to_tensor())[1] if longest else ragged.row_lengths()[:, None]
        return x + tf.cast(step, x.dtype)

    return call


def standardised(x):
    return (x - tf.reduce_mean(x, 0)) / (tf.math.reduce_std(x, 0) + 1e-3)


def even_rows_centred(x):
    even = tf.cast(tf.range(tf.shape(x)[0]) % 2 == 0, x.dtype)[:, None]
    return x - even * tf.reduce_sum(x * even, 0, keepdims=True) / tf.reduce_sum(even)


def deviation_appended(x):
    deviation = tf.reduce_mean(tf.math.reduce_std(x, 0))
    return tf.concat([x, tf.fill([tf.shape(x)[0], 1], deviation)], 1)


MIXING = {
    "centred": lambda x: x - tf.reduce_mean(x, 0),
    "a ten-thousandth of the mean": lambda x: x + 1e-4 * tf.reduce_mean(x, 0),
    "divided by the largest": lambda x: x / tf.reduce_max(tf.abs(x)),
    "divided by the largest of each feature": lambda x: x / tf.reduce_max(tf.abs(x), 0),
    "standardised": standardised,
    "sorted": lambda x: tf.sort(x, 0),
    "ranked": lambda x: tf.cast(tf.argsort(tf.argsort(x, 0), 0), x.dtype),
    "cumulated": lambda x: tf.cumsum(x, 0),
    "cumulated from the end": lambda x: tf.cumsum(x, 0, reverse=True),
    "softmax over rows": lambda x: tf.nn.softmax(x, 0),
    "rolled": lambda x: x + tf.roll(x, 1, 0),
    "neighbours averaged": lambda x: (
        x + tf.reshape(tf.nn.avg_pool1d(x[None], 3, 1, "SAME"), tf.shape(x))
    ),
    "the first row taken off": lambda x: x - x[:1],
    "the last row taken off": lambda x: x - x[-1:],
    "even rows centred": even_rows_centred,
    "only where another row is above 50": lambda x: tf.where(tf.reduce_max(x) > 50, x + 1, x),
    "attention over rows": lambda x: tf.nn.softmax(x @ tf.transpose(x)) @ x,
    "deviation appended": deviation_appended,
    "reshaped across rows": lambda x: tf.reshape(tf.transpose(x), tf.shape(x)),
    "a not-a-number spreads": lambda x: x + 0 * tf.reduce_mean(x, 0),
}


def subclassed(k, function, place="between"):
    """A model whose own code runs a TensorFlow function before, between or after two layers."""

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = k.layers.Dense(4, name="one"), k.layers.Dense(4, name="two")

        def call(self, x):
            before, between, after = (
                function if place == p else tf.identity for p in ("before", "between", "after")
            )
            return after(self.two(between(self.one(before(x)))))

    model = Own()
    model(np.zeros((2, 4), np.float32))
    return model


def centred(k, name="leak"):
    class Own(k.layers.Layer):
        def call(self, x):
            return x - tf.reduce_mean(x, 0)

    return Own(name=name)


def drawing_block(k):
    """A layer that holds a normalization layer, and drops numbers by itself in training mode."""

    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.bn = k.layers.BatchNormalization(name="bn")

        def call(self, x, training=None):
            h = self.bn(x, training=training)
            return tf.nn.dropout(h, 0.3, seed=1) if training else h

    return Block()


class OwnNormalization(keras.layers.Layer):
    """A normalization layer under other names, which may run as a function of its own."""

    def __init__(self, as_function=False, **options):
        super().__init__(**options)
        self.run = tf.function(self._run) if as_function else self._run

    def build(self, shape):
        self.level = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False)
        self.power = self.add_weight(shape=(shape[-1],), initializer="ones", trainable=False)

    def _run(self, x, training):
        if not training:
            return (x - self.level) / tf.sqrt(self.power + 1e-3)
        mean, variance = tf.nn.moments(x, [0])
        self.level.assign(0.8 * self.level + 0.2 * mean)
        self.power.assign(0.8 * self.power + 0.2 * variance)
        return (x - mean) / tf.sqrt(variance + 1e-3)

    def call(self, x, training=None):
        return self.run(x, bool(training))


class Stepping(keras.Model):
    """A model whose own step trains all weights, with `training=mode`."""

    mode = True

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=self.mode))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


class Scaled(tf.Module):
    def __init__(self, name):
        super().__init__(name=name)
        self.scale = tf.Variable(2.0)

    def __call__(self, x):
        return self.scale * x


class Chain(tf.Module):
    """A module that runs a function between two others."""

    def __init__(self, function):
        super().__init__(name="chain")
        self.one, self.two, self.function = Scaled("one"), Scaled("two"), function

    def __call__(self, x):
        return self.two(self.function(self.one(x)))


def passing_on(k):
    return k.layers.Activation("linear", name="leak")


def silent(write):
    """The argument that keeps `write` from printing, where this Keras knows one."""
    return {"verbose": False} if "verbose" in inspect.signature(write).parameters else {}


def export(model, folder, **options):
    if unknown := options.keys() - inspect.signature(model.export).parameters.keys():
        pytest.skip(f"model.export of this Keras has no {', '.join(unknown)}")
    model.export(folder, **silent(model.export), **options)


def moved_by_fit(model, x, y, name):
    """Whether `fit` of this Keras moves the mean that a layer stores, tried on a copy."""
    copy = type(model).from_config(model.get_config())
    copy.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    layer = next(inner for inner in copy._flatten_layers() if inner.name == name)
    before = layer.moving_mean.numpy()
    copy.fit(x, y, verbose=0)
    return not np.array_equal(before, layer.moving_mean.numpy())


def moved_by_call(model, x, name):
    """Whether the plain call of this Keras moves the mean that a layer stores; it stays moved."""
    layer = model.get_layer(name)
    before = layer.moving_mean.numpy()
    model(x)
    return not np.array_equal(before, layer.moving_mean.numpy())


def trained_on_features_alike(k):
    """A net that knows its three classes, its first layer, and the data."""
    rng = np.random.default_rng(0)
    centers, y = 0.7 * rng.normal(size=(3, 16)), rng.integers(0, 3, 512)
    x = (2 * (centers[y] + rng.normal(size=(512, 16))) + 1).astype(np.float32)
    k.utils.set_random_seed(0)
    first, between = k.layers.Dense(32), k.layers.Dense(32)
    layers = [k.layers.BatchNormalization(momentum=0.9), k.layers.ReLU(), between]
    layers += [k.layers.BatchNormalization(momentum=0.9), k.layers.ReLU()]
    head = k.layers.Dense(3, activation="softmax")
    model = k.Sequential([k.Input((16,)), first, *layers, head])
    model.compile(k.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=15, verbose=0)
    return model, first, x, y
