"""Rows that are declared to meet, operations in which they do, and methods of the model's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from small_models import MIXING, functional, layer_of, lengths, moved_by_call, with_bn

from pytest_bnconsistency import BNConsistencyError, Verdict, check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"


TRAINING_MODE, ROWS_MIX = "BN102", "BN101"


def stddev_appended(h):
    """Karras et al., 2018: the critic sees how much its batch varies."""
    spread = tf.reduce_mean(tf.math.reduce_std(h, 0))
    return tf.concat([h, tf.fill([tf.shape(h)[0], 1], spread)], 1)


def test_a_model_declared_transductive_is_skipped_with_the_reason(k, x):
    model = functional(k, layer_of(k, stddev_appended, "stddev"))
    result = expect_verdict(
        CHECK, Verdict.NOT_APPLICABLE, model, x, transductive="batch statistics by design"
    )
    assert "batch statistics by design" in result.summary


@pytest.mark.thorough
def test_a_layer_declared_transductive_is_skipped_and_the_rest_is_not(k, x):
    def build(*more):
        bodies = [layer_of(k, stddev_appended, "stddev"), *more]
        return functional(k, k.Sequential([*bodies, k.layers.Dense(2)], name="critic"))

    declared = {"critic/std*": "the critic compares samples"}
    sound = expect_verdict(CHECK, Verdict.NOT_APPLICABLE, build(), x, transductive=declared)
    assert "critic/stddev: the critic compares samples" in sound.summary
    assert "keeps its bits" in sound.summary
    assert "; in batches of 1, 2, 3 and 5 it moves by 0." in sound.summary
    leaking = build(layer_of(k, MIXING["centred"]))
    expect_failure(
        CHECK,
        leaking,
        x,
        rule=ROWS_MIX,
        layer="critic/leak",
        cause_tested=True,
        transductive=declared,
    )


def test_a_pattern_of_no_layer_says_so(x):
    model = functional(keras, layer_of(keras, stddev_appended, "stddev"))
    with pytest.raises(BNConsistencyError, match=r"matches no layer; expected .* stddev"):
        check_consistency(model, x, checks=[CHECK], transductive={"mbstd": "why"})


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*learning_phase")
def test_the_global_learning_phase(x):
    model = with_bn(tf_keras)
    tf_keras.backend.set_learning_phase(1)
    try:
        finding = expect_failure(
            CHECK, model, x, rule=TRAINING_MODE, layer="bn", cause_contains="learning phase"
        )
        assert "model(x)" in finding.evidence["fails"]
    finally:
        tf_keras.backend.clear_session()  # 0 would hold for all models to come
    expect_pass(CHECK, model, x)


def test_a_default_is_named_as_the_cause(x):
    class Noise(keras.layers.Layer):
        def call(self, x, training=True):
            return x

    bn = keras.layers.BatchNormalization(name="bn")
    model = functional(keras, lambda h: bn(keras.layers.Dense(4)(Noise(name="noise")(h))))
    if not moved_by_call(model, x, "bn"):  # as in Keras 3.16
        expect_pass(CHECK, model, x)
        return
    cause = "noise's call defaults to training=True"
    expect_failure(CHECK, model, x, rule=TRAINING_MODE, layer="bn", cause_contains=cause)


def test_a_default_that_a_graph_wrote_down_is_named_as_one(k, x):
    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.bn = k.layers.BatchNormalization(name="bn")

        def call(self, x, training=True):
            return self.bn(x, training=training)

    cause = "because block's call defaults to training=True"
    model = functional(k, Block())
    expect_failure(CHECK, model, x, rule=TRAINING_MODE, layer="block/bn", cause_contains=cause)


@pytest.mark.parametrize(
    ("form", "operation"),
    [("centred", "Mean over axis 0"), ("cumulated", "Cumsum"), ("sorted", "TopK")],
)
def test_the_operation_is_named(form, operation, x):
    model = functional(keras, layer_of(keras, MIXING[form]))
    expect_failure(CHECK, model, x, rule=ROWS_MIX, cause_contains=operation)


@pytest.mark.thorough
def test_an_operation_that_picks_more_or_fewer_elements(x):
    """Rows of zeros have none, so that how many there are depends on the batch."""
    zeros = np.zeros_like(x)
    model = functional(keras, layer_of(keras, lengths(longest=True)))
    for given in (x, zeros, None):
        examples = {} if given is None else {"examples": 20}
        expect_failure("batch_invariance", model, given, rule=ROWS_MIX, layer="leak", **examples)
    expect_pass("batch_invariance", functional(keras, layer_of(keras, lengths(longest=False))), x)


def test_a_row_that_depends_on_how_many_are_empty(k, x):
    def weighted(x):
        full = tf.reduce_any(x != 0, axis=1)
        return x * tf.reduce_mean(tf.cast(full, x.dtype))

    expect_failure(CHECK, functional(k, layer_of(k, weighted)), x, rule="BN101", layer="leak")


def experts(k, capacity):
    """Two experts, each of which takes so many rows of a batch, the first ones (Switch, 2021)."""
    gate, experts = k.layers.Dense(2), k.layers.Dense(8)

    def call(x):
        chosen = tf.one_hot(tf.argmax(gate(x), -1), 2)
        if capacity:
            chosen *= tf.cast(tf.cumsum(chosen, 0) <= capacity, x.dtype)
        return tf.reduce_sum(chosen[:, None] * tf.reshape(experts(x), (-1, 4, 2)), -1)

    gate.build((None, 4))
    experts.build((None, 4))
    return layer_of(k, call, "experts")


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [4, 8])
def test_experts_of_limited_capacity(k, x, rows):
    faulty = functional(k, experts(k, rows - 1))
    expect_failure(CHECK, faulty, x[:rows], rule=ROWS_MIX, layer="experts", cause_tested=True)
    expect_pass(CHECK, functional(k, experts(k, None)), x[:rows])


@pytest.mark.parametrize("rows", [2, 3, 4, 8])
def test_a_companion_of_zeros_with_few_rows(k, x, rows):
    def doubled(x):
        return tf.where(tf.reduce_any(tf.reduce_all(x == 0, 1)), 2 * x, x)

    model = functional(k, layer_of(k, doubled))
    expect_failure(CHECK, model, x[:rows], rule=ROWS_MIX, layer="leak", cause_tested=True)


def test_a_crowd_that_saturation_hides(k, x):
    """Only the last row's hidden bits show it, among other rows that are all of one kind."""

    def crowded(x):
        alike = tf.reduce_all(tf.sign(x) == tf.sign(x[-1:]))
        return x + 1e-3 * tf.cast(alike, x.dtype)

    inputs = k.Input((4,))
    far = k.layers.Rescaling(1e-3, offset=50)(layer_of(k, crowded)(inputs))
    model = k.Model(inputs, k.layers.Activation("sigmoid")(far))
    finding = expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="leak", cause_tested=True)
    assert "saturation hides it" in finding.message


