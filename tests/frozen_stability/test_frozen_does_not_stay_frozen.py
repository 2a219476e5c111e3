"""Each test freezes a part of a model wrongly, sees it found, mends it and sees it pass."""

import keras
import pytest
import tensorflow as tf
import tf_keras
from small_models import moved_by_fit

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "frozen_stability"


def base_of(k, normaliser=None):
    bn = normaliser or k.layers.BatchNormalization(name="bn")
    return k.Sequential([k.Input((4,)), k.layers.Dense(4, name="dense"), bn], name="base")


def transfer(k, base, **call):
    inputs = k.Input((4,))
    outputs = k.layers.Dense(3, activation="softmax", name="head")(base(inputs, **call))
    model = k.Model(inputs, outputs)
    compiled(model)
    return model


def compiled(model):
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)


def test_training_false_is_ignored_by_fit(x, y):
    base = base_of(keras)
    model = transfer(keras, base, training=False)
    if not moved_by_fit(model, x, y, "bn"):  # as in Keras 3.16
        expect_pass(CHECK, model, x, y)
        return
    finding = expect_failure(
        CHECK,
        model,
        x,
        y,
        rule="BN303",
        layer="base/bn",
        cause_tested=True,
        cause_contains="in spite of training=False in the call of base",
    )
    assert "trainable = False" in finding.remedy
    base.layers[-1].trainable = False
    compiled(model)
    expect_pass(CHECK, model, x, y)


def test_training_false_holds_in_tf_keras(x, y):
    expect_pass(CHECK, transfer(tf_keras, base_of(tf_keras), training=False), x, y)


@pytest.mark.thorough
def test_frozen_after_fit_without_compiling_again(k, x, y):
    base = base_of(k)
    model = transfer(k, base)
    model.fit(x, y, batch_size=8, verbose=0)
    base.trainable = False
    expect_failure(
        CHECK, model, x, y, rule="BN304", cause_tested=True, cause_contains="compiled before"
    )
    compiled(model)
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [8, 32])
def test_frozen_after_train_on_batch_without_compiling_again(k, x, y, size):
    """As in a GAN's own loop: `fit` would trace its step anew."""
    base = base_of(k)
    model = transfer(k, base)
    model.train_on_batch(x, y)
    base.trainable = False
    expect_failure(CHECK, model, x, y, rule="BN304", cause_tested=True, batch_size=size)
    compiled(model)
    model.train_on_batch(x, y)
    expect_pass(CHECK, model, x, y, batch_size=size)


@pytest.mark.thorough
def test_a_step_that_trains_without_targets(k, x):
    class Own(k.Model):
        def train_step(self, data):
            x = data[0] if isinstance(data, tuple) else data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - 1) ** 2)
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    base = base_of(k)
    base.trainable = False
    inputs = k.Input((4,))
    model = Own(inputs, k.layers.Dense(4)(base(inputs)))
    model.compile("sgd", jit_compile=False)
    assert expect_pass(CHECK, model, x).evidence["steps"]["path"] == "fit"
    model.fit(x, verbose=0)
    base.layers[-1].trainable = True
    base.trainable = True
    model.compile("sgd", jit_compile=False)
    model.fit(x, verbose=0)
    base.trainable = False
    expect_failure(CHECK, model, x, rule="BN304")


def test_a_step_that_trains_another_model(k, x, y):
    base = base_of(k)
    base.trainable = False
    model, other = transfer(k, base), transfer(k, base_of(k))

    def step(x, y):
        other.train_on_batch(x, y)

    result = expect_verdict(CHECK, "vacuous", model, x, y, train_step=step)
    assert "train_step changed no variable of this model" in result.summary
    expect_pass(CHECK, model, x, y, train_step=lambda x, y: model.train_on_batch(x, y))


