"""Evaluation far below training on the rows trained on, whatever the batches: it must be seen."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"
L = keras.layers


def compiled(inputs, outputs, rate=0.01):
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def verdict(model, x, y=None, **options):
    return check_consistency(model, x, y, checks=[CHECK], **options).results[0].verdict.value


# A lag on few rows: what a sample's statistics do to the outputs is no loss.


@functools.cache
def images():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 64)
    x = rng.standard_normal((64, 16, 16, 3)) + y[:, None, None, None] * 0.8 + 1
    return x.astype(np.float32), y


@functools.cache
def inverted_residuals():
    """As published for phones, and trained for 40 updates."""

    def normalised(h):
        return L.BatchNormalization(momentum=0.9)(h)

    def block(h, filters, stride):
        h = L.ReLU(6)(normalised(L.Conv2D(filters * 2, 1, use_bias=False)(h)))
        depthwise = L.DepthwiseConv2D(3, stride, padding="same", use_bias=False)
        h = L.ReLU(6)(normalised(depthwise(h)))
        return normalised(L.Conv2D(filters, 1, use_bias=False)(h))

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    h = L.Conv2D(8, 3, 2, padding="same")(inputs)
    for filters, stride in ((12, 1), (16, 2), (24, 1), (24, 1)):
        h = block(h, filters, stride)
    model = compiled(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(h)), 1e-3)
    model.fit(*images(), epochs=10, batch_size=16, verbose=0)
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_another_batch_size_sees_the_same(batch_size):
    x, y = images()
    model = inverted_residuals()
    assert model.evaluate(x, y, verbose=0)[1] < 0.7
    expect_verdict(CHECK, "failed", model, x, y, batch_size=batch_size)


@pytest.mark.thorough
def test_fewer_rows_never_pass_it():
    x, y = images()
    assert verdict(inverted_residuals(), x[:50], y[:50], batch_size=16) != "passed"
    assert verdict(inverted_residuals(), x, batch_size=16) != "passed"


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [8, 15])
def test_easy_rows_are_too_few_to_clear_statistics_that_are_not_theirs(k, rows):
    k.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 160)
    x = (rng.normal(size=(160, 8)) + np.where(y, 3, -3)[:, None]).astype("float32")
    model = k.Sequential([k.Input((8,)), k.layers.Dense(32), k.layers.BatchNormalization()])
    model.add(k.layers.ReLU())
    model.add(k.layers.Dense(2, activation="softmax"))
    model.compile(k.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, batch_size=32, verbose=0)
    assert model.evaluate(x[:rows], y[:rows], verbose=0) < 0.01
    result = expect_verdict(CHECK, "vacuous", model, x[:rows], y[:rows])
    assert f"{rows} rows can't clear statistics that are not theirs" in result.summary
    assert "at least 16 rows" in result.hint
    recalibrate(model, x[:rows])
    expect_pass(CHECK, model, x[:rows], y[:rows])


@pytest.mark.thorough
def test_the_same_net_with_the_statistics_of_its_weights():
    x, y = images()
    model = keras.models.clone_model(inverted_residuals())
    model.set_weights(inverted_residuals().get_weights())
    model.compile("adam", inverted_residuals().loss, metrics=["accuracy"])
    model.optimizer.iterations.assign(40)
    recalibrate(model, x, batch_size=16)
    for batch_size in (16, 32):
        expect_pass(CHECK, model, x, y, batch_size=batch_size)


@functools.cache
def dense_on_digits(momentum):
    """60 updates: with momentum 0.97 they leave 16 % of the initial values."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    norms = [L.BatchNormalization(momentum=momentum) for _ in range(2)]
    h = inputs
    for norm in norms:
        h = L.ReLU()(norm(L.Dense(32)(h)))
    model = compiled(inputs, L.Dense(10)(h), 3e-3)
    model.fit(*digits(), epochs=6, batch_size=64, verbose=0)
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_a_sixth_of_the_initial_values_on_all_rows_and_on_some(seed):
    x, y = digits()
    stale, sound = dense_on_digits(0.97), dense_on_digits(0.7)
    for rows in (640, 200):
        given = x[:rows], y[:rows]
        finding = expect_failure(CHECK, stale, *given, rule="BN201", batch_size=64, seed=seed)
        assert "16.1%" in finding.cause
        expect_pass(CHECK, sound, *given, batch_size=64, seed=seed)
    assert verdict(stale, x[:50], y[:50], batch_size=64, seed=seed) != "passed"
    assert verdict(sound, x[:50], y[:50], batch_size=64, seed=seed) != "failed"


