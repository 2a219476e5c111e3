"""`tf.Module`s and plain callables: faults are found, sound ones pass, what is missing is said."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, assert_batch_invariance, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

BATCH, PURE = "batch_invariance", "inference_purity"
AGREE, FROZEN, HEALTH = "train_eval_agreement", "frozen_stability", "statistics_health"


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((48, 4), np.float32)


class Norm(tf.Module):
    """Batch normalisation by hand, told its mode by `is_training`."""

    momentum = 0.9

    def __init__(self, size, trainable=True):
        super().__init__(name="norm")
        self.trainable = trainable
        self.mean = tf.Variable(tf.zeros(size), trainable=False, name="mean")
        self.variance = tf.Variable(tf.ones(size), trainable=False, name="variance")

    def __call__(self, x, is_training):
        mean, variance = self.mean, self.variance
        if is_training:
            mean, variance = tf.nn.moments(x, 0)
            for held, now in ((self.mean, mean), (self.variance, variance)):
                held.assign(self.momentum * held + (1 - self.momentum) * now)
        return (x - mean) / tf.sqrt(variance + 1e-3)


class Net(tf.Module):
    def __init__(self, middle=tf.identity, trainable=True):
        super().__init__(name="net")
        self.kernel = tf.Variable(tf.random.stateless_normal([4, 3], [1, 2]))
        self.norms = [Norm(4, trainable)]
        self.middle = middle

    def __call__(self, x, is_training=False):
        return self.middle(self.norms[0](x, is_training) @ self.kernel)


def centred(h):
    return h - tf.reduce_mean(h, 0)


class Compiled(Net):
    @tf.function
    def __call__(self, x, is_training=False):
        return self.middle(self.norms[0](x, is_training) @ self.kernel)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [Net, Compiled])
def test_a_module_that_mixes_rows(rows, kind):
    finding = expect_failure(BATCH, kind(centred), rows, rule="BN101", layer="net")
    assert "is_training=False" in finding.message
    expect_pass(BATCH, kind(), rows)
    expect_pass(PURE, kind(), rows)


def test_a_module_inside_that_mixes_rows_is_named_by_its_attribute(rows):
    class Leak(tf.Module):
        def __call__(self, x):
            return centred(x)

    expect_failure(BATCH, Net(Leak()), rows, rule="BN101", layer="middle")


def test_modules_that_never_called_the_constructor_of_tf_module(rows):
    class Bare(Norm):
        def __init__(self):
            self.mean, self.variance = tf.Variable(tf.zeros(4)), tf.Variable(tf.ones(4))

    class Outer(tf.Module):
        def __init__(self, mode):
            self.bn, self.mode = Bare(), mode

        def __call__(self, x, is_training=False):
            return self.bn(x, self.mode or is_training)

    cause = "because bn is called with training=True"
    faulty = Outer(True)
    expect_failure(BATCH, faulty, rows, rule="BN102", layer="bn", cause_contains=cause)
    expect_pass(BATCH, Outer(None), rows)


@pytest.mark.parametrize("kind", [Net, Compiled])
def test_a_module_with_stale_statistics(rows, kind):
    net = kind()
    expect_verdict(AGREE, "vacuous", net, rows + 3)
    net(rows + 3, is_training=True)
    expect_failure(AGREE, net, rows + 3, updates=1, rule="BN201", layer="norms/0")
    assert recalibrate(net, rows + 3) == ["norms/0"]
    expect_pass(AGREE, net, rows + 3, updates=1)


def test_the_statistics_of_a_module_inside_are_read(rows):
    net = Net()
    expect_pass(HEALTH, net)
    net.norms[0].mean.assign([np.nan, 0, 0, 0])
    expect_failure(HEALTH, net, rule="BN401", layer="norms/0")


class Flat(tf.Module):
    """All in one, and in training mode unless told otherwise."""

    def __init__(self):
        super().__init__(name="flat")
        self.mean = tf.Variable(tf.zeros(4), trainable=False)

    def __call__(self, x, training=True):
        if not training:
            return x - self.mean
        mean = tf.reduce_mean(x, 0)
        self.mean.assign(0.9 * self.mean + 0.1 * mean)
        return x - mean


def test_a_module_without_modules_inside(rows):
    flat = Flat()
    expect_failure(BATCH, flat, rows, rule="BN102", layer="flat", cause_tested=True)
    expect_failure(PURE, flat, rows, rule="BN001", layer="flat", cause_tested=True)
    flat(rows + 3)
    expect_failure(AGREE, flat, rows + 3, updates=1, rule="BN201", layer="flat")
    assert "no modules inside" in expect_verdict(HEALTH, "not applicable", flat).summary


def test_a_mode_that_must_be_given(rows):
    norm = Norm(4)
    result = expect_pass(BATCH, norm, rows)
    assert list(result.evidence["entry_points"]) == ["model(x, is_training=False)"]
    expect_pass(PURE, norm, rows)
    expect_pass(BATCH, lambda x, training: norm(x, training), rows)


def test_a_module_that_was_never_called(rows):
    class Lazy(tf.Module):
        kernel = None

        def __call__(self, x):
            if self.kernel is None:
                self.kernel = tf.Variable(tf.random.normal([4, 2]))
            return x @ self.kernel

    lazy = Lazy()
    with pytest.raises(BNConsistencyError, match="call it once on a batch"):
        assert_batch_invariance(lazy, rows)
    lazy(rows)
    expect_pass(BATCH, lazy, rows)


@pytest.mark.thorough
def test_functions_with_and_without_a_mode(rows):
    mean = tf.Variable(tf.zeros(4), trainable=False)

    def tracks(x, training=False):
        if training:
            mean.assign(0.9 * mean + 0.1 * tf.reduce_mean(x, 0))
            return centred(x)
        return x - mean

    expect_pass(BATCH, tracks, rows)
    expect_pass(PURE, tracks, rows)
    mean.assign(0.1 * tf.reduce_mean(rows + 3, 0))
    expect_failure(AGREE, tracks, rows + 3, updates=1, rule="BN201", layer="tracks")
    always = functools.partial(tracks, training=True)
    expect_failure(BATCH, lambda x: always(x), rows, rule="BN101")
    expect_failure(PURE, lambda x: always(x), rows, rule="BN001")


@pytest.mark.parametrize("check", [AGREE, FROZEN])
def test_a_function_that_cannot_be_told_to_train(rows, check):
    result = expect_verdict(check, "not applicable", tf.identity, rows)
    assert "no argument that tells it to train" in result.summary


@pytest.mark.parametrize(
    ("function", "faulty"),
    [
        (lambda x: x * 2, False),
        (tf.function(lambda x: x * 2), False),
        (lambda x: np.asarray(x) * 2, False),  # no tensors go through
        (lambda x: x.astype("float64") * 2, False),  # only arrays will do
        (centred, True),
        (tf.function(centred), True),
        (lambda x: np.asarray(x) - np.asarray(x).mean(0), True),
        (lambda x: x - x.astype("float64").mean(0), True),
    ],
)
def test_plain_functions(rows, function, faulty):
    if faulty:
        expect_failure(BATCH, function, rows, rule="BN101")
    else:
        expect_pass(BATCH, function, rows)
        expect_pass(PURE, function, rows)


def test_keras_layers_that_a_function_refers_to_are_named(k, rows):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    model = k.Model(inputs, k.layers.Dense(2)(bn(inputs)), name="inner")

    def baked(x):
        return model(x, training=True)

    def passed_on(x, training=False):
        return model(x, training=training)

    expect_failure(BATCH, baked, rows, rule="BN102", layer="inner/bn", cause_tested=True)
    expect_failure(PURE, baked, rows, rule="BN001", layer="inner/bn", cause_tested=True)
    expect_pass(BATCH, passed_on, rows)
    for _ in range(3):
        model(rows + 3, training=True)
    expect_failure(AGREE, passed_on, rows + 3, updates=3, rule="BN201", layer="inner/bn")
    model.trainable = False
    frozen = expect_pass(FROZEN, passed_on, rows)
    assert list(frozen.evidence["frozen"]) == ["inner/bn", f"inner/{model.layers[-1].name}"]


def test_a_layer_that_was_called(rows):
    layer = keras.layers.BatchNormalization(name="bn")
    layer(rows)
    expect_pass(BATCH, layer, rows)
    layer(rows + 3, training=True)
    expect_failure(AGREE, layer, rows + 3, updates=1, rule="BN201", layer="bn")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_noise_of_a_black_box_is_not_taken_for_a_fault(scale):
    """Wide products differ between batch sizes; the table by dtype is wide enough, not wider."""
    kernel = tf.random.stateless_normal([2048, 64], [1, 2]) * scale
    x = np.random.default_rng(0).standard_normal((8, 2048), np.float32)
    expect_pass(BATCH, lambda x: tf.nn.relu(x @ kernel) @ tf.transpose(kernel), x)

    def coarser(x):
        rows = tf.cast(tf.shape(x)[0], tf.float32)
        return (x @ kernel) * (1 + 1e-4 * rows)

    expect_failure(BATCH, coarser, x, rule="BN104")


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        (lambda: None, "takes no argument x; expected a function of x"),
        (tf.Module(name="mine"), "module 'mine' can't be called; expected a method __call__"),
        (keras.layers.Dense(1, name="mine"), "'mine' is not built"),
        (lambda x: x @ tf.ones([3, 3]), "lambda(x) raised"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(rows, subject, sentence):
    with pytest.raises(BNConsistencyError) as caught:
        assert_batch_invariance(subject, rows)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_generated_where_a_signature_tells_them():
    spec = tf.TensorSpec([None, 4], tf.float32)
    expect_pass(BATCH, tf.function(lambda x: x * 2, input_signature=[spec]))

    def build(width=8):
        raise NotImplementedError

    with pytest.raises(BNConsistencyError, match="give some rows as x, or --bn-data") as caught:
        assert_batch_invariance(build)
    assert str(caught.value).endswith("; or build(), if that returns the model")


class Respectful(Norm):
    def __call__(self, x, is_training):
        return super().__call__(x, is_training and self.trainable)


def test_a_frozen_module(rows):
    net = Net(trainable=False)
    expect_failure(
        FROZEN, net, rows, rule="BN301", layer="norms/0", cause_contains="look at trainable"
    )
    net.norms = [Respectful(4, trainable=False)]
    expect_pass(FROZEN, net, rows)


def test_a_loop_that_trains_a_module(rows):
    net = Net()
    net.norms = [Respectful(4)]

    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(net(x, is_training=True) ** 2)
        net.kernel.assign_sub(0.1 * tape.gradient(loss, net.kernel))

    finding = expect_failure(
        FROZEN,
        net,
        rows,
        rows[:, :1],
        frozen="norms/*",
        train_step=train_step,
        rule="BN306",
        layer="norms/0",
        cause_tested=True,
    )
    assert finding.evidence["layers"] == ["norms/0"]
    net.norms[0].trainable = False
    result = expect_pass(FROZEN, net, rows, rows[:, :1], frozen="norms/*", train_step=train_step)
    assert result.evidence["steps"]["path"] == "train_step"


class Nameless(tf.Module):
    """Does not call tf.Module's constructor, so it has no name."""

    def __init__(self, norm=None):
        self.norm = norm
        self.kernel = tf.Variable(tf.random.stateless_normal([4, 4], [1, 2]))

    def __call__(self, x, is_training=False):
        h = x @ self.kernel
        return h if self.norm is None else tf.tanh(self.norm(h, is_training))


@pytest.mark.parametrize("check", [BATCH, PURE, HEALTH])
def test_modules_without_names(rows, check):
    net = Nameless(Norm(4))
    net.inner = Nameless()
    expect_pass(check, net, rows)
    expect_pass(check, functools.partial(net, is_training=False), rows)


def test_a_fault_in_modules_without_names(rows):
    outer = Nameless(Nameless(Norm(4)))
    always = functools.partial(outer, is_training=True)
    expect_failure(BATCH, always, rows, rule="BN102", layer="Nameless/Nameless/norm")
    expect_pass(BATCH, outer, rows)