@pytest.mark.thorough
def test_one_layer_frozen_after_fit_without_compiling_again(k, x, y):
    base = base_of(k)
    model = transfer(k, base)
    model.fit(x, y, batch_size=8, verbose=0)
    base.layers[-1].trainable = False
    expect_failure(CHECK, model, x, y, rule="BN304", layer="base/bn", cause_tested=True)
    compiled(model)
    expect_pass(CHECK, model, x, y)


def frozen_again(k, base):
    base.trainable = False
    return transfer(k, base)


@pytest.mark.thorough
def test_unfreezing_the_base_unfreezes_its_normalisers(k, x, y):
    base = base_of(k)
    base.trainable = False
    base.trainable = True  # for fine-tuning
    model = transfer(k, base)
    expect_verdict(CHECK, "not applicable", model, x, y)
    expect_failure(
        CHECK,
        model,
        x,
        y,
        frozen="base/bn",
        rule="BN306",
        layer="base/bn",
        cause_tested=True,
        cause_contains="says frozen, but the layer's own flag is True",
        remedy=lambda _: frozen_again(k, base),
    )


def home_made(k, *, respects_trainable, tracked):
    """A layer with a moving mean, in a weight or in a variable that Keras doesn't know."""

    class Own(k.layers.Layer):
        def build(self, shape):
            if tracked:
                self.mean = self.add_weight(
                    name="mean", shape=(shape[-1],), initializer="zeros", trainable=False
                )
            else:
                self.hidden = {"mean": tf.Variable(tf.zeros(shape[-1]), trainable=False)}
            self.built = True

        def call(self, x, training=None):
            mean = self.mean if tracked else self.hidden["mean"]
            if not training or (respects_trainable and not self.trainable):
                return x - mean
            batch = tf.reduce_mean(x, 0)
            mean.assign(0.9 * tf.convert_to_tensor(mean) + 0.1 * batch)
            return x - batch

    return Own(name="norm")


@pytest.mark.parametrize("tracked", [True, False], ids=["weight", "untracked variable"])
def test_a_home_made_normaliser_that_ignores_trainable(k, x, y, tracked):
    def build(respects):
        base = base_of(k, home_made(k, respects_trainable=respects, tracked=tracked))
        base.trainable = False
        return transfer(k, base)

    expect_failure(
        CHECK,
        build(False),
        x,
        y,
        rule="BN301",
        layer="base/norm",
        cause_tested=True,
        cause_contains="does not look at trainable",
    )
    expect_pass(CHECK, build(True), x, y)


@pytest.mark.thorough
def test_a_pattern_on_a_normaliser_that_no_flag_freezes(k, x, y):
    """Its state moves with trainable=False as well: that is not called the remedy."""

    def build(respects):
        base = base_of(k, home_made(k, respects_trainable=respects, tracked=True))
        base.layers[0].trainable = False
        return transfer(k, base)

    finding = expect_failure(
        CHECK,
        build(False),
        x,
        y,
        frozen="base/norm",
        rule="BN306",
        layer="base/norm",
        cause_tested=True,
        cause_contains="with trainable=False its state moves as well",
    )
    assert "if training and self.trainable" in finding.remedy
    finding = expect_failure(CHECK, build(True), x, y, frozen="base/norm", rule="BN306")
    assert finding.cause_tested
    assert "moves as well" not in finding.cause


@pytest.mark.thorough
def test_a_frozen_normaliser_of_the_first_version_uses_the_batch(x, y):
    from tf_keras.src.layers.normalization import batch_normalization_v1 as v1

    def build(normaliser):
        base = base_of(tf_keras, normaliser)
        base.trainable = False
        return transfer(tf_keras, base)

    finding = expect_failure(
        CHECK,
        build(v1.BatchNormalization(name="bn")),
        x,
        y,
        rule="BN302",
        layer="base/bn",
        cause_tested=True,
        cause_contains="normalises by the batch",
    )
    assert "V2" in finding.remedy
    expect_pass(CHECK, build(tf_keras.layers.BatchNormalization(name="bn")), x, y)


