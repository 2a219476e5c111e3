"""A frozen layer that gives something else in training mode: by the batch, or row by row."""

import keras
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK, BY_MODE, CHILD = "frozen_stability", "BN302", "BN305"


def stateless(h):
    kept = tf.random.stateless_uniform(tf.shape(h), seed=[1, 2]) > 0.3
    return tf.where(kept, h, 0.0)


def in_a_function(h):
    return tf.function(stateless)(h)


def seeded(h):
    return h + keras.random.normal(tf.shape(h), seed=11)


def softened(h):
    return tf.nn.softmax(3 * h)


def centred(h):
    return h - tf.reduce_mean(h, 0)


def model_of(k, in_training, *, inner=None):
    """A frozen block with a weight of its own; `inner` is a layer that it calls."""

    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.inner = inner

        def build(self, shape):
            identity = k.initializers.Identity()
            self.kernel = self.add_weight(name="kernel", shape=(4, 4), initializer=identity)
            super().build(shape)

        def call(self, x, training=None):
            h = tf.convert_to_tensor(x) @ tf.convert_to_tensor(self.kernel)
            h = h if inner is None else self.inner(h, training=training)
            return in_training(h) if training and in_training else h

    block, inputs = Block(), k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(block(inputs)))
    block.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model


@pytest.mark.parametrize(
    ("k", "drawn"),
    [(keras, seeded), (keras, stateless), (tf_keras, stateless), (tf_keras, in_a_function)],
)
def test_random_numbers_of_a_seed_that_stays(k, drawn, x, y):
    """They tell the modes apart as those of dropout do, and that is no fault."""
    expect_pass(CHECK, model_of(k, drawn), x, y)


@pytest.mark.parametrize(
    ("in_training", "cause", "remedy"),
    [
        (centred, "normalises by the batch", "training=False"),
        (softened, "each row by itself", "by the option ignore"),
    ],
)
def test_what_a_frozen_layer_does_in_training_mode(k, in_training, cause, remedy, x, y):
    said = {"layer": "block", "cause_tested": True, "cause_contains": cause}
    finding = expect_failure(CHECK, model_of(k, in_training), x, y, rule=BY_MODE, **said)
    assert remedy in finding.remedy
    assert "one by one" in finding.tested
    expect_pass(CHECK, model_of(k, None), x, y)


@pytest.mark.thorough
def test_a_block_is_not_blamed_for_the_layer_inside(k, x, y):
    inner = k.layers.BatchNormalization(name="inner")
    model = model_of(k, None, inner=inner)
    inner.trainable = True
    expect_failure(
        CHECK,
        model,
        x,
        y,
        rule=CHILD,
        layer="block/inner",
        cause_tested=True,
        without=[BY_MODE],
    )
    inner.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    expect_pass(CHECK, model, x, y)


@pytest.mark.parametrize("nested", [True, False])
def test_a_frozen_layer_without_variables_that_uses_its_batch(k, nested, x, y):
    class OfBatch(k.layers.Layer):
        def __init__(self, in_training, *, minds_flag=False):
            super().__init__(name="of_batch")
            self.in_training, self.minds_flag = in_training, minds_flag

        def call(self, h, training=None):
            frozen = self.minds_flag and not self.trainable
            return self.in_training(tf.convert_to_tensor(h)) if training and not frozen else h

    def model_with(layer):
        inside = [k.layers.Dense(6), layer, k.layers.ReLU()]
        base = k.Sequential([k.Input((4,)), *inside], name="base")
        held = [base] if nested else base.layers
        head = k.layers.Dense(3, activation="softmax")
        model = k.Sequential([k.Input((4,)), *held, head])
        for frozen in held:
            frozen.trainable = False
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    path = "base/of_batch" if nested else "of_batch"
    model = model_with(OfBatch(centred))
    finding = expect_failure(CHECK, model, x, y, rule=BY_MODE, layer=path, cause_tested=True)
    assert "it has no variables" in finding.cause
    for sound in (OfBatch(centred, minds_flag=True), OfBatch(lambda h: h / 2)):
        expect_pass(CHECK, model_with(sound), x, y)
