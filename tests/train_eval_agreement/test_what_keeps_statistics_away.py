"""Statistics that are not those of the data: do the weights move, or does a step keep them away?

The weights may be at rest. Each test makes one fault, and passes without it.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from small_models import Stepping, trained_on_features_alike

from pytest_bnconsistency import BNConsistencyError, check_consistency, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"
STALE, LAGGING, SHIFT, DOMAINS, SEVERAL, STEP_WRITES = (
    "BN201",
    "BN202",
    "BN209",
    "BN210",
    "BN211",
    "BN215",
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 256)
    x = rng.normal(0, 1.5, (3, 8))[y] + rng.standard_normal((256, 8)) + 8
    return x.astype(np.float32), y.astype(np.int32)


def net(k, momentum=0.9, last=True):
    inputs = k.Input((8,))
    h = inputs
    for name in ("first", "last")[: 1 + last]:
        h = k.layers.BatchNormalization(momentum=momentum, name=name)(k.layers.Dense(12)(h))
        h = k.layers.ReLU()(h)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(0.01), loss)
    return model


def stepper(model, after=None, views=(lambda x: x,), traced=True):
    """A training step on the sum of the losses of some views of the rows, and what comes after."""

    def step(x, y):
        with tf.GradientTape() as tape:
            losses = [model.loss(y, model(view(x), training=True)) for view in views]
            loss = tf.add_n(losses) / len(losses)
        weights = model.trainable_variables
        model.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        for write in [after] if after else []:
            write(model)

    return tf.function(step) if traced else step


def trained(model, step, x, y, rates=((0.01, 10), (0.0, 6))):
    """At last the weights stand still: what is left is not theirs."""
    rng = np.random.default_rng(0)
    for rate, epochs in rates:
        model.optimizer.learning_rate.assign(rate)
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for rows in np.split(order, len(x) // 32):
                step(tf.constant(x[rows]), tf.constant(y[rows]))
    return model


def decays(model):
    for layer in model.layers:
        for weight in layer.non_trainable_weights:
            weight.assign(weight * 0.97)


def clips(model):
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(tf.clip_by_value(weight, -1.0, 1.0))


def draws_to_one(model):
    """As a slow average of all variables does, begun with those of another model."""
    for weight in [w for layer in model.layers for w in layer.non_trainable_weights]:
        weight.assign(0.9 * weight + 0.1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("k", "fault"), [(tf_keras, decays), (keras, clips), (keras, draws_to_one)]
)
def test_a_step_that_writes_to_the_statistics(disagrees, data, k, fault):
    x, y = data
    model = net(k)
    step = stepper(model, after=fault, traced=fault is not clips)
    trained(model, step, x, y)
    finding = disagrees(model, x, y, rule=STEP_WRITES, train_step=step, batch_size=32)
    # Of code that AutoGraph wrote anew the function is known; Python 3.13 tells the line, too.
    place = rf"the code at test_what_keeps_statistics_away\.py(:\d+|, in {fault.__name__}) writes"
    assert re.match(place, finding.cause)
    step = stepper(model)
    trained(model, step, x, y)
    result = expect_pass(CHECK, model, x, y, train_step=step, batch_size=32)
    assert result.warnings == ()


class OwnFit(Stepping):
    """`fit` that takes no callbacks."""

    def fit(self, x, y, sample_weight=None, batch_size=32, epochs=1, shuffle=True, verbose=0):
        told = {"batch_size": batch_size, "epochs": epochs, "shuffle": shuffle, "verbose": verbose}
        return super().fit(x, y, sample_weight=sample_weight, **told)


@pytest.mark.thorough
@pytest.mark.parametrize("at_once", [1, 4], ids=("one step", "four steps at once"))
@pytest.mark.parametrize("base", [Stepping, OwnFit], ids=("fit", "own fit"))
def test_a_train_step_of_the_model_that_writes_to_the_statistics(disagrees, data, base, at_once):
    """Weight decay of all variables, as long as it lasts."""

    class Decaying(base):
        all_of_them = True

        def train_step(self, batch):
            losses = super().train_step(batch)
            for weight in self.weights if self.all_of_them else []:
                weight.assign(weight * 0.99)
            return losses

    x, y = data
    inner = net(keras, 0.97)
    model = Decaying(inner.inputs, inner.outputs)
    for all_of_them, rate in ((True, 3e-3), (False, 1e-3)):
        model.all_of_them = all_of_them
        model.compile(keras.optimizers.Adam(rate), inner.loss, steps_per_execution=at_once)
        model.fit(x, y, epochs=25, batch_size=32, verbose=0)
        if all_of_them:
            disagrees(model, x, y, rule=STEP_WRITES, batch_size=32)
        else:
            expect_pass(CHECK, model, x, y, batch_size=32)


@pytest.mark.thorough
def test_dead_channels_tell_nothing(disagrees, data):
    """The statistics of most channels are those of nothing, and decay as they like."""
    x, y = data
    inputs = keras.Input((8,))
    bias = keras.initializers.Constant([0.0] * 3 + [-1e3] * 9)
    h = keras.layers.Dense(12, activation="relu", bias_initializer=bias)(inputs)
    h = keras.layers.BatchNormalization(momentum=0.97, name="bn")(h)
    model = keras.Model(inputs, keras.layers.Dense(3)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss)
    model.fit(x, y, epochs=30, verbose=0)
    model.optimizer.learning_rate = 0.0

    def decayed(model):
        for variable in model.layers[2].non_trainable_variables:
            variable.assign(0.95 * variable)

    step = stepper(model, after=decayed)
    for _ in range(10):
        for start in range(0, 256, 32):
            step(x[start : start + 32], y[start : start + 32])
    disagrees(model, x, y, rule=STEP_WRITES, train_step=step, batch_size=32)


def far(x):
    return 3 * x - 10


def noise(x):
    return tf.random.stateless_normal(tf.shape(x), (1, 2))


def left_half(x):
    return x * tf.constant([2.0] * 4 + [0.0] * 4)


@pytest.mark.thorough
@pytest.mark.parametrize(("k", "other"), [(tf_keras, far), (keras, noise), (keras, left_half)])
def test_a_step_that_calls_a_layer_on_several_distributions(disagrees, data, k, other):
    x, y = data
    model = net(k)
    step = stepper(model, views=(lambda x: x, other))
    trained(model, step, x, y)
    finding = disagrees(model, x, y, rule=DOMAINS, train_step=step, batch_size=32)
    assert "normalises 2 inputs of unlike distribution in one step" in finding.cause
    step = stepper(model, views=(lambda x: x, lambda x: x[::-1]))
    trained(model, step, x, y)
    result = expect_pass(CHECK, model, x, y, train_step=step, batch_size=32)
    (warning,) = result.warnings
    assert warning.rule == SEVERAL
    assert "the step calls the layer 2 times" in warning.cause


@pytest.mark.thorough
def test_a_step_that_preprocesses_its_rows(disagrees, data):
    x, y = data
    model = net(keras)
    step = stepper(model, views=(lambda x: 2 * tf.reverse(x, [1]) + tf.range(8.0),))
    trained(model, step, x, y)
    finding = disagrees(model, x, y, rule=SHIFT, train_step=step, batch_size=32)
    assert "in the step alone" in finding.cause
    step = stepper(model, views=(lambda x: x + tf.random.normal(tf.shape(x), stddev=0.05),))
    trained(model, step, x, y)
    expect_pass(CHECK, model, x, y, train_step=step, batch_size=32)


@pytest.mark.thorough
def test_a_lag_of_weights_that_move(disagrees, data):
    x, y = data
    y = np.where(np.random.default_rng(1).random(256) < 0.3, (y + 1) % 3, y).astype(np.int32)
    model = net(keras, 0.98)
    step = stepper(model)
    trained(model, step, x, y, rates=((0.05, 30),))
    finding = disagrees(model, x, y, rule=LAGGING, train_step=step, batch_size=32)
    assert "with the weights at rest, the same steps leave 0.0" in finding.tested
    trained(model, step, x, y, rates=((0.0, 30),))
    expect_pass(CHECK, model, x, y, train_step=step, batch_size=32)


def reset(layer):
    layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
    layer.moving_variance.assign(np.ones(layer.moving_variance.shape))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("k", "names", "passes"),
    [(keras, ["first", "last"], 2), (keras, ["last"], 6), (tf_keras, ["first"], 12)],
)
def test_statistics_that_were_set_back(disagrees, data, k, names, passes):
    """What they hold speaks against the number of updates."""
    x, y = data
    model = net(k, 0.95)
    trained(model, stepper(model), x, y)
    recalibrate(model, x)
    expect_pass(CHECK, model, x, y, batch_size=32)
    for name in names:
        reset(model.get_layer(name))
    for rows in range(passes):
        model(x[rows * 16 : rows * 16 + 32], training=True)
    finding = disagrees(model, x, y, rule=STALE, batch_size=32)
    assert f"in the statistics of {' and '.join(names)} (measured), though 128" in finding.cause
    share = int(finding.cause.partition("%")[0]) / 100
    assert share == pytest.approx(0.95**passes, abs=0.03)
    column = {row[0]: row[-1] for row in finding.table.rows}
    assert [column[name].endswith("(measured)") for name in ("first", "last")] == [
        name in names for name in ("first", "last")
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
def test_statistics_that_were_set_back_and_are_blurred_by_small_batches(disagrees, data, seed):
    """No layer's own say so within what chance does to it; all together do."""
    x, y = data
    model = net(keras, 0.95)
    trained(model, stepper(model), x, y)
    recalibrate(model, x)
    for name in ("first", "last"):
        reset(model.get_layer(name))
    rng = np.random.default_rng(seed)
    for _ in range(30):
        model(x[rng.integers(0, len(x), 6)], training=True)
    finding = disagrees(model, x, y, rule=STALE, batch_size=32)
    assert int(finding.cause.partition("%")[0]) / 100 == pytest.approx(0.95**30, abs=0.06)


