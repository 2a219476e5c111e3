"""Six kinds of models, as small as they can be and trained a little, for checks that break off."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras

ROWS, WIDTH, CLASSES = 12, 4, 2
CHECKS = (
    "batch_invariance",
    "inference_purity",
    "train_eval_agreement",
    "frozen_stability",
    "statistics_health",
)
OPTIONS = {"batch_size": 6, "rows": 4, "steps": 1, "examples": 2}


def data():
    x = np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32) + 3
    return x, (x[:, 0] > 3).astype(np.int32)


def _body(k, h, frozen=True):
    """A layer of each sort that a check treats by itself."""
    h = k.layers.BatchNormalization(name="bn")(k.layers.Dense(4, name="dense")(h))
    h = k.layers.Dropout(0.2, seed=3, name="dropout")(h)
    h = k.layers.BatchNormalization(name="frozen", trainable=not frozen)(h)
    return k.layers.Dense(CLASSES, activation="softmax", name="head")(h)


def _functional(k, kind=None):
    inputs = k.Input((WIDTH,))
    return (kind or k.Model)(inputs, _body(k, inputs))


def _sequential():
    k = keras
    return k.Sequential(
        [
            k.Input((WIDTH,)),
            k.layers.Dense(4),
            k.layers.BatchNormalization(name="bn", momentum=0.9),
            k.layers.GaussianNoise(0.1, seed=4),
            k.layers.BatchNormalization(name="frozen", trainable=False),
            k.layers.Dense(CLASSES, activation="softmax"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.bn = keras.layers.Dense(4), keras.layers.BatchNormalization()
        self.dropout = keras.layers.Dropout(0.2, seed=5)
        self.frozen = keras.layers.BatchNormalization(trainable=False)
        self.head = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, x, training=None):
        h = self.dropout(self.bn(self.dense(x), training=training), training=training)
        return self.head(self.frozen(h, training=training))


class Looped(keras.Model):
    """A step of its own, with a metric of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            scores = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=scores)
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return self.compute_metrics(x, y, scores)


class Module(tf.Module):
    """No Keras at all: a moving mean of its own, and a step around it."""

    def __init__(self):
        super().__init__()
        start = np.random.default_rng(1).standard_normal((WIDTH, CLASSES), np.float32)
        self.kernel = tf.Variable(start, name="kernel")
        self.mean = tf.Variable(tf.zeros(WIDTH), trainable=False, name="mean")

    def __call__(self, x, training=False):
        if training:
            mean = tf.reduce_mean(x, 0)
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
        else:
            mean = self.mean
        return (x - mean) @ self.kernel

    @tf.function
    def step(self, x, y):
        with tf.GradientTape() as tape:
            scores = self(x, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), scores)
            )
        self.kernel.assign_sub(0.1 * tape.gradient(loss, self.kernel))
        return loss

    @property
    def trainable_part(self):
        return [self.kernel]


def _keras_kinds():
    return {
        "functional": lambda: _functional(keras),
        "Sequential": _sequential,
        "subclass": Subclassed,
        "tf_keras": lambda: _functional(tf_keras),
        "train_step": lambda: _functional(keras, Looped),
    }


KINDS = ("functional", "Sequential", "subclass", "tf_keras", "train_step", "tf.Module")


class Trained:
    """A model of one kind after a few steps, with what a check of it is given."""

    def __init__(self, kind):
        self.kind = kind
        self.x, self.y = data()
        self.options = dict(OPTIONS)
        keras.utils.set_random_seed(7)
        tf_keras.utils.set_random_seed(7)
        if kind == "tf.Module":
            self.model = Module()
            self.options["train_step"] = self.model.step
        else:
            self.model = _keras_kinds()[kind]()
            self.model.compile(
                "adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
            )
        self.trained_on()

    def trained_on(self, epochs=2):
        """The losses of more training, and every bit that it leaves."""
        if self.kind == "tf.Module":
            losses = [float(self.model.step(self.x[:6], self.y[:6])) for _ in range(2 * epochs)]
            held = [v.numpy() for v in self.model.variables]
        else:
            history = self.model.fit(
                self.x, self.y, epochs=epochs, batch_size=6, verbose=0, shuffle=True
            )
            losses = history.history
            slots = self.model.optimizer.variables
            slots = slots() if callable(slots) else slots
            held = [*self.model.get_weights(), *(np.asarray(v) for v in slots)]
        drawn = [float(np.random.rand()), float(tf.random.normal([]))]
        return losses, [value.tobytes() for value in held], drawn
