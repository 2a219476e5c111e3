"""Inference in training mode: the step, the default or the call that asked for it is named."""

import keras
import numpy as np
import pytest
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

PURE, BATCH = "inference_purity", "batch_invariance"


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(3, 2, (32, 4)).astype(np.float32)


def of_inputs(data):
    return data[0] if isinstance(data, tuple) else data


def compiled(k, rows, **methods):
    """A model with these methods of its own, in a class that a model's class is derived from."""
    own = type("Own", (k.Model,), methods)
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    model = type("Derived", (own,), {})(inputs, k.layers.Dense(1)(bn(inputs)))
    model.compile("sgd", "mse")
    return model


def scores(told):
    def test_step(self, data):
        x, y = data[:2]
        return {"loss": self.compute_loss(x, y, self(x, training=told))}

    return test_step


def predicts(told):
    return lambda self, data: self(of_inputs(data), training=told)


def through_call(told):
    return lambda self, data: self.call(of_inputs(data), training=told)


@pytest.mark.thorough
@pytest.mark.parametrize("step", [predicts, through_call])
def test_a_predict_step_that_trains(k, rows, step):
    model = compiled(k, rows, predict_step=step(True))
    if k is not keras and step is through_call:
        expect_pass(PURE, model, rows)  # tf_keras hands the mode on by the model's __call__ only
        return
    found = expect_failure(
        PURE, model, rows, rule="BN001", layer="predict_step", cause_tested=True
    )
    assert found.cause == "the model's own Own.predict_step runs the layers in training mode"
    assert found.remedy == "in predict_step, call the model with training=False"
    assert found.evidence["layers"] == ["bn"]
    expect_failure(
        BATCH, model, rows, rule="BN102", layer="predict_step", cause_contains="Own.predict_step"
    )
    for check in (PURE, BATCH):
        expect_pass(check, compiled(k, rows, predict_step=step(False)), rows)


def test_a_test_step_that_trains_beside_steps_that_do_not(k, rows):
    """Each of the model's own steps is undone by itself."""

    def built(told):
        return compiled(k, rows, test_step=scores(told), predict_step=predicts(False))

    found = expect_failure(
        PURE, built(True), rows, rows[:, :1], rule="BN001", layer="test_step", cause_tested=True
    )
    assert found.cause == "the model's own Own.test_step runs the layers in training mode"
    assert found.evidence["moves"] == ["evaluate"]
    expect_pass(PURE, built(False), rows, rows[:, :1])


def test_a_step_that_is_set_on_the_model(k, rows):
    model = compiled(k, rows)
    model.predict_step = lambda data: model(of_inputs(data), training=True)
    found = expect_failure(PURE, model, rows, rule="BN001", layer="predict_step")
    assert "set on the model itself" in found.cause


def head():
    layers = [keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization(name="bn")]
    return keras.Sequential(layers, name="head")


def nested(h_of):
    inputs, outer = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    inner = keras.Model(inputs, h_of(inputs), name="inner")
    return keras.Model(outer, keras.layers.Conv2D(1, 1)(inner(outer)))


def flat(h_of):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, h_of(inputs))


def crop(h):
    return keras.layers.CenterCrop(4, 4, name="first")(h)


def resize(h):
    return keras.layers.Resizing(4, 4, name="first")(h)


def shifted(h):
    """Two layers with such a default: undoing the last one alone undoes it."""
    first = keras.layers.RandomBrightness(0.0, name="first")
    return keras.layers.RandomContrast(0.0, name="second")(first(h))


def defaults_reach(model):
    """Whether this Keras hands the default of one layer on to the next."""
    pictures = np.zeros((2, 8, 8, 3), np.float32)
    bn = next(layer for layer in model._flatten_layers() if layer.name == "bn")
    before = bn.moving_variance.numpy()
    model(pictures)
    moved = not np.array_equal(before, bn.moving_variance.numpy())
    bn.moving_variance.assign(before)
    return moved


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("around", "default", "path"),
    [(nested, crop, "inner/first"), (flat, resize, "first"), (nested, shifted, "inner/second")],
)
def test_a_default_that_reaches_through_nested_models(around, default, path):
    model = around(lambda h: head()(default(h)))
    if not defaults_reach(model):
        expect_pass(PURE, model)
        return
    cause = f"because {path}'s call defaults to training=True"
    for check, rule in ((PURE, "BN001"), (BATCH, "BN102")):
        found = expect_failure(check, model, rule=rule, cause_tested=True, cause_contains=cause)
        assert found.layer.endswith("head/bn")
        assert "model(x, training=False)" in found.remedy
        assert f"give {path} training=False where it is called" in found.remedy
        expect_pass(check, around(lambda h: head()(h)))


