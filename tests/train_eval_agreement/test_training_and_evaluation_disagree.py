"""Each test trains a model with one fault, sees it found, mends it and sees it pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from small_models import Stepping, drawing_block

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"
STALE, LAGGING, NEVER_UPDATED = "BN201", "BN202", "BN203"
SHIFT = "BN209"


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (64, 4)).astype(np.float32)
    return x, (x[:, 0] > 3).astype(np.int32) + (x[:, 1] > 3)


def many(data, times):
    x, y = data
    return np.tile(x, (times, 1)), np.tile(y, times)


def classifier(k, momentum=0.99):
    inputs = k.Input((4,))
    h = k.layers.Dense(8)(inputs)
    h = k.layers.BatchNormalization(momentum=momentum, name="bn")(h)
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(k.layers.ReLU()(h)))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_statistics_after_a_few_updates(k, disagrees, data):
    model = classifier(k)
    model.fit(*data, epochs=3, batch_size=32, verbose=0)
    finding = disagrees(
        model,
        *data,
        rule=STALE,
        layer="bn",
        cause_contains="momentum 0.99 after 6 updates leaves 94.1% of the initial values",
    )
    assert "train for 459 updates or more" in finding.remedy
    assert "momentum <= 0.46 for 6 updates" in finding.remedy
    assert recalibrate(model, data[0]) == ["bn"]
    expect_pass(CHECK, model, *data)


@pytest.mark.thorough
def test_statistics_after_a_few_updates_without_targets(k, disagrees, data):
    model = classifier(k)
    model.fit(*data, epochs=3, batch_size=32, verbose=0)
    disagrees(model, data[0], rule=STALE, layer="bn")
    recalibrate(model, data[0])
    expect_pass(CHECK, model, data[0])


@pytest.mark.thorough
def test_more_updates_are_a_remedy(k, data):
    model = classifier(k)
    model.fit(*many(data, 100), epochs=3, batch_size=32, verbose=0)
    expect_pass(CHECK, model, *data)


@pytest.mark.thorough
def test_a_smaller_momentum_is_a_remedy(k, data):
    model = classifier(k, momentum=0.4)
    model.fit(*data, epochs=3, batch_size=32, verbose=0)
    expect_pass(CHECK, model, *data)


@pytest.mark.thorough
def test_one_stale_layer_of_two_is_named(k, disagrees, data):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(momentum=0.1, name="quick")(k.layers.Dense(8)(inputs))
    h = k.layers.Dense(8, activation="relu", bias_initializer="ones")(h)
    h = k.layers.BatchNormalization(momentum=0.99, name="slow")(h)
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(*data, epochs=3, batch_size=32, verbose=0)
    finding = disagrees(model, *data, rule=STALE, layer="slow")
    assert finding.table.rows[0][0] == "slow"
    slow, quick = finding.evidence["gap_by_layer"]
    assert (slow["layer"], quick["layer"]) == ("slow", "quick")
    assert slow["closes"] > 0.5 > quick["closes"]


@pytest.mark.thorough
def test_a_regression_without_decisions(k, disagrees, data):
    x, _ = data
    y = x.sum(1, keepdims=True)
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(name="bn")(k.layers.Dense(8)(inputs))
    model = k.Model(inputs, k.layers.Dense(1)(h))
    model.compile(k.optimizers.SGD(0.05), "mse")
    model.fit(x, y, epochs=10, batch_size=32, verbose=0)
    disagrees(model, x, y, rule=STALE, layer="bn")
    recalibrate(model, x)
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
def test_dropout_does_not_hide_stale_statistics(k, disagrees, data):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(name="bn")(k.layers.Dense(8)(inputs))
    h = k.layers.Dropout(0.5)(k.layers.ReLU()(h))
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(h))
    model.compile(k.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    model.fit(*data, epochs=5, batch_size=32, verbose=0)
    disagrees(model, *data, rule=STALE, layer="bn")


def test_a_custom_loop_that_trains_for_a_few_steps(k, disagrees, data):
    model = classifier(k)
    for _ in range(5):
        said = model(data[0], training=True)
    model.layers[-1].kernel.assign_add(0.1 * np.ones((8, 3), np.float32))
    learnt = np.argmax(said, axis=1)
    finding = disagrees(model, data[0], learnt, updates=5, rule=STALE, layer="bn")
    assert "95.1%" in finding.cause


def subclassed(k, passes_training):
    class Subclassed(k.Model):
        def __init__(self):
            super().__init__()
            self.bn, self.head = k.layers.BatchNormalization(name="bn"), k.layers.Dense(3)

    class WithoutArgument(Subclassed):
        def call(self, x):
            return self.head(self.bn(x))

    class WithArgument(Subclassed):
        def call(self, x, training=None):
            return self.head(self.bn(x, training=training))

    return WithArgument() if passes_training else WithoutArgument()


def trained(model, k, data):
    model.compile("sgd", k.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*many(data, 100), epochs=3, batch_size=32, verbose=0)
    return model


@pytest.mark.thorough
def test_a_model_without_the_training_argument_never_updates(k, disagrees, data):
    model = trained(subclassed(k, passes_training=False), k, data)
    if k is keras and not np.ptp(model.bn.moving_mean.numpy()):  # Keras 3.2 to 3.15
        cause = "training mode does not reach bn"
        disagrees(model, *data, rule=NEVER_UPDATED, layer="bn", cause_contains=cause)
    else:
        expect_pass(CHECK, model, *data)
    expect_pass(CHECK, trained(subclassed(k, passes_training=True), k, data), *data)


@pytest.mark.thorough
def test_a_mode_passed_on_the_wrong_way_round(k, disagrees, data):
    class TheOtherWayRound(k.Model):
        def __init__(self):
            super().__init__()
            self.bn, self.head = k.layers.BatchNormalization(name="bn"), k.layers.Dense(3)

        def call(self, x, training=None):
            return self.head(self.bn(x, training=not training))

    cause = "bn is given the wrong mode"
    model = trained(TheOtherWayRound(), k, data)
    for statistic, start in ((model.bn.moving_mean, 0), (model.bn.moving_variance, 1)):
        statistic.assign(
            np.full(statistic.shape, start, np.float32)
        )  # building a graph may have moved them
    disagrees(model, *data, rule=NEVER_UPDATED, layer="bn", cause_contains=cause)


@pytest.mark.thorough
def test_statistics_of_one_layer_of_two_at_their_start(k, data):
    layers = [k.layers.BatchNormalization(momentum=0.5, name=name) for name in ("one", "two")]
    model = k.Sequential([k.Input((4,)), layers[0], k.layers.Dense(8), layers[1]])
    model.add(k.layers.Dense(3))
    model = trained(model, k, data)
    for statistic, start in ((layers[1].moving_mean, 0), (layers[1].moving_variance, 1)):
        statistic.assign(np.full(statistic.shape, start, np.float32))
    x, y = data
    finding = expect_failure(CHECK, model, x, (y + 1) % 3, rule=NEVER_UPDATED, layer="two")
    assert "in a loop" not in finding.cause


def looped(k, model, data, training):
    x, y = data
    loss_of = k.losses.SparseCategoricalCrossentropy()
    optimizer = k.optimizers.SGD(0.1)
    for _ in range(10):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True) if training else model(x)
            loss = loss_of(y, outputs)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


@pytest.mark.thorough
def test_a_custom_loop_without_training(k, disagrees, data):
    model = classifier(k, momentum=0.1)
    for _ in range(3):
        looped(k, model, data, training=False)
    cause = "the steps ran in inference mode"
    finding = disagrees(model, *data, rule=NEVER_UPDATED, layer="bn", cause_contains=cause)
    assert "model(x, training=True)" in finding.remedy
    assert "recalibrate(model, x) alone may make it worse" in finding.remedy
    looped(k, model, data, training=True)
    expect_pass(CHECK, model, *data)


@pytest.mark.thorough
@pytest.mark.parametrize("lost", ["all", "the last"])
def test_statistics_that_were_lost_with_the_weights_kept(data, lost):
    """Training moved them: another fault than steps that never did, with another remedy."""
    inputs = keras.Input((4,))
    h = keras.layers.BatchNormalization(momentum=0.5, name="first")(inputs)
    h = keras.layers.BatchNormalization(momentum=0.5, name="last")(keras.layers.Dense(8)(h))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    x, y = data
    model.fit(x * 5 + 3, y, epochs=30, verbose=0)
    expect_pass(CHECK, model, x * 5 + 3, y)
    for name in ("first", "last") if lost == "all" else ("last",):
        bn = model.get_layer(name)
        bn.moving_mean.assign(0 * bn.moving_mean)
        bn.moving_variance.assign(0 * bn.moving_variance + 1)
    finding = expect_failure(
        CHECK, model, x * 5 + 3, y, rule=NEVER_UPDATED, layer=name if lost != "all" else "first"
    )
    assert "trained with other statistics" in finding.cause
    assert "save and load" in finding.remedy
    assert finding.remedy.endswith("or recalibrate(model, x)")


@pytest.mark.thorough
@pytest.mark.parametrize("copied", ["trainable_variables", "variables"])
def test_a_target_network_that_follows_the_weights(copied):
    """A step that is tried would move its statistics by much, at this momentum: it is undone."""

    def build():
        layers = keras.layers
        last = layers.Dense(3, activation="softmax")
        model = keras.Sequential(
            [keras.Input((4,)), layers.BatchNormalization(momentum=0.2, name="bn"), last]
        )
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        return model

    y = np.arange(96) % 3
    x = np.random.default_rng(0).normal(8 + 15 * np.eye(3, 4)[y], 5).astype(np.float32)
    model, target = build(), build()
    model.fit(x, y, batch_size=len(x), epochs=60, verbose=0)
    for own, followed in zip(getattr(target, copied), getattr(model, copied), strict=True):
        own.assign(followed)
    if copied == "variables":
        expect_pass(CHECK, target, x, y)
        return
    lost = "trained with other statistics"
    finding = expect_failure(CHECK, target, x, y, rule=NEVER_UPDATED, cause_contains=lost)
    assert "save and load" in finding.remedy


@pytest.mark.thorough
@pytest.mark.parametrize("known", ["targets", "nothing"])
def test_a_model_built_anew_without_the_statistics(data, known):
    """No count and no scale tells that it was trained: it knows its targets in training mode."""

    def build():
        inputs = keras.Input((4,))
        bn = keras.layers.BatchNormalization(momentum=0.5, center=False, scale=False, name="bn")
        model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(bn(inputs)))
        model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
        return model

    x, y = data[0] * 5 + 3, data[1]
    model, trained = build(), build()
    trained.fit(x, y, epochs=30, verbose=0)
    if known == "nothing":
        assert "never trained" in expect_verdict(CHECK, "vacuous", model, x, y).summary
        return
    model.layers[-1].set_weights(trained.layers[-1].get_weights())
    finding = expect_failure(CHECK, model, x, y, rule=NEVER_UPDATED, layer="bn", cause_tested=True)
    assert "trained with other statistics" in finding.cause
    expect_pass(CHECK, trained, x, y)
    assert "never trained" in expect_verdict(CHECK, "vacuous", model, x).summary


@pytest.mark.thorough
def test_random_weights_that_know_two_classes_by_luck():
    """Two groups far apart, told apart once their common offset is taken away."""
    y = np.arange(64) % 2
    noise = np.random.default_rng(0).normal(0, 0.3, (64, 6))
    x = (100 + 3 * y[:, None] + noise).astype(np.float32)
    lucky = 0
    for seed in range(12):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((6,))
        h = keras.layers.BatchNormalization()(keras.layers.Dense(64)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(h))
        model.compile("adam", "binary_crossentropy")
        lucky += float(model.compute_loss(x, y[:, None], model(x, training=True))) < 0.3
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.moving_mean.assign(np.zeros(64)), layer.moving_variance.assign(np.ones(64))
        assert "never trained" in expect_verdict(CHECK, "vacuous", model, x, y).summary
    assert lucky


@pytest.mark.thorough
def test_a_train_step_that_runs_in_inference_mode(data):
    def build(mode):
        inner = classifier(keras, momentum=0.1)
        model = Stepping(inner.inputs, inner.outputs)
        model.mode = mode
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(*many(data, 100), epochs=3, verbose=0)
        return model

    finding = expect_failure(
        CHECK,
        build(False),
        *data,
        rule=NEVER_UPDATED,
        layer="bn",
        cause_tested=True,
        cause_contains="a training step of the model's own runs bn in inference mode",
    )
    assert "recalibrate(model, x) alone may make it worse" in finding.remedy
    expect_pass(CHECK, build(True), *data)


@pytest.mark.thorough
@pytest.mark.parametrize("stopped", [True, False])
def test_a_momentum_of_one_while_the_weights_train_on(data, stopped):
    """Training normalises by the batch all the same: evaluation does not say what it says."""
    inputs = keras.Input((4,))
    h = keras.layers.BatchNormalization(momentum=0.5, name="bn")(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(h))
    x, y = many(data, 4)
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=1, verbose=0)
    model.get_layer("bn").momentum = 1.0 if stopped else 0.9
    model.make_train_function(force=True)
    model.fit(x, y, epochs=6, verbose=0)
    if not stopped:
        model.optimizer.learning_rate = 1e-4
        model.fit(x, y, epochs=8, verbose=0)
        expect_pass(CHECK, model, x, y)
        return
    finding = expect_failure(CHECK, model, x, y, rule="BN403", layer="bn", cause_tested=True)
    assert "momentum 1 keeps all" in finding.cause
    assert "trainable = False" in finding.remedy


def test_a_module_with_random_weights_was_never_trained(data):
    class Module(tf.Module):
        def __init__(self):
            super().__init__(name="module")
            first = np.random.default_rng(0).normal(size=(4, 6))
            self.kernel = tf.Variable(first.astype(np.float32))
            self.mean = tf.Variable(tf.zeros(6), trainable=False)
            self.variance = tf.Variable(tf.ones(6), trainable=False)

        def __call__(self, x, training=False):
            h = x @ self.kernel
            mean, variance = tf.nn.moments(h, 0) if training else (self.mean, self.variance)
            if training:
                self.mean.assign(0.9 * self.mean + 0.1 * mean)
                self.variance.assign(0.9 * self.variance + 0.1 * variance)
            return (h - mean) / tf.sqrt(variance + 1e-3)

    result = expect_verdict(CHECK, "vacuous", Module(), data[0])
    assert "never trained" in result.summary
    assert "updates=" in result.hint
    settings = {"updates": 100}
    assert "exactly their initial values" in str(
        expect_verdict(CHECK, "failed", Module(), data[0], **settings)
    )


def test_a_model_that_was_never_trained_is_vacuous(k, data):
    result = expect_verdict(CHECK, "vacuous", classifier(k), *data)
    assert "never trained" in result.summary
    assert "updates=" in result.hint


def digits(k, momentum):
    inputs = k.Input((8, 8, 1))
    h = inputs
    for number, filters in enumerate((8, 16), 1):
        h = k.layers.Conv2D(filters, 3, padding="same")(h)
        h = k.layers.ReLU()(k.layers.BatchNormalization(momentum=momentum, name=f"bn_{number}")(h))
        h = k.layers.MaxPooling2D()(h)
    model = k.Model(inputs, k.layers.Dense(10, activation="softmax")(k.layers.Flatten()(h)))
    model.compile(k.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return model


@pytest.mark.thorough
def test_statistics_that_lag_behind_the_weights(k, disagrees):
    images, y = load_digits(return_X_y=True)
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    model = digits(k, 0.99)
    model.fit(x, y, epochs=17, batch_size=64, verbose=0)  # 493 updates leave 0.7 %
    finding = disagrees(model, x, y, rule=LAGGING, batch_size=64)
    assert finding.layer in ("bn_1", "bn_2")
    recalibrate(model, x, batch_size=64)
    expect_pass(CHECK, model, x, y, batch_size=64)


@pytest.mark.thorough
def test_few_quick_updates_of_a_trained_net(k, disagrees):
    """The 13 steps of another training keep most of the statistics of the weights before."""
    k.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 3, 400)
    x = rng.normal(size=(3, 10))[kind] * 1.3 + rng.normal(size=(400, 10))
    x = x.astype(np.float32)
    y = {"kind": kind, "size": x[:, :1] * x[:, 1:2]}
    inputs = h = k.Input((10,))
    layers = [k.layers.BatchNormalization(momentum=0.95) for _ in range(2)]
    for layer in layers:
        h = k.layers.ReLU()(layer(k.layers.Dense(32)(h)))
    kinds = k.layers.Dense(3, activation="softmax", name="kind")(h)
    model = k.Model(inputs, {"kind": kinds, "size": k.layers.Dense(1, name="size")(h)})
    loss = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile(k.optimizers.Adam(3e-3), loss)
    model.fit(x, y, epochs=12, batch_size=32, verbose=0)
    model.optimizer.learning_rate.assign(3e-4)
    model.fit(x, y, epochs=4, batch_size=32, verbose=0)
    for layer in layers:
        layer.momentum = 0.99
    model.compile(k.optimizers.Adam(0.02), loss)
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    finding = disagrees(model, x, y, rule=LAGGING)
    assert "13 more training steps from the population statistics" in finding.tested


@pytest.mark.thorough
def test_one_of_two_domains_alone_establishes_nothing(k, data):
    """A GAN's discriminator sees real and generated rows in turns: here are the real ones only."""
    x, _ = data
    model = classifier(k, momentum=0.5)
    for _ in range(50):
        model(x, training=True)
        model(-x, training=True)
    finding = expect_failure(
        CHECK, model, x, rule="BN204", layer="bn", cause_tested=False, updates=100
    )
    assert "not established" in finding.cause
    recalibrate(model, x)
    expect_pass(CHECK, model, x, updates=100)


