"""Inference that draws random numbers: found whatever the seed, however rare they matter."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "inference_purity"
SEEDS = 2


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def rare(h):
    """A row is dropped, one in a thousand."""
    return tf.where(tf.random.uniform((tf.shape(h)[0], 1)) < 0.001, 0.0, h)


def one_choice(h):
    """The whole batch is turned around, every second time."""
    return tf.cond(tf.random.uniform(()) < 0.5, lambda: h, lambda: -h)


def rare_class(h):
    return h + tf.cast(tf.random.categorical([[0.0, -9.0]], 1), h.dtype)


def whole_number(h):
    return h + tf.cast(tf.random.uniform((), 0, 1000, tf.int32) == 0, h.dtype)


def never(h):
    """What is drawn never counts."""
    return tf.where(tf.random.uniform((tf.shape(h)[0], 1)) < 0.0, 0.0, h) + 0 * tf.random.normal(
        ()
    )


def model_of(k, draw, in_training_only=False):
    class Own(k.layers.Layer):
        def call(self, h, training=None):
            return draw(h) if training or not in_training_only else h

    inputs = k.Input((4,))
    return k.Model(inputs, k.layers.Dense(2)(Own(name="own")(inputs)))


def rules_of(model, x):
    report = check_consistency(model, x, checks=["batch_invariance", CHECK])
    return [(result.verdict, [f.rule for f in result.findings]) for result in report]


@pytest.mark.thorough
@pytest.mark.parametrize("draw", [rare, one_choice, rare_class, whole_number])
def test_the_same_verdict_and_rule_for_every_seed(k, x, draw):
    for seed in range(SEEDS):
        k.utils.set_random_seed(seed)
        assert rules_of(model_of(k, draw), x) == [("vacuous", []), ("failed", ["BN002"])]
    found = expect_failure(CHECK, model_of(k, draw), x, rule="BN002", layer="own")
    assert found.remedy.startswith("draw random numbers in training mode only")
    assert {"predict", "model(x)"} <= set(found.evidence["random"])


@pytest.mark.thorough
@pytest.mark.parametrize("draw", [never, one_choice])
def test_draws_that_never_count_in_inference(k, x, draw):
    for check in ("batch_invariance", CHECK):
        expect_pass(check, model_of(k, draw, in_training_only=draw is not never), x)


def of_a_seed(seed, h):
    return h + 0.1 * tf.random.stateless_normal((1, 4), seed)


def of_a_constant(variable, h):
    return of_a_seed([1, 2], h)


def of_a_variable_that_stays(variable, h):
    return of_a_seed(tf.stack([variable, 2]), h)


def of_its_rows(variable, h):
    """Each row draws from a seed that it gives itself."""
    seeds = tf.cast(1000 * h[:, :2], tf.int32)
    return h + tf.map_fn(
        lambda seed: tf.random.stateless_uniform((4,), seed), seeds, fn_output_signature=tf.float32
    )


def of_a_variable_that_moves(variable, h):
    return of_a_seed(tf.stack([variable.assign_add(1), 2]), h)


def in_a_branch(variable, h):
    seed = tf.stack([variable.assign_add(1), 2])
    return tf.cond(tf.reduce_sum(h) < 1e9, lambda: of_a_seed(seed, h), lambda: h)


def of_a_generator(variable, h, generator=keras.random.SeedGenerator(0)):  # noqa: B008 - for all
    return h + keras.random.normal((1, 4), seed=generator)


@pytest.mark.parametrize(
    ("draw", "rules"),
    [
        (of_a_constant, []),
        (of_a_variable_that_stays, []),
        (of_its_rows, []),
        (of_a_variable_that_moves, ["BN001", "BN002"]),
        (in_a_branch, ["BN001", "BN002"]),
        (of_a_generator, ["BN002"]),
    ],
)
def test_what_is_drawn_from_a_seed_is_random_if_the_seed_moves(x, draw, rules):
    variable = tf.Variable(1)  # that no layer holds
    model = model_of(keras, lambda h: draw(variable, h))
    if rules:
        assert rules_of(model, x) == [("vacuous", []), ("failed", rules)]
    else:
        assert rules_of(model, x) == [("passed", []), ("passed", [])]


@pytest.mark.parametrize("draw", [rare, never])
def test_draws_of_a_step_of_the_models_own(k, x, draw):
    class Model(k.Model):
        def predict_step(self, data):
            return draw(super().predict_step(data))

    inputs = k.Input((4,))
    model = Model(inputs, k.layers.Dense(2)(inputs))
    if draw is never:
        expect_pass(CHECK, model, x)
        return
    found = expect_failure(CHECK, model, x, rule="BN002")
    assert "predict" in found.evidence["random"]
    assert "model(x)" not in found.evidence["random"]


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [2, 8])
def test_augmentation_in_front_of_a_frozen_base(rows):
    pictures = np.random.default_rng(0).standard_normal((rows, 8, 8, 3)).astype(np.float32)
    layers = keras.layers
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        base = keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.BatchNormalization()]
        )
        inputs = keras.Input((8, 8, 3))
        flipped = layers.RandomFlip("horizontal", name="flip")(inputs)
        h = layers.Flatten()(base(flipped, training=False))
        model = keras.Model(inputs, layers.Dense(2)(h))
        found = expect_failure(CHECK, model, pictures, rule="BN002", layer="flip")
        assert found.evidence["random"] == ["model(x)"]
        assert found.remedy.startswith("call the model with training=False for inference, model(")
        assert [rules for _, rules in rules_of(model, pictures)] == [[], ["BN002"]]
    # As users call it where it must not augment.
    expect_pass(CHECK, lambda x, training=False: model(x, training=training), pictures)


@pytest.mark.thorough
@pytest.mark.parametrize("generator", ["numpy", "fixed"])
def test_an_operation_that_is_not_known_to_draw(x, generator):
    rng = np.random.default_rng(0)

    def drawn(h):
        noise = rng.normal(size=h.shape) if generator == "numpy" else np.full(h.shape, 0.5)
        return h + noise.astype(np.float32)

    def own(h):
        given = tf.numpy_function(drawn, [h], tf.float32)
        return tf.ensure_shape(given, (None, 4))

    model = model_of(keras, own)
    if generator == "fixed":
        expect_pass(CHECK, model, x)
        return
    found = expect_failure(CHECK, model, x, rule="BN002", layer="own", cause_tested=True)
    assert "PyFunc" in found.cause
    rules = [f.rule for f in check_consistency(model, x, checks=[CHECK])[CHECK].findings]
    assert rules == ["BN002"]


class Flips(keras.Model):
    """Test-time augmentation in a step of the model's own: by chance, or all of it."""

    def __init__(self, by_chance):
        super().__init__()
        self.dense, self.by_chance = keras.layers.Dense(2), by_chance

    def call(self, h):
        return self.dense(h)

    def predict_step(self, data):
        rows = data[0] if isinstance(data, tuple) else data
        turned = tf.reverse(rows, [1])
        if self.by_chance:
            turned = tf.where(tf.random.uniform(()) < 0.5, turned, rows)
        return self(rows, training=False) + self(turned, training=False)


def test_a_step_of_the_model_s_own_that_draws(x):
    """No layer draws: the step is named, and its twin adds what nobody calls random."""

    def build(by_chance):
        model = Flips(by_chance)
        model(x)
        return model

    found = expect_failure(
        CHECK, build(True), x, rule="BN002", layer="predict_step", cause_tested=True
    )
    assert "Flips.predict_step draws random numbers" in found.cause
    assert expect_pass(CHECK, build(False), x).warnings
