"""Hypothesis makes the batch that fails, shrinks it, and says it in a few words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import strategies
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"


def model_with(k, function, shape=(4,)):
    class Own(k.layers.Layer):
        def call(self, x):
            return function(x)

    inputs = k.Input(shape)
    h = Own(name="leak")(inputs)
    return k.Model(inputs, k.layers.Dense(3, name="head")(h))


def sized(*sizes):
    return lambda x: x * tf.where(tf.reduce_any(tf.equal(tf.shape(x)[0], sizes)), 2.0, 1.0)


def one_mod_eight(x):
    return x * tf.where(tf.shape(x)[0] % 8 == 1, 2.0, 1.0)


FAULTS = {
    "2 rows; row 1 constant 100": ("BN101", lambda x: tf.where(tf.reduce_max(x) > 50, x + 1, x)),
    "2 rows; row 1 constant -100": ("BN101", lambda x: tf.where(tf.reduce_min(x) < -50, x + 1, x)),
    "2 rows; row 1 zero with nan": ("BN101", lambda x: x + 0 * tf.reduce_mean(x, 0)),
    "1 row of random 1": ("BN104", one_mod_eight),
    "9 rows of random 1": ("BN104", sized(9, 17)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", FAULTS)
def test_the_simplest_batch_that_fails(recipe):
    rule, function = FAULTS[recipe]
    model = model_with(keras, function)
    finding = expect_failure(CHECK, model, rule=rule, examples=100)
    assert finding.recipe == recipe
    assert finding.code == f"x = strategies.from_recipe(model, {recipe!r})"
    replayed = expect_failure(CHECK, model, rule=rule, replay=recipe)
    assert replayed.recipe == recipe
    expect_pass(CHECK, model_with(keras, lambda x: x * 2), replay=recipe)


@pytest.mark.thorough
def test_the_simplest_batch_that_fails_in_either_generation(k):
    recipe = "2 rows; row 1 constant 100"
    model = model_with(k, FAULTS[recipe][1])
    assert expect_failure(CHECK, model, rule="BN101").recipe == recipe


@pytest.mark.thorough
def test_a_size_that_the_check_alone_does_not_try():
    model = model_with(keras, sized(11))
    expect_pass(CHECK, model, examples=0)
    finding = expect_failure(CHECK, model, rule="BN104", examples=100)
    assert "between a batch of 11 and one of 8" in finding.message


@pytest.mark.thorough
def test_a_size_that_raises():
    def fragile(x):
        with tf.control_dependencies([tf.debugging.assert_less(tf.shape(x)[0], 12)]):
            return tf.identity(x)

    finding = expect_failure(CHECK, model_with(keras, fragile), rule="BN103", examples=100)
    assert finding.recipe == "12 rows of random 1"


@pytest.mark.thorough
def test_a_leak_that_only_examples_find_is_located():
    def narrow(x):
        lonely = (tf.reduce_max(x) > 20) & (tf.reduce_min(x) > -4)
        return x * tf.where(lonely, 2.0, 1.0)

    model = model_with(keras, narrow)
    expect_pass(CHECK, model, examples=0)
    finding = expect_failure(CHECK, model, rule="BN101", layer="leak", examples=500)
    assert finding.recipe.startswith("2 rows of random 1; row 1 constant ")


@pytest.mark.thorough
def test_training_mode_has_its_cause_tested(k, x):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(name="bn")(inputs, training=True)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    expect_failure(
        CHECK,
        model,
        rule="BN102",
        layer="bn",
        cause_tested=True,
        replay="2 rows of random 1; row 1 constant 9",
    )


@pytest.mark.thorough
def test_examples_made_of_the_given_rows(x):
    x = x * 0.01
    model = model_with(keras, lambda x: tf.where(tf.reduce_max(x) > 1.5, x + 1, x))
    expect_pass(CHECK, model_with(keras, lambda x: x), x, examples=20)
    finding = expect_failure(CHECK, model, x, rule="BN101", examples=100)
    assert finding.recipe.startswith("2 rows")
    again = strategies.from_recipe(model, finding.recipe, data=x)
    assert again.max() > 1.5
    expect_failure(
        CHECK, model, x, rule="BN101", replay="2 rows of data 0; row 1 data 3 times 999"
    )


@pytest.mark.thorough
def test_state_that_moves_for_some_batches_only():
    class Counter(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(name="count", shape=(), trainable=False)

        def call(self, x):
            # A row that is large in each of its features: larger rows alone don't bring one.
            high = tf.reduce_max(tf.reduce_min(x, axis=1))
            self.count.assign_add(tf.cast(high > 50, tf.float32))
            return x * 2

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Counter(name="counter")(inputs))
    expect_pass("inference_purity", model, examples=0)
    finding = expect_failure(
        "inference_purity", model, rule="BN001", layer="counter", examples=100
    )
    assert finding.recipe == "1 row; row 0 constant 100"


@pytest.mark.thorough
def test_a_sound_model_passes_and_says_how_many_batches_it_met(k):
    layers = [k.layers.Dense(5), k.layers.BatchNormalization(), k.layers.Dropout(0.5)]
    model = k.Sequential([k.Input((4,)), *layers])
    result = expect_pass(CHECK, model, examples=60)
    assert "so in 60 batches of up to 17 rows that Hypothesis made" in result.summary
    assert result.evidence["examples"]["tried"] == 60
    expect_pass("inference_purity", model, examples=20)


@pytest.mark.thorough
def test_integer_inputs(k):
    def build(function):
        inputs = k.Input((5,), dtype="int32")
        h = k.layers.Embedding(9, 4)(inputs)
        return k.Model(inputs, model_with(k, function, (5, 4))(h))

    expect_pass(CHECK, build(lambda x: x), examples=30)
    finding = expect_failure(CHECK, build(lambda x: x - tf.reduce_mean(x, 0)), rule="BN101")
    assert finding.recipe.startswith("2 rows")


def test_a_random_model_is_not_searched():
    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Noise()(inputs))
    expect_verdict(CHECK, "vacuous", model, examples=20)


@pytest.mark.thorough
def test_the_arrays_are_saved_on_request(tmp_path):
    model = model_with(keras, FAULTS["2 rows; row 1 constant 100"][1])
    folder = tmp_path / "failing"
    finding = expect_failure(CHECK, model, rule="BN101", examples=50, save_batches=str(folder))
    (path,) = folder.iterdir()
    assert str(path) in finding.code
    np.testing.assert_array_equal(np.load(path)["x"], [[0] * 4, [100] * 4])


@pytest.mark.thorough
def test_a_folder_that_cannot_be_written_hides_no_failure(tmp_path):
    (tmp_path / "file").touch()
    model = model_with(keras, FAULTS["2 rows; row 1 constant 100"][1])
    folder = str(tmp_path / "file" / "failing")
    finding = expect_failure(CHECK, model, rule="BN101", save_batches=folder)
    assert f"not saved in {folder}" in finding.code


def test_the_text_shows_the_batch_and_how_to_run_it_again():
    model = model_with(keras, FAULTS["2 rows; row 1 constant 100"][1])
    result = expect_verdict(CHECK, "failed", model)
    lines = text.render(result, reproduce='pytest "test_it.py::test_it"').splitlines()
    assert "  batch      2 rows; row 1 constant 100 (the simplest that fails)" in lines
    replay = "pytest \"test_it.py::test_it\" --bn-replay '2 rows; row 1 constant 100'"
    assert f"  replay     {replay}" in lines


@pytest.mark.parametrize("recipe", ["two rows", "2 rows; row 1 data 3"])
def test_a_recipe_that_cannot_be_run(recipe):
    model = model_with(keras, lambda x: x)
    with pytest.raises(BNConsistencyError):
        expect_failure(CHECK, model, rule="BN101", replay=recipe)