@pytest.mark.thorough
def test_what_is_inconclusive_says_how_many_rows_would_tell():
    x, y = digits()
    result = expect_verdict(CHECK, "vacuous", dense_on_digits(0.9), x[:20], y[:20], batch_size=64)
    assert "but not surely, as chance alone explains" in result.summary
    assert "give about" in result.hint
    few = expect_verdict(CHECK, "vacuous", dense_on_digits(0.9), x[:3], y[:3], batch_size=64)
    assert few.summary.endswith("% (counting so few rows)")  # and the figure once


# One set of statistics for unlike inputs: no population statistics mend it.


@functools.cache
def digits():
    x, y = load_digits(return_X_y=True)
    return (x[:640] / 16).astype(np.float32), y[:640]


def rows_of_digits():
    x, y = digits()
    return x.reshape(-1, 8, 8), y


class Cell(L.Layer):
    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 24
        self.wx, self.wh, self.norm = L.Dense(24), L.Dense(24, use_bias=False), norm

    def build(self, shape):
        self.wx.build(shape)
        for layer in (self.wh, self.norm):
            layer.build((None, 24))

    def call(self, x, states, training=None):
        told = {"training": training} if isinstance(self.norm, L.BatchNormalization) else {}
        h = keras.ops.relu(self.norm(self.wx(x) + 1.5 * self.wh(states[0]), **told))
        return h, [h]


def recurrent(norm):
    inputs = keras.Input((8, 8))
    return compiled(inputs, L.Dense(10)(L.RNN(Cell(norm, name="cell"), name="rnn")(inputs)))


def pyramid(norms):
    """One head for levels of unlike scale, as in a detector."""
    inputs = keras.Input((8, 8))
    head = L.Dense(24)
    levels = []
    for level, norm in enumerate(norms):
        h = L.Dense(16)(L.Flatten()(L.AveragePooling1D(2**level)(inputs)))
        levels.append(L.ReLU()(norm(head(h * 8.0**level + 3.0 * level))))
    return compiled(inputs, L.Dense(10)(L.Concatenate()(levels)))


def unrolled(norms):
    """A block that runs three times, and grows what it is given."""
    inputs = keras.Input((8, 8))
    h, block = L.Flatten()(inputs), L.Dense(64)
    for norm in norms:
        h = L.ReLU()(norm(4.0 * block(h))) * 3.0 + 1.0
    return compiled(inputs, L.Dense(10)(h))


def bn():
    return L.BatchNormalization(momentum=0.9)


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [32, 64])
def test_a_normaliser_in_a_recurrent_cell(batch_size):
    finding = expect_failure(
        CHECK, trained_cell(), *rows_of_digits(), rule="BN204", batch_size=batch_size
    )
    assert finding.layer == "rnn/cell/norm"
    x, y = rows_of_digits()
    assert verdict(trained_cell(), x[:50], y[:50], batch_size=batch_size) != "passed"


@functools.cache
def trained_cell():
    keras.utils.set_random_seed(0)
    model = recurrent(L.BatchNormalization(momentum=0.9, name="norm"))
    model.fit(*rows_of_digits(), epochs=15, batch_size=64, verbose=0)
    return model