@pytest.mark.thorough
def test_evaluation_data_that_were_scaled_otherwise(k, disagrees, data):
    x, y = data
    model = classifier(k, momentum=0.9)
    model.fit(*many(data, 50), epochs=1, batch_size=32, verbose=0)
    cause = "the statistics are those of x / 255"
    disagrees(model, x * 255, y, rule=SHIFT, layer="bn", cause_contains=cause)
    expect_pass(CHECK, model, x, y)


def test_an_evaluation_that_is_not_a_number(k, data):
    model = classifier(k)
    model.fit(*data, verbose=0)
    bn = model.get_layer("bn")
    bn.moving_mean.assign(np.full(8, np.nan, np.float32))
    expect_verdict(CHECK, "failed", model, *data)


def test_a_layer_that_holds_a_normaliser_and_draws_by_itself(k, data):
    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(3)(drawing_block(k)(inputs)))
    for _ in range(5):
        model(data[0], training=True)
    expect_failure(CHECK, model, data[0], updates=5, rule=STALE, layer="block/bn")


def test_a_normaliser_of_each_timestep(k):
    """Ten timesteps are ten updates a step, and still too few."""
    x = np.random.default_rng(0).normal(3, 2, (64, 5, 4)).astype(np.float32)
    inputs = k.Input((5, 4))
    bn = k.layers.TimeDistributed(k.layers.BatchNormalization(name="bn"), name="each")
    model = k.Model(inputs, k.layers.Dense(2)(bn(inputs)))
    for _ in range(3):
        model(x, training=True)
    assert np.ptp(model.get_layer("each").layer.moving_mean.numpy()) > 0
    expect_failure(CHECK, model, x, updates=3, rule=STALE, layer="each/bn")