def test_a_child_left_trainable_under_a_frozen_parent(k, x, y):
    base = base_of(k)
    base.trainable = False
    base.layers[-1].trainable = True
    model = transfer(k, base)
    finding = expect_failure(
        CHECK,
        model,
        x,
        y,
        rule="BN305",
        layer="base/bn",
        cause_tested=True,
        cause_contains="trainable=False on base, but the layer's own flag is True",
    )
    base.layers[-1].trainable = False
    compiled(model)
    expect_pass(CHECK, model, x, y)
    assert (
        "where it is to train, trainable = True on the parent and False on all" in finding.remedy
    )
    base.trainable = True
    for layer in base.layers[:-1]:
        layer.trainable = False
    compiled(model)
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
def test_a_pattern_of_the_user_on_layers_that_nobody_froze(k, x, y):
    base = base_of(k)
    model = transfer(k, base)
    finding = expect_failure(
        CHECK,
        model,
        x,
        y,
        frozen="base/*",
        rule="BN306",
        cause_tested=True,
        remedy=lambda _: frozen_again(k, base),
    )
    assert finding.evidence["layers"] == ["base/dense", "base/bn"]


@pytest.mark.parametrize("pattern", ["base/*", "base/bn"])
def test_freezing_by_flag_is_the_remedy_for_a_pattern(k, x, y, pattern):
    base = base_of(k)
    base.trainable = False
    expect_pass(CHECK, transfer(k, base), x, y, frozen=pattern)


def test_a_step_function_that_trains_frozen_weights(k, x, y):
    base = base_of(k)
    base.trainable = False
    model = transfer(k, base)
    loss_of = k.losses.SparseCategoricalCrossentropy()

    def step(variables):
        def train_step(x, y):
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
                variable.assign_sub(0.1 * gradient)

        return train_step

    everything = [model.layers[1].layers[0].kernel, model.layers[2].kernel]
    expect_failure(
        CHECK, model, x, y, train_step=step(everything), rule="BN301", layer="base/dense"
    )
    expect_pass(CHECK, model, x, y, train_step=step(model.trainable_variables))


@pytest.mark.thorough
def test_a_train_step_of_the_model_that_trains_frozen_weights(x, y):
    def build(attribute):
        class Own(keras.Model):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = self.compute_loss(x, y, self(x, training=True))
                weights = list(getattr(self, attribute))
                for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
                    weight.assign(weight - 0.1 * gradient)
                return {"loss": loss}

        inputs = keras.Input((4,))
        frozen = keras.layers.Dense(4, name="frozen")
        outputs = keras.layers.Dense(3, activation="softmax", name="head")(frozen(inputs))
        model = Own(inputs, outputs)
        frozen.trainable = False
        compiled(model)
        return model

    expect_failure(CHECK, build("weights"), x, y, rule="BN301", layer="frozen")
    expect_pass(CHECK, build("trainable_weights"), x, y)


def test_a_frozen_normaliser_inside_a_home_made_layer(k, x, y):
    def build(respects):
        class Block(k.layers.Layer):
            def __init__(self):
                super().__init__(name="block")
                self.norm = home_made(k, respects_trainable=respects, tracked=True)

            def build(self, shape):
                self.norm.build(shape)
                self.built = True

            def call(self, x, training=None):
                return self.norm(x, training=training)

        base = base_of(k, Block())
        base.trainable = False
        return transfer(k, base)

    expect_failure(CHECK, build(False), x, y, rule="BN301", layer="base/block/norm")
    expect_pass(CHECK, build(True), x, y)


def test_a_default_of_the_layers_own_declares_nothing(k, x, y):
    class Own(k.layers.Layer):
        def build(self, shape):
            self.mean = self.add_weight(
                name="mean", shape=(shape[-1],), initializer="zeros", trainable=False
            )
            self.built = True

        def call(self, x, training=False):
            if training:
                self.mean.assign(0.9 * tf.convert_to_tensor(self.mean) + 0.1)
            return x - self.mean

    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(Own(name="own")(inputs)))
    compiled(model)
    expect_verdict(CHECK, "not applicable", model, x, y)