@pytest.mark.thorough
def test_a_call_that_asks_for_training_behind_a_default():
    """The default does nothing: the call that follows says itself what to do."""
    model = flat(lambda h: head()(resize(h), training=True))
    for check, rule in ((PURE, "BN001"), (BATCH, "BN102")):
        cause = "because head is called with training=True"
        expect_failure(check, model, rule=rule, cause_contains=cause)


def told_to_train(*layers, asked=True):
    def through(h):
        for layer in layers:
            h = layer(h, training=asked)
        return h

    return through


def frozen():
    return keras.layers.BatchNormalization(trainable=False, name="frozen")


def drop():
    return keras.layers.Dropout(0.0, name="drop")


@pytest.mark.thorough
@pytest.mark.parametrize("asked", [(frozen,), (drop, frozen)])
@pytest.mark.parametrize("norm", [head, lambda: keras.layers.BatchNormalization(name="bn")])
def test_training_that_is_asked_for_of_layers_that_it_does_not_touch(asked, norm):
    """In some versions of Keras, what one call asks for reaches the layers after it."""
    model = flat(lambda h: norm()(told_to_train(*(make() for make in asked))(h)))
    if not defaults_reach(model):
        expect_pass(PURE, model)
        return
    for check, rule in ((PURE, "BN001"), (BATCH, "BN102")):
        found = expect_failure(check, model, rule=rule, cause_tested=True)
        assert found.layer.endswith("bn")
        assert "because frozen is called with training=True" in found.cause
        assert "take training=True out of the call" in found.remedy
    twin = flat(lambda h: norm()(told_to_train(frozen(), asked=None)(h)))
    expect_pass(PURE, twin)


@pytest.mark.thorough
def test_training_that_two_calls_ask_for():
    """One reaches each layer: only both together undo it."""

    def twice(h):
        for name in ("left", "right"):
            h = keras.layers.Dropout(0.0, name=name)(h, training=True)
            h = keras.layers.BatchNormalization(name="bn" if name == "left" else "bn2")(h)
        return h

    model = flat(twice)
    if defaults_reach(model):
        cause = "because left and right are called with training=True"
        expect_failure(PURE, model, rule="BN001", layer="bn", cause_contains=cause)


@pytest.mark.thorough
def test_training_that_is_asked_for_where_inference_is_not_let_be(x):
    """One of two calls of a tower asks for training: to tell the model otherwise is no remedy."""

    def build(**asked):
        left, right = (tf_keras.Input((4,)) for _ in range(2))
        norm = tf_keras.layers.BatchNormalization(name="norm")
        tower = tf_keras.Sequential([tf_keras.layers.Dense(4), norm], name="tower")
        both = tf_keras.layers.Concatenate()([tower(left), tower(right, **asked)])
        return tf_keras.Model([left, right], tf_keras.layers.Dense(2)(both))

    for check, rule in ((PURE, "BN001"), (BATCH, "BN102")):
        found = expect_failure(check, build(training=True), [x, -x], rule=rule, cause_tested=True)
        assert "because tower is called with training=True" in found.cause
        assert found.remedy.startswith("take training=True out of the call")
        expect_pass(check, build(), [x, -x])


def test_a_default_of_another_name(k, x):
    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.norm = k.layers.BatchNormalization(name="norm")

        def call(self, x, is_training=True):
            return self.norm(x, training=is_training)

    model = k.Sequential([k.Input((4,)), k.layers.Dense(3), Block()])
    found = expect_failure(BATCH, model, x, rule="BN102", layer="block/norm", cause_tested=True)
    assert "because block's call defaults to is_training=True" in found.cause
