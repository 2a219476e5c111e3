"""Rows that meet in a layer, in a model's own code or in a function: found, and where."""

import ast
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from small_models import MIXING, Chain, functional, layer_of, subclassed

from pytest_bnconsistency import Verdict, check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"


TRAINING_MODE, ROWS_MIX = "BN102", "BN101"


def each_by_itself(model):
    """The layer reduces over features from now on, and gives what is as wide as before."""
    leak = model.get_layer("leak")
    wide = leak.output.shape[-1]

    def call(h):
        level = tf.reduce_mean(h, -1, keepdims=True)
        return tf.concat([h - level, level], -1)[:, :wide]

    leak.call = call


@pytest.mark.parametrize("form", MIXING)
def test_a_reduction_over_the_batch(form, x):
    faulty = functional(keras, layer_of(keras, MIXING[form]))
    expect_failure(
        CHECK, faulty, x, rule=ROWS_MIX, layer="leak", cause_tested=True, remedy=each_by_itself
    )


@pytest.mark.parametrize("form", ["centred", "sorted", "even rows centred"])
def test_a_reduction_over_the_batch_with_generated_rows(k, form):
    faulty = functional(k, layer_of(k, MIXING[form]))
    expect_failure(CHECK, faulty, rule=ROWS_MIX, layer="leak", remedy=each_by_itself)


def test_a_reduction_over_features_is_the_remedy(k, x):
    body = layer_of(k, lambda x: x - tf.reduce_mean(x, -1, keepdims=True))
    expect_pass(CHECK, functional(k, body), x)


def test_a_reduction_between_the_layers_of_a_graph(x):
    model = functional(keras, lambda h: h - keras.ops.mean(h, axis=0, keepdims=True))
    finding = expect_failure(
        CHECK,
        model,
        x,
        rule=ROWS_MIX,
        cause_tested=True,
        cause_contains="reduces the batch axis away",
    )
    assert finding.layer.startswith("subtract")  # Keras counts them in a process


def test_a_reduction_between_the_layers_of_a_tf_keras_graph(x):
    model = functional(tf_keras, lambda h: h - tf.reduce_mean(h, 0, keepdims=True))
    finding = expect_failure(CHECK, model, x, rule=ROWS_MIX)
    assert finding.layer.startswith("tf.math.subtract")


def test_a_reduction_in_a_lambda(k, x):
    model = functional(k, k.layers.Lambda(MIXING["standardised"], name="scale"))
    expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="scale")


IN_CODE = {
    "centred": ["Mean over axis 0 ("],
    "divided by the largest": ["Max over axis 0, 1 ("],
    "standardised": ["/Mean)", "/reduce_variance/Mean)", "/reduce_variance/Mean_1)"],
    "sorted": ["TopKV2 ("],
    "cumulated": ["Cumsum ("],
    "softmax over rows": ["Softmax ("],
    "rolled": ["Roll ("],
    "the first row taken off": ["StridedSlice ("],
    "attention over rows": ["/matmul)", "/matmul_1)"],
    "reshaped across rows": ["Reshape ("],
}
"""The operations in which rows meet: those that are given the same, and give something else."""


ALL_HELD = (
    "with the results held at what they were for the kept rows of the first batch, every kept row "
    "has the same bits in every layer and output"
)


@pytest.mark.parametrize("form", IN_CODE)
def test_rows_that_meet_in_the_code_of_a_subclassed_model(form, x):
    finding = expect_failure(
        CHECK,
        subclassed(keras, MIXING[form]),
        x,
        rule=ROWS_MIX,
        layer="between one and two",
        cause_tested=True,
    )
    assert finding.cause.count(" (") == len(IN_CODE[form]), finding.cause
    assert all(operation in finding.cause for operation in IN_CODE[form]), finding.cause
    assert finding.tested == ALL_HELD


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("before", "between the input and one"),
        ("between", "between one and two"),
        ("after", "between two and the model's output"),
    ],
)
@pytest.mark.parametrize("form", ["centred", "attention over rows"])
def test_where_in_the_code_of_a_subclassed_model_rows_meet(k, form, place, where, x):
    faulty = subclassed(k, MIXING[form], place)
    finding = expect_failure(CHECK, faulty, x, rule=ROWS_MIX, layer=where, cause_tested=True)
    assert finding.cause.endswith(where)
    remedy = subclassed(k, lambda x: x - tf.reduce_mean(x, -1, keepdims=True), place)
    expect_pass(CHECK, remedy, x)


@pytest.mark.thorough
def test_rows_that_meet_in_two_places_of_a_function(k, x):
    """What is held in the first place must not hide the second."""
    one, two = k.layers.Dense(4, name="one"), k.layers.Dense(4, name="two")

    def build(first, second):
        def net(x):
            return second(two(first(one(x))))

        return net

    centred, sound = MIXING["centred"], tf.identity
    build(sound, sound)(x)
    cause = "Mean over axis 0 (Mean) and Mean over axis 0 (Mean_1), at first between one and two"
    expect_failure(
        CHECK,
        build(centred, centred),
        x,
        rule=ROWS_MIX,
        layer="between one and two",
        cause_tested=True,
        cause_contains=cause,
    )
    expect_failure(CHECK, build(sound, centred), x, rule=ROWS_MIX, layer="net", cause_tested=True)
    expect_pass(CHECK, build(sound, sound), x)


@pytest.mark.parametrize("form", ["standardised", "sorted"])
def test_rows_that_meet_in_the_code_of_a_module(form, x):
    faulty = Chain(MIXING[form])
    layer = "between one and two"
    finding = expect_failure(CHECK, faulty, x, rule=ROWS_MIX, layer=layer, cause_tested=True)
    assert finding.cause.endswith(layer)
    assert all(operation in finding.cause for operation in IN_CODE[form])
    expect_pass(CHECK, Chain(lambda x: tf.sort(x, -1)), x)