@pytest.mark.parametrize("kind", ["floats", "numbers", "texts", "booleans", "a dictionary"])
@pytest.mark.parametrize("rows", [2, 8])
def test_a_row_that_is_marked_where_the_one_before_is_the_same(kind, rows):
    """Only another row of the very same kind shows it."""
    ids = np.arange(100, 100 + 3 * rows).reshape(rows, 3)
    given = {
        "floats": ids.astype(np.float32),
        "numbers": ids,
        "texts": ids.astype(str).astype(object),
        "booleans": (np.arange(rows)[:, None] >> np.arange(3)) % 2 == 1,
        "a dictionary": {"a": ids, "b": ids.astype(np.float32)},
    }[kind]

    def build(marks):
        def repeated(x):
            first, *rest = x.values() if isinstance(x, dict) else [x]
            if first.dtype == tf.string:
                first = tf.strings.to_hash_bucket_fast(first, 97)
            same = [tf.reduce_all(a[1:] == a[:-1], 1, keepdims=True) for a in (first, *rest)]
            found = tf.pad(tf.reduce_all(tf.stack(same), 0), [[1, 0], [0, 0]])
            return tf.cast(first, tf.float32) + tf.cast(found & marks, tf.float32)

        return repeated

    expect_failure(CHECK, build(True), given, rule=ROWS_MIX)
    expect_pass(CHECK, build(False), given)