@pytest.mark.thorough
def test_a_count_of_updates_that_is_not_that_of_the_statistics(data):
    """A new optimizer counts from 0: few updates, and nothing of the initial values is left."""
    x, y = data
    model = net(keras, 0.95)
    trained(model, stepper(model), x * 20, y)
    model.compile(keras.optimizers.SGD(0.0), model.loss)
    for _ in range(2):
        model.optimizer.iterations.assign_add(1)
    recalibrate(model, x * 20)
    expect_pass(CHECK, model, x * 20, y, batch_size=32)
    expect_failure(CHECK, model, x, y, rule=SHIFT, batch_size=32, without=[STALE])


@pytest.mark.thorough
def test_a_little_of_the_initial_values_that_is_large_against_the_variances(disagrees, data):
    x, y = data
    model = net(keras, 0.9)
    x = x / 200
    step = stepper(model)
    trained(model, step, x, y, rates=((0.001, 4), (0.0, 1)))
    for rows in range(4):  # more than the optimizer counts
        model(x[rows * 32 : rows * 32 + 32], training=True)
    finding = disagrees(model, x, y, rule=STALE, batch_size=32)
    assert finding.evidence["initial_share"] < 0.05
    trained(model, step, x, y, rates=((0.0, 12),))
    expect_pass(CHECK, model, x, y, batch_size=32)