@pytest.mark.thorough
def test_a_cell_that_normalises_each_row():
    keras.utils.set_random_seed(0)
    model = recurrent(L.LayerNormalization(name="norm"))
    model.fit(*rows_of_digits(), epochs=5, batch_size=64, verbose=0)
    expect_verdict(CHECK, "not applicable", model, *rows_of_digits())


@pytest.mark.thorough
@pytest.mark.parametrize(("build", "times"), [(pyramid, 3), (unrolled, 3)], ids=["head", "block"])
def test_a_normaliser_shared_by_unlike_inputs(build, times):
    x, y = rows_of_digits()
    keras.utils.set_random_seed(0)
    shared = build([bn()] * times)
    shared.fit(x, y, epochs=12, batch_size=64, verbose=0)
    for batch_size in (32, 64):
        expect_verdict(CHECK, "failed", shared, x, y, batch_size=batch_size)
    assert verdict(shared, x[:50], y[:50], batch_size=64) != "passed"
    keras.utils.set_random_seed(0)
    own = build([bn() for _ in range(times)])
    for rate in (1e-2, 3e-4):
        own.optimizer.learning_rate.assign(rate)
        own.fit(x, y, epochs=8, batch_size=64, verbose=0)
    expect_pass(CHECK, own, x, y, batch_size=64)


# Statistics that nobody recognises, and training mode that differs by design.


class Table(L.Layer):
    """Statistics of each domain; evaluation reads those of `read(domains)`."""

    def __init__(self, read, **kwargs):
        super().__init__(**kwargs)
        self.read = read

    def build(self, shapes):
        width = shapes[0][-1]
        still = {"shape": (3, width), "trainable": False}
        self.mean = self.add_weight(initializer="zeros", **still)
        self.variance = self.add_weight(initializer="ones", **still)
        self.gamma = self.add_weight(shape=(width,), initializer="ones")

    def call(self, inputs, training=None):
        x, domains = inputs
        mean, variance = self.mean, self.variance
        at = tf.reshape(domains, [-1])
        if training:
            own = tf.one_hot(at, 3)
            rows = tf.maximum(tf.reduce_sum(own, 0), 1.0)[:, None]
            mean = tf.matmul(own, x, transpose_a=True) / rows
            variance = tf.matmul(own, (x - tf.gather(mean, at)) ** 2, transpose_a=True) / rows
            kept = tf.where(rows > 1, 0.9, 1.0)
            self.mean.assign(kept * self.mean + (1 - kept) * mean)
            self.variance.assign(kept * self.variance + (1 - kept) * variance)
        else:
            at = self.read(at)
        x = (x - tf.gather(mean, at)) / tf.sqrt(tf.gather(variance, at) + 1e-3)
        return x * self.gamma


@functools.cache
def domains():
    rng = np.random.default_rng(0)
    y, domain = rng.integers(0, 3, (2, 300))
    x = rng.normal(0, 2, (3, 6))[y] + 0.5 * rng.standard_normal((300, 6))
    x = x * np.array([1, 3, 10])[domain, None] + np.array([0, 20, -50])[domain, None]
    return [x.astype(np.float32), domain[:, None].astype(np.int32)], y


def trained_on_domains(read):
    keras.utils.set_random_seed(0)
    x, domain = keras.Input((6,)), keras.Input((1,), dtype="int32")
    h = L.Dense(16, "relu")(Table(read, name="table")([x, domain]))
    model = compiled([x, domain], L.Dense(3)(h))
    model.fit(*domains(), epochs=20, batch_size=32, verbose=0)
    return model


@pytest.mark.thorough
@pytest.mark.parametrize(
    "read",
    [tf.zeros_like, lambda at: 2 - at, lambda at: tf.minimum(at + 1, 2)],
    ids=["the first", "in reverse", "the next"],
)
def test_a_table_of_statistics_of_which_evaluation_reads_another_row(read):
    model = trained_on_domains(read)
    x, y = domains()
    expect_failure(CHECK, model, x, y, rule="BN204", layer="table", cause_tested=True)
    assert verdict(model, x) != "passed"
    assert verdict(model, [leaf[:50] for leaf in x], y[:50]) != "passed"


