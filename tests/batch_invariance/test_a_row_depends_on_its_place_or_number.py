"""Rows whose results depend on their position, or on how many there are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import Chain, functional, layer_of, lengths, subclassed

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"


TRAINING_MODE, ROWS_MIX = "BN102", "BN101"


def test_a_row_that_depends_on_its_position(k, x):
    model = functional(
        k, layer_of(k, lambda x: x + tf.range(tf.cast(tf.shape(x)[0], x.dtype))[:, None])
    )
    finding = expect_failure(CHECK, model, x, rule="BN105", layer="leak", cause_tested=True)
    assert "position" in finding.message
    expect_pass(CHECK, functional(k, layer_of(k, lambda x: x + tf.range(4.0))), x)


def test_a_layer_that_gives_a_number_beside_its_rows(x):
    class Placed(keras.layers.Layer):
        def __init__(self, axis):
            super().__init__(name="placed")
            self.axis = axis

        def call(self, x):
            places = tf.range(tf.cast(tf.shape(x)[self.axis], x.dtype))
            return x + (places[:, None] if self.axis == 0 else places), tf.constant(2.0)

    class Own(keras.Model):
        def __init__(self, axis):
            super().__init__()
            self.placed = Placed(axis)

        def call(self, x):
            rows, number = self.placed(x)
            return rows * number

    by_row, by_feature = Own(0), Own(1)
    for model in (by_row, by_feature):
        model(x[:2])
    expect_failure(CHECK, by_row, x, rule="BN105", layer="placed", cause_tested=True)
    expect_pass(CHECK, by_feature, x)


@pytest.mark.parametrize("step", [1e-3, 1.0])
def test_what_most_rows_say_is_no_matter_of_their_number(k, x, step):
    """A batch of one has another majority; so has a batch of copies."""

    def build(axis):
        def vote(h):
            most = tf.reduce_mean(tf.cast(h[:, :1] > 0, h.dtype), axis, keepdims=True) > 0.5
            return tf.where(most, h + 0.0, h + step)

        return functional(k, layer_of(k, vote))

    expect_failure(CHECK, build(0), x, rule=ROWS_MIX, layer="leak", cause_tested=True)
    expect_pass(CHECK, build(1), x)


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [3, 4, 5, 6, 8])
def test_a_single_position_that_differs(x, rows):
    for place in range(rows):
        model = functional(keras, layer_of(keras, lambda x, p=place: x + at(p, x)))
        expect_failure(CHECK, model, x[:rows], rule="BN105", layer="leak", cause_tested=True)


def at(place, x):
    return tf.one_hot([place], tf.shape(x)[0], axis=0)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_batch_axis_that_is_dropped(k, x, goes_on):
    def build(axis):
        class Own(k.Model):
            def __init__(self):
                super().__init__()
                self.head = k.layers.Dense(1, name="head")
                self.act = k.layers.Activation("tanh", name="act")

            def call(self, x):
                h = tf.squeeze(self.head(x), axis)
                return self.act(h) if goes_on else 2 * h

        model = Own()
        model(x)
        return model

    where = "between head and act" if goes_on else "between head and the model's output"
    finding = expect_failure(CHECK, build(None), x, rule="BN103", layer=where, cause_tested=True)
    assert "gives shape ()" in finding.message
    assert finding.cause.startswith("Squeeze (")
    assert finding.cause.endswith(f"drops the batch axis of a small batch, {where}")
    expect_pass(CHECK, build(-1), x)


def times_the_size(x):
    return x * tf.cast(tf.shape(x)[0], x.dtype)


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("before", "between the input and one"),
        ("between", "between one and two"),
        ("after", "between two and the model's output"),
    ],
)
def test_the_batch_size_in_the_code_of_a_subclassed_model(k, x, place, where):
    faulty = subclassed(k, times_the_size, place)
    finding = expect_failure(CHECK, faulty, x, rule="BN104", layer=where, cause_tested=True)
    assert finding.cause.startswith("Shape (")
    assert finding.cause.endswith(f"computes with the number of rows, {where}")
    sound = subclassed(k, lambda x: x * tf.cast(tf.shape(x)[1], x.dtype), place)
    expect_pass(CHECK, sound, x)


def test_a_batch_size_that_is_not_read_once_is_not_established(x):
    model = subclassed(keras, lambda x: times_the_size(times_the_size(x)))
    layer = "between one and two"
    expect_failure(CHECK, model, x, rule="BN104", layer=layer, cause_tested=False)


@pytest.mark.thorough
def test_the_longest_row_is_no_matter_of_their_number(x):
    model = subclassed(keras, lambda x: lengths(longest=True)(tf.nn.relu(x)))
    expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="between one and two")


@pytest.mark.parametrize(
    "function",
    [
        times_the_size,
        lambda x: x / tf.sqrt(tf.cast(tf.shape(x)[0], x.dtype)),
        lambda x: tf.where(tf.shape(x)[0] == 1, x * 0, x),
    ],
    ids=["times the size", "over its root", "a batch of one is zero"],
)
def test_a_row_that_depends_on_the_batch_size(k, x, function):
    model = functional(k, layer_of(k, function))
    expect_failure(CHECK, model, x, rule="BN104", layer="leak", cause_tested=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.cond(tf.shape(x)[0] > 4, lambda: x, lambda: x * 2),
        lambda x: tf.cond(tf.shape(x)[0] > 4, lambda: x * 2, lambda: x),
    ],
    ids=["small ones doubled", "large ones doubled"],
)
def test_a_layer_that_hands_on_batches_of_some_sizes_is_named(k, x, function):
    def build(body):
        return functional(k, lambda h: k.layers.Dense(2, name="after")(layer_of(k, body)(h)))

    expect_failure(CHECK, build(function), x, rule="BN104", layer="leak", cause_tested=True)
    expect_pass(CHECK, build(lambda x: tf.cond(tf.rank(x) > 1, lambda: x, lambda: x * 2)), x)


def test_a_layer_that_drops_the_batch_axis_is_named(k, x):
    def build(axis):
        class Own(k.Model):
            def __init__(self):
                super().__init__()
                self.head = k.layers.Dense(1)
                self.flat = layer_of(k, lambda x: tf.squeeze(x, axis), "flat")

            def call(self, x):
                return self.flat(self.head(x)) * 2

        model = Own()
        model(x)
        return model

    expect_failure(CHECK, build(None), x, rule="BN103", layer="flat", cause_tested=True)
    expect_pass(CHECK, build(-1), x)


UNTRACED = {
    "squeezed": ("BN103", lambda x, single: tf.squeeze(x, 0) if single else x),
    "halved": ("BN104", lambda x, single: x / 2 if single else x),
    "refused": ("BN103", lambda x, single: tf.ensure_shape(x, [2, 4]) if single else x),
    "another output": ("BN103", lambda x, single: (x, x) if single else x),
}
"""Code that asks for the number of rows; in a trace for any number it is None."""


@pytest.mark.parametrize("form", UNTRACED)
def test_code_that_branches_on_a_single_row_outside_of_traces(k, x, form):
    rule, function = UNTRACED[form]

    def build(axis):
        return subclassed(k, lambda x: function(x, x.shape[axis] == 1), "after")

    finding = expect_failure(CHECK, build(0), x, rule=rule, cause_tested=False)
    assert finding.evidence["holds"] == ["predict", "tf.function of model(x, training=False)"]
    assert "through model(x) and model(x, training=False), not through predict" in finding.message
    assert "such as x.shape[0]" in finding.remedy
    expect_pass(CHECK, build(1), x)


@pytest.mark.parametrize("form", ["squeezed", "halved"])
def test_a_layer_that_branches_on_a_single_row_is_named(k, x, form):
    rule, function = UNTRACED[form]

    def build(axis):
        return functional(k, layer_of(k, lambda x: function(x + 1, x.shape[axis] == 1)), head=0)

    expect_failure(CHECK, build(0), x, rule=rule, layer="leak", cause_tested=True)
    expect_pass(CHECK, build(1), x)


@pytest.mark.parametrize("refused", [False, True])
def test_a_layer_that_branches_on_few_rows_outside_of_traces(k, x, refused):
    """One row and two go the same way there; all rows go another."""

    def build(axis):
        def function(x):
            few = x.shape[axis] is not None and x.shape[axis] <= 4
            if refused and not few and x.shape[0] is not None:
                raise ValueError("too many")
            return 2 * x if few else x + 0

        return functional(k, layer_of(k, function), head=0)

    rule = "BN103" if refused else "BN104"
    finding = expect_failure(CHECK, build(0), x, rule=rule)
    assert "such as x.shape[0]" in finding.remedy
    expect_pass(CHECK, build(1), x)


@pytest.mark.parametrize("kind", ["a function", "a tf.function", "a module"])
@pytest.mark.parametrize("form", ["squeezed", "halved"])
def test_a_subject_without_a_library_that_branches_on_a_single_row(kind, x, form):
    rule, function = UNTRACED[form]

    def build(axis):
        def score(x):
            return function(x * 2, x.shape[axis] == 1)

        return {
            "a function": score,
            "a tf.function": tf.function(score),
            "a module": Chain(score),
        }[kind]

    finding = expect_failure(CHECK, build(0), x, rule=rule)
    assert "through model(x), not through tf.function of model(x)" in finding.message
    expect_pass(CHECK, build(1), x)


def test_what_is_random_outside_of_traces_is_not_taken_for_the_batch_size(x):
    """Numbers that Python draws are constants of a trace."""
    drawn = np.random.default_rng(0)
    expect_pass(CHECK, lambda x: x + drawn.normal(), x)


def grouped(function, axis):
    """Groups of four rows, as ghost batch normalisation has them (Hoffer, 2017), or of one."""

    def call(x):
        shape = (-1, 4, 4) if axis == 0 else (-1, 1, 4)
        return tf.reshape(function(tf.reshape(x, shape)), tf.shape(x))

    return call


@pytest.mark.thorough
@pytest.mark.parametrize("as_layer", [True, False])
def test_a_model_that_takes_only_multiples_of_some_rows(k, x, as_layer):
    def build(function, axis):
        call = grouped(function, axis)
        return functional(k, layer_of(k, call, "ghost")) if as_layer else call

    def doubled(groups):
        return 2 * groups

    def centred(groups):
        return groups - tf.reduce_mean(groups, 1, keepdims=True)

    finding = expect_failure(CHECK, build(doubled, 0), x, rule="BN103", cause_tested=False)
    assert "a batch of 1 raises: " in finding.message
    expect_failure(CHECK, build(centred, 0), x, rule=ROWS_MIX)
    report = check_consistency(build(centred, 0), x, checks=[CHECK, "inference_purity"])
    assert [str(result.verdict) for result in report] == ["failed", "passed"]
    expect_pass(CHECK, build(doubled, 1), x)