def test_a_function_that_refuses_single_rows(x):
    def build(axis):
        def scores(x):
            tf.debugging.assert_greater(tf.shape(x)[0], 1)
            return x - tf.reduce_mean(x, axis, keepdims=True)

        return scores

    cause = "the rows meet in Mean over axis 0 (Mean), in scores"
    finding = expect_failure(CHECK, build(0), x, rule=ROWS_MIX, cause_tested=True)
    assert finding.cause == cause
    assert check_consistency(build(1), x, checks=[CHECK])[CHECK].findings[0].rule == "BN103"


@pytest.mark.thorough
def test_operations_that_change_with_the_batch_and_move_no_row_are_not_named(k, x):
    def function(x):
        largest, unused = tf.reduce_max(x), x - tf.reduce_sum(x, 0)
        del unused
        return tf.where(largest > 1e9, x + 1, x) - tf.reduce_mean(x, 0)

    model = subclassed(k, function)
    without = ("Max", "Sum")
    expect_failure(CHECK, model, x, rule=ROWS_MIX, cause_contains="Mean over", without=without)


@tf.function
def centred_elsewhere(x):
    return x - tf.reduce_mean(x, 0)


def renamed_by_each_trace(x, count=itertools.count()):  # noqa: B008 - counts the traces
    with tf.name_scope(f"trace_{next(count)}"):
        return x - tf.reduce_mean(x, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.map_fn(lambda row: row - tf.reduce_mean(x, 0), x),
        centred_elsewhere,
        renamed_by_each_trace,
        lambda x: x - tf.reduce_mean(tf.boolean_mask(x, x > 0)),
    ],
    ids=["in a loop", "in a function of its own", "under other names", "picked by their values"],
)
def test_operations_that_cannot_be_held_or_compared_are_no_cause(function, x):
    expect_failure(
        CHECK,
        subclassed(keras, function),
        x,
        rule=ROWS_MIX,
        layer="between one and two",
        cause_tested=False,
        cause_contains="not established; the rows mix here",
    )


def similar(h):
    return keras.ops.softmax(keras.ops.matmul(h, keras.ops.transpose(h)))


def twice_with_a_leak(k):
    shared = layer_of(
        k, lambda x: x - tf.reduce_mean(x, 0) if x.shape[-1] == 3 else x * 2, "shared"
    )
    return lambda h: shared(k.layers.Dense(3)(shared(h)))


@pytest.mark.parametrize(
    ("build", "declared"),
    [
        (lambda: functional(keras, layer_of(keras, MIXING["rolled"])), {"leak": "reason"}),
        (lambda: functional(keras, twice_with_a_leak(keras)), {"shared": "reason"}),
        (lambda: subclassed(keras, MIXING["centred"]), "reason"),
        (lambda: functional(keras, lambda h: h - keras.ops.mean(h, 0, keepdims=True)), "reason"),
        (lambda: functional(keras, lambda h: keras.ops.matmul(similar(h), h)), "reason"),
    ],
    ids=["a layer", "its second call", "code between layers", "subtract", "matmul"],
)
def test_the_declaration_that_the_remedy_gives_can_be_pasted(x, build, declared):
    model = build()
    remedy = expect_failure(CHECK, model, x, rule=ROWS_MIX).remedy
    pasted = ast.literal_eval(remedy.partition("transductive=")[2])
    assert pasted == declared
    result = expect_verdict(CHECK, Verdict.NOT_APPLICABLE, model, x, transductive=pasted)
    assert "reason" in result.summary


def test_a_layer_held_in_a_closure(k, x):
    hidden = layer_of(k, MIXING["centred"], "hidden")

    def make():
        class Outer(k.layers.Layer):
            def call(self, x):
                return hidden(x) * 2

        return Outer(name="outer")

    expect_failure(CHECK, functional(k, make()), x, rule=ROWS_MIX, layer="outer/hidden")


def test_a_leak_in_a_nested_model(k, x):
    dense = k.layers.Dense(4, name="dense")
    inner = k.Sequential([dense, layer_of(k, MIXING["centred"])], name="inner")
    expect_failure(CHECK, functional(k, inner), x, rule=ROWS_MIX, layer="inner/leak")


def test_a_leak_in_the_second_call_of_a_shared_layer(k, x):
    model = functional(k, twice_with_a_leak(k))
    expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="shared (call 2)")


def test_a_leak_that_saturation_hides(k, x):
    inputs = k.Input((4,))
    bounded = layer_of(k, lambda x: tf.math.tanh(tf.where(tf.math.is_nan(x), 0.0, x)), "bounded")
    h = layer_of(k, lambda x: 200 + x - tf.reduce_mean(x, 0))(bounded(inputs))
    model = k.Model(inputs, k.layers.Activation("sigmoid", name="squash")(h))
    assert np.ptp(model.predict(x, verbose=0)) == 0
    finding = expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="leak")
    assert "saturation hides it" in finding.message


@pytest.mark.parametrize("used", [False, True])
def test_what_a_layer_gives_beside_what_is_used(k, used):
    """Similarities for a loss, of all rows with all, that the outputs do not hang on."""

    class Embed(k.layers.Layer):
        def call(self, x):
            alike = tf.matmul(x, x, transpose_b=True)
            return x, tf.reduce_mean(tf.abs(alike), axis=-1, keepdims=True)

    inputs = k.Input((6,))
    own, alike = Embed(name="embed")(inputs)
    outputs = k.layers.Dense(3)(own + alike if used else own)
    model = k.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    if used:
        expect_failure("batch_invariance", model, x, rule="BN101", layer="embed")
    else:
        expect_pass("batch_invariance", model, x)