@pytest.mark.thorough
def test_a_table_of_statistics_that_is_read_as_written():
    model = trained_on_domains(lambda at: at)
    x, y = domains()
    for rows in (300, 50):
        given = [leaf[:rows] for leaf in x]
        expect_verdict(CHECK, "not applicable", model, given, y[:rows])
        expect_verdict(CHECK, "not applicable", model, given)


class ByBatch(L.Layer):
    """Standardised by the batch in training; evaluation does what it is given."""

    def __init__(self, evaluate):
        super().__init__(name="by_batch")
        self.evaluate = evaluate

    def call(self, x, training=None):
        if not training:
            return self.evaluate(x)
        return (x - tf.reduce_mean(x, 0)) / (tf.math.reduce_std(x, 0) + 1e-3)


@pytest.mark.thorough
def test_rows_that_hang_on_their_batch_in_training_alone():
    x, y = digits()
    x = 50 * x + 20

    def trained(evaluate):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((64,))
        h = L.Dense(32, "relu")(ByBatch(evaluate)(L.Dense(32)(inputs)))
        model = compiled(inputs, L.Dense(10)(h))
        model.fit(x, y, epochs=8, batch_size=64, verbose=0)
        return model

    model = trained(lambda h: h)
    expect_failure(CHECK, model, x, y, rule="BN204", cause_tested=False)
    given = keras.Model(model.inputs[0], model.layers[1].output)(x)
    mean, deviation = tf.reduce_mean(given, 0), tf.math.reduce_std(given, 0) + 1e-3
    model.layers[2].evaluate = lambda h: (h - mean) / deviation
    expect_verdict(CHECK, "not applicable", model, x, y)


class Differs(keras.Model):
    """Training mode that differs by design, with a normalization layer or without."""

    def __init__(self, kind, normalised):
        super().__init__()
        self.kind = kind
        self.first, self.head = L.Dense(32), L.Dense(10)
        self.aux = L.Dense(10) if kind == "auxiliary head" else None
        self.norm = L.BatchNormalization(momentum=0.8) if normalised else None

    def call(self, x, training=None):
        if self.kind == "teacher forcing":  # the targets stand behind the features
            x = tf.concat([x[:, :64], x[:, 64:] * (1.0 if training else 0.0)], 1)
        h = self.first(x)
        h = h if self.norm is None else self.norm(h, training=training)
        h = tf.nn.relu(h)
        if training and self.kind == "noise":
            h = h + 0.5 * tf.random.normal(tf.shape(h))
        if training and self.kind == "mixup":
            h = 0.7 * h + 0.3 * tf.random.shuffle(h)
        if training and self.kind == "stochastic depth":
            h = h * tf.cast(tf.random.uniform([tf.shape(h)[0], 1]) > 0.2, h.dtype)
        said = self.head(h)
        if training and self.kind == "auxiliary head":
            return said + 0.5 * self.aux(h)
        return said


@pytest.mark.thorough
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize(
    "kind", ["noise", "mixup", "stochastic depth", "teacher forcing", "auxiliary head"]
)
def test_training_that_differs_by_design(kind, normalised):
    x, y = digits()
    if kind == "teacher forcing":
        x = np.concatenate([x, np.eye(10, dtype=np.float32)[y]], 1)
    keras.utils.set_random_seed(0)
    model = Differs(kind, normalised)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    for rate in (0.01, 3e-4):
        model.optimizer.learning_rate.assign(rate)
        model.fit(x, y, epochs=6, batch_size=64, verbose=0)
    for rows in (640, 50):
        said = {verdict(model, x[:rows], y[:rows], batch_size=64), verdict(model, x[:rows])}
        allowed = {"not applicable"} if not normalised else {"passed", "vacuous"}
        assert said <= allowed
    if normalised:
        expect_pass(CHECK, model, x, y, batch_size=64)