def along_the_first_axis(layer, shape):
    inputs = keras.Input(shape)
    turned = layer(keras.ops.transpose(inputs, (1, 0, 2)))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.ops.transpose(turned, (1, 0, 2))))


@pytest.mark.thorough
def test_attention_and_a_recurrence_over_the_batch():
    """The rows lie along another axis there: nothing is reduced."""
    sequences = np.random.default_rng(0).standard_normal((8, 5, 3), np.float32)
    attention = keras.layers.MultiHeadAttention(2, 2, name="mha")
    expect_failure(
        CHECK,
        along_the_first_axis(lambda h: attention(h, h), (5, 3)),
        sequences,
        rule=ROWS_MIX,
        layer="between mha/value and mha/attention_output",
        cause_tested=True,
        cause_contains="the rows meet in Einsum (",
        without=("reduce",),
    )
    recurrence = keras.layers.LSTM(4, return_sequences=True, name="rnn")
    faulty = along_the_first_axis(recurrence, (5, 3))
    expect_failure(CHECK, faulty, sequences, rule=ROWS_MIX, layer="rnn", without=("reduce",))
    expect_pass(CHECK, along_the_first_axis(keras.layers.Dense(3), (5, 3)), sequences)


def test_the_right_number_of_operations_reduces(x):
    def scaled(h):
        high, low = (f(h, axis=0, keepdims=True) for f in (keras.ops.max, keras.ops.min))
        return h * (high - low)

    cause = "reduce the batch axis away"
    model = functional(keras, scaled)
    found = expect_failure(CHECK, model, x, rule=ROWS_MIX, cause_contains=cause)
    assert "held at what they gave" in found.tested


@pytest.mark.parametrize("axis", [0, -1])
def test_an_operation_that_does_not_tell_how_many_axes_it_gives(x, axis):
    def centre(a):
        return np.nan_to_num(a - a.mean(axis, keepdims=True)).astype(np.float32)

    def model(x):
        return tf.numpy_function(centre, [x], tf.float32)

    if axis:
        expect_pass(CHECK, model, x)
    else:
        cause = "model computes across the rows of its batch"
        expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="model", cause_contains=cause)


@pytest.mark.thorough
def test_a_predict_step_that_mixes_rows(k, x):
    def build(axis):
        class Own(k.Model):
            def predict_step(self, data):
                scores = super().predict_step(data)
                return scores - tf.reduce_mean(scores, axis, keepdims=True)

        inputs = k.Input((4,))
        return Own(inputs, k.layers.Dense(3)(inputs))

    faulty = build(0)
    finding = expect_failure(
        CHECK, faulty, x, rule=ROWS_MIX, layer="predict_step", cause_tested=True
    )
    assert finding.cause == "the model's own Own.predict_step mixes the rows"
    assert finding.evidence["fails"] == ["predict"]
    expect_pass(CHECK, build(-1), x)


@pytest.mark.thorough
def test_a_predict_that_mixes_rows_by_other_code_is_not_located(x):
    class Own(keras.Model):
        def predict_step(self, data):
            return super().predict_step(data) * 2

        def call(self, x):
            compiled = not tf.executing_eagerly() and "one_step" in x.graph.name
            return x - tf.reduce_mean(x, 0) if compiled else x

    model = Own()
    model(x)
    expect_failure(CHECK, model, x, rule=ROWS_MIX, cause_tested=False, without=("predict_step",))


@pytest.mark.thorough
def test_code_that_takes_one_number_of_rows(x):
    def build(rows_of):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.head = keras.layers.Dense(3)

            def call(self, x):
                return self.head(x) + tf.zeros((rows_of(x), 3))

        model = Own()
        model(x)
        return model

    finding = expect_failure(CHECK, build(lambda x: x.shape[0]), x, rule="BN103")
    assert "a batch of 1 raises" in finding.message
    assert "tf.shape(x)[0] instead of x.shape[0]" in finding.remedy
    assert "squeeze" not in finding.remedy
    expect_pass(CHECK, build(lambda x: tf.shape(x)[0]), x)