@pytest.mark.thorough
def test_an_epsilon_changed_after_training_is_no_lag(k, data):
    """`fit` was traced with the one before, and would keep its statistics away from today's."""
    x, y = data
    model = net(k)
    for rate in (1e-2, 1e-4):
        model.optimizer.learning_rate = rate
        model.fit(0.01 * x, y, epochs=20, verbose=0)
    expect_pass(CHECK, model, 0.01 * x, y)
    model.get_layer("first").epsilon = 0.1
    said = "trained with epsilon 0.001, and the model has 0.1"
    expect_failure(CHECK, model, 0.01 * x, y, rule="BN406", layer="first", cause_contains=said)


@pytest.mark.thorough
def test_a_bias_changed_after_training_is_no_lag(k):
    """Training opens other distances again: means alone are off."""
    model, first, x, y = trained_on_features_alike(k)
    expect_pass(CHECK, model, x, y)
    first.bias.assign(np.random.default_rng(3).normal(0, 1, 32))
    expect_failure(CHECK, model, x, y, rule="BN204", cause_contains="not established")


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("noise", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("twice", [False, True])
def test_updates_are_counted_though_the_step_draws_random_numbers(k, data, noise, twice):
    """Noise is other noise in each step, and tells nothing of how often it updates."""

    class Noisy(k.Model):
        def train_step(self, given):
            x, y = given[:2]
            with tf.GradientTape() as tape:
                if twice:
                    self(x, training=True)
                scores = self(x + noise * tf.random.normal(tf.shape(x)), training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=scores)
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    k.utils.set_random_seed(0)
    plain = net(k, momentum=0.99)
    model = Noisy(plain.input, plain.output)
    model.compile(k.optimizers.Adam(1e-3), plain.loss)
    model.fit(*data, epochs=4, verbose=0)
    result = check_consistency(model, *data, checks=[CHECK])[CHECK]
    known = result.evidence["updates_per_step"]
    assert known == dict.fromkeys(known, 1.0 + twice)
    warned = {warning.rule for warning in result.warnings}
    assert warned == ({SEVERAL} if twice else set())


@pytest.mark.thorough
@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_the_code_of_a_model_may_draw_before_a_layer(k, data):
    class Drawing(k.Model):
        def __init__(self, momentum):
            super().__init__()
            self.first, self.last = k.layers.Dense(12), k.layers.Dense(3)
            self.bn = k.layers.BatchNormalization(momentum=momentum, name="bn")

        def call(self, x, training=False):
            h = self.first(x)
            h = tf.nn.dropout(h, 0.1) if training else h
            return self.last(tf.nn.relu(self.bn(h, training=training)))

    def trained(momentum):
        k.utils.set_random_seed(0)
        model = Drawing(momentum)
        loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(k.optimizers.Adam(3e-3), loss)
        model.fit(*data, epochs=12, verbose=0)
        return model

    expect_pass(CHECK, trained(0.8), *data)
    found = expect_failure(CHECK, trained(0.99), *data, rule=STALE, cause_tested=True)
    assert found.layer.endswith("bn")


@pytest.mark.thorough
def test_a_variance_so_huge_that_steps_round_it_off(k, data):
    """What a step leaves of it differs from it by less than it is rounded by."""
    model = net(k)
    model.fit(*data, epochs=20, batch_size=32, verbose=0)
    expect_pass(CHECK, model, *data)
    variance = model.get_layer("first").moving_variance
    variance.assign(np.concatenate([[1e30], variance.numpy()[1:]]))
    finding = expect_failure(CHECK, model, *data, rule="BN204", layer="first", cause_tested=False)
    assert finding.cause.startswith("not established")


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_a_variance_that_the_dtype_cannot_hold(dtype):
    """Nothing is infinite in the data, and the momentum, 0.9, is no cause.

    tf_keras keeps such statistics in float32.
    """
    rng = np.random.default_rng(0)
    y = np.arange(256) % 3
    x = (900 * (rng.normal(0, 1.5, (3, 8))[y] + rng.normal(size=(256, 8)))).astype(np.float32)
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(momentum=0.9, name="bn", dtype=dtype)
    model = keras.Sequential(
        [keras.Input((8,)), norm, keras.layers.Dense(3, activation="softmax")]
    )
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=15, verbose=0)
    if dtype == "mixed_float16":
        expect_pass(CHECK, model, x, y)
        return
    finding = expect_failure(CHECK, model, x, y, rule="BN401", layer="bn")
    assert "float16 holds no number beyond 65504" in finding.cause
    assert "mixed_float16" in finding.remedy
    cause = "an overflow: moving_variance is kept in float16"
    expect_failure("statistics_health", model, x, y, rule="BN401", cause_contains=cause)
    with pytest.raises(BNConsistencyError, match="nothing was written"):
        recalibrate(model, x)
