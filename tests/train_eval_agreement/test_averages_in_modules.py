"""Statistics that a module keeps for a layer, without their share of the initial value."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass

AGREEMENT, HEALTH = "train_eval_agreement", "statistics_health"
RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (512, 8)).astype(np.float32)


class Average(tf.Module):
    """As of Sonnet: nothing calls it."""

    def __init__(self, size, decay):
        super().__init__()
        self.decay, self.updates = decay, tf.Variable(0, dtype=tf.int64, trainable=False)
        self.hidden = tf.Variable(tf.zeros(size), trainable=False)
        self.value = tf.Variable(tf.zeros(size), trainable=False)

    def update(self, now):
        self.updates.assign_add(1)
        self.hidden.assign_sub((self.hidden - now) * (1 - self.decay))
        self.value.assign(self.hidden / (1 - self.decay ** tf.cast(self.updates, tf.float32)))


class Norm(tf.Module):
    def __init__(self, size, decay, name):
        super().__init__(name=name)
        self.means, self.variances = Average(size, decay), Average(size, decay)

    def __call__(self, x, is_training):
        mean, variance = self.means.value, self.variances.value
        if is_training:
            mean, variance = tf.nn.moments(x, [*range(x.shape.rank - 1)])
            self.means.update(mean)
            self.variances.update(variance)
        return (x - mean) * tf.math.rsqrt(variance + 1e-5)


class Net(tf.Module):
    def __init__(self, decay):
        super().__init__(name="net")
        kernels = RNG.normal(size=(2, 8, 8)).astype(np.float32)
        self.kernels = [tf.Variable(kernel) for kernel in kernels]
        self.norms = [Norm(8, decay, name) for name in ("one", "two")]

    def __call__(self, x, is_training=False):
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            x = tf.nn.relu(norm(x @ kernel, is_training))
        return x


def run(decay, steps):
    model = Net(decay)
    for step in range(steps):
        first = step * 32 % len(X)
        model(X[first : first + 32], is_training=True)
    return model


def test_what_a_module_keeps_is_its_layers():
    model = run(0.9, 200)
    assert "of 2 normalization layers" in expect_pass(AGREEMENT, model, X).summary
    assert expect_pass(HEALTH, model, X).warnings == ()
    kept = model.norms[1].variances.value
    kept.assign(-kept)
    expect_failure(HEALTH, model, X, rule="BN402", layer="norms/1")
    kept.assign(-4 * kept)
    expect_failure(AGREEMENT, model, X, rule="BN204", layer="norms/1")
    assert "norms/1" in recalibrate(model, X)
    expect_pass(AGREEMENT, model, X)


def test_an_average_of_few_steps_is_no_smaller():
    """After 16 steps `hidden` has 8 % of the statistics, `value` all of them."""
    model = run(0.995, 16)
    expect_pass(AGREEMENT, model, X)
    assert expect_pass(HEALTH, model, X).warnings == ()
    average = model.norms[0].means
    average.value.assign_add(10 * RNG.normal(size=8))
    expect_failure(AGREEMENT, model, X, rule="BN204", layer="norms/0")
    hidden = average.hidden.numpy()
    assert "norms/0" in recalibrate(model, X)
    assert np.array_equal(average.hidden.numpy(), hidden)
    expect_pass(AGREEMENT, model, X)


def handing_on(method):
    """As decorators do that say nothing of what they wrap."""

    def wrapper(self, *args, **kwargs):
        with tf.name_scope("wrapped"):
            return method(self, *args, **kwargs)

    return wrapper


class Images(tf.Module):
    """Too large for moments of their own; its averages are called."""

    def __init__(self):
        super().__init__(name="images")
        self.norm = Norm(8, 0.9, "norm")
        self.loudness = Called(8, 0.9)

    @handing_on
    def __call__(self, x, is_training):
        h = self.norm(tf.repeat(x, 4, axis=-1), is_training)
        if is_training:
            self.loudness(tf.reduce_max(tf.abs(h), [0, 1, 2]))
        return tf.reduce_mean(tf.nn.relu(h), [1, 2])


class Called(Average):
    def __call__(self, now):
        self.update(now)


@pytest.mark.thorough
def test_a_wrapper_that_hands_on_what_it_is_given():
    images = RNG.normal(3, 2, (64, 48, 48, 2)).astype(np.float32)
    model = Images()
    for step in range(100):
        model(images[step * 8 % 64 :][:8], is_training=True)
    expect_pass("batch_invariance", model, images)
    result = expect_pass(AGREEMENT, model, images)
    assert "against population statistics" in result.summary
    norm = model.norm.means.value
    norm.assign_add(2 * tf.ones(8))
    expect_failure(AGREEMENT, model, images, rule="BN204", layer="norm")


class Corrected(Average):
    """What is kept is divided where it is read."""

    def update(self, now):
        self.updates.assign_add(1)
        self.value.assign_add((now - self.value) * (1 - self.decay))

    def read(self):
        return self.value / (1 - self.decay ** tf.cast(self.updates, tf.float32))


class Reading(tf.Module):
    def __init__(self, decay):
        super().__init__(name="reading")
        self.means, self.variances = Corrected(8, decay), Corrected(8, decay)

    def __call__(self, x, training=False):
        if training:
            mean, variance = tf.nn.moments(x, [0])
            self.means.update(mean)
            self.variances.update(variance)
        else:
            mean, variance = self.means.read(), self.variances.read()
        return (x - mean) * tf.math.rsqrt(variance + 1e-5)


@pytest.mark.parametrize(("decay", "fits"), [(0.5, True), (0.995, False)])
def test_statistics_that_evaluation_reads_otherwise_are_let_be(decay, fits):
    model = Reading(decay)
    for step in range(32):
        model(X[step * 16 :][:16], training=True)
    before = [v.numpy() for v in model.variables]
    if fits:
        assert recalibrate(model, X) == ["reading"]
    else:
        with pytest.raises(BNConsistencyError, match="reading may divide them by a count"):
            recalibrate(model, X)
        after = [v.numpy() for v in model.variables]
        assert all(map(np.array_equal, before, after))
