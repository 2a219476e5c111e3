"""Each test builds a model with one fault, sees it found, mends it and sees it pass."""

import ast
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency import BNConsistencyError, Verdict, check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"
TRAINING_MODE, ROWS_MIX = "BN102", "BN101"


def functional(k, body, shape=(4,), head=3):
    inputs = k.Input(shape)
    h = body(inputs)
    return k.Model(inputs, k.layers.Dense(head, name="head")(h) if head else h)


def layer_of(k, function, name="leak"):
    """A layer of the user's own around a TensorFlow function."""

    class Own(k.layers.Layer):
        def call(self, x):
            return function(x)

    return Own(name=name)


def standardised(x):
    return (x - tf.reduce_mean(x, 0)) / (tf.math.reduce_std(x, 0) + 1e-3)


def even_rows_centred(x):
    even = tf.cast(tf.range(tf.shape(x)[0]) % 2 == 0, x.dtype)[:, None]
    return x - even * tf.reduce_sum(x * even, 0, keepdims=True) / tf.reduce_sum(even)


def deviation_appended(x):
    deviation = tf.reduce_mean(tf.math.reduce_std(x, 0))
    return tf.concat([x, tf.fill([tf.shape(x)[0], 1], deviation)], 1)


MIXING = {
    "centred": lambda x: x - tf.reduce_mean(x, 0),
    "a ten-thousandth of the mean": lambda x: x + 1e-4 * tf.reduce_mean(x, 0),
    "divided by the largest": lambda x: x / tf.reduce_max(tf.abs(x)),
    "divided by the largest of each feature": lambda x: x / tf.reduce_max(tf.abs(x), 0),
    "standardised": standardised,
    "sorted": lambda x: tf.sort(x, 0),
    "ranked": lambda x: tf.cast(tf.argsort(tf.argsort(x, 0), 0), x.dtype),
    "cumulated": lambda x: tf.cumsum(x, 0),
    "cumulated from the end": lambda x: tf.cumsum(x, 0, reverse=True),
    "softmax over rows": lambda x: tf.nn.softmax(x, 0),
    "rolled": lambda x: x + tf.roll(x, 1, 0),
    "neighbours averaged": lambda x: (
        x + tf.reshape(tf.nn.avg_pool1d(x[None], 3, 1, "SAME"), tf.shape(x))
    ),
    "the first row taken off": lambda x: x - x[:1],
    "the last row taken off": lambda x: x - x[-1:],
    "even rows centred": even_rows_centred,
    "only where another row is above 50": lambda x: tf.where(tf.reduce_max(x) > 50, x + 1, x),
    "attention over rows": lambda x: tf.nn.softmax(x @ tf.transpose(x)) @ x,
    "deviation appended": deviation_appended,
    "reshaped across rows": lambda x: tf.reshape(tf.transpose(x), tf.shape(x)),
    "a not-a-number spreads": lambda x: x + 0 * tf.reduce_mean(x, 0),
}


@pytest.mark.parametrize("form", MIXING)
def test_a_reduction_over_the_batch(form, x):
    faulty = functional(keras, layer_of(keras, MIXING[form]))
    expect_failure(CHECK, faulty, x, rule=ROWS_MIX, layer="leak", cause_tested=True)


@pytest.mark.parametrize("form", ["centred", "sorted", "even rows centred"])
def test_a_reduction_over_the_batch_with_generated_rows(k, form):
    expect_failure(CHECK, functional(k, layer_of(k, MIXING[form])), rule=ROWS_MIX, layer="leak")


def test_a_reduction_over_features_is_the_remedy(k, x):
    body = layer_of(k, lambda x: x - tf.reduce_mean(x, -1, keepdims=True))
    expect_pass(CHECK, functional(k, body), x)


def test_a_reduction_between_the_layers_of_a_graph(x):
    model = functional(keras, lambda h: h - keras.ops.mean(h, axis=0, keepdims=True))
    expect_failure(
        CHECK,
        model,
        x,
        rule=ROWS_MIX,
        layer="subtract",
        cause_tested=True,
        cause_contains="mean reduces the batch axis away",
    )


def test_a_reduction_between_the_layers_of_a_tf_keras_graph(x):
    model = functional(tf_keras, lambda h: h - tf.reduce_mean(h, 0, keepdims=True))
    finding = expect_failure(CHECK, model, x, rule=ROWS_MIX)
    assert finding.layer.startswith("tf.math.subtract")


def test_a_reduction_in_a_lambda(k, x):
    model = functional(k, k.layers.Lambda(MIXING["standardised"], name="scale"))
    expect_failure(CHECK, model, x, rule=ROWS_MIX, layer="scale")


def subclassed(k, function, place="between"):
    """A model whose own code runs a TensorFlow function before, between or after two layers."""

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = k.layers.Dense(4, name="one"), k.layers.Dense(4, name="two")

        def call(self, x):
            before, between, after = (
                function if place == p else tf.identity for p in ("before", "between", "after")
            )
            return after(self.two(between(self.one(before(x)))))

    model = Own()
    model(np.zeros((2, 4), np.float32))
    return model


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


class Scaled(tf.Module):
    def __init__(self, name):
        super().__init__(name=name)
        self.scale = tf.Variable(2.0)

    def __call__(self, x):
        return self.scale * x


class Chain(tf.Module):
    def __init__(self, function):
        super().__init__(name="chain")
        self.one, self.two, self.function = Scaled("one"), Scaled("two"), function

    def __call__(self, x):
        return self.two(self.function(self.one(x)))


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


def test_a_row_that_depends_on_its_position(k, x):
    model = functional(
        k, layer_of(k, lambda x: x + tf.range(tf.cast(tf.shape(x)[0], x.dtype))[:, None])
    )
    finding = expect_failure(CHECK, model, x, rule="BN105", layer="leak", cause_tested=True)
    assert "position" in finding.message
    expect_pass(CHECK, functional(k, layer_of(k, lambda x: x + tf.range(4.0))), x)


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


def with_bn(k, **call):
    bn = k.layers.BatchNormalization(name="bn")
    return functional(k, lambda h: bn(k.layers.Dense(4)(h), **call))


@pytest.mark.thorough
def test_training_mode_baked_into_the_graph(k, x):
    finding = expect_failure(
        CHECK,
        with_bn(k, training=True),
        x,
        rule=TRAINING_MODE,
        layer="bn",
        cause_tested=True,
        cause_contains="bn is called with training=True",
    )
    if k is keras:
        assert finding.evidence["fails"] == ["model(x)"]
    else:
        assert finding.evidence["holds"] == []
    expect_pass(CHECK, with_bn(k), x)


@pytest.mark.thorough
def test_statistics_of_the_batch_beside_state_on_which_the_result_depends(k, x):
    """Batch renormalisation (Ioffe, 2017): a second run gives other bits, with nothing random."""

    class Renormalised(k.layers.Layer):
        def __init__(self, moves):
            super().__init__(name="renorm")
            self.moves = moves

        def build(self, shape):
            self.mean = self.add_weight(
                name="mean", shape=shape[-1:], initializer="zeros", trainable=False
            )

        def call(self, x, training=True):
            mean = tf.reduce_mean(x, 0)
            if training and self.moves:
                self.mean.assign(0.9 * self.mean + 0.1 * mean)
            return x - self.mean - (0.5 * mean if training else 0)

    for rate in (0.0, 0.5):
        dropout = k.layers.Dropout(rate)
        model = functional(k, lambda h, d=dropout: Renormalised(True)(d(h, training=True)))
        finding = expect_failure(
            CHECK, model, x, rule=TRAINING_MODE, layer="renorm", cause_tested=True
        )
        assert "random" not in finding.message + finding.cause
        assert "model(x)" in finding.evidence["fails"]
    expect_pass(CHECK, functional(k, lambda h: Renormalised(False)(h, training=False)), x)


class Drawing(keras.layers.Layer):
    """Random numbers by a count that is state of the layer."""

    def build(self, shape):
        self.count = tf.Variable(0)

    def call(self, x):
        self.count.assign_add(1)
        return x + tf.random.stateless_normal(tf.shape(x), [self.count, 0])

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.thorough
def test_random_numbers_that_hang_on_state_are_random(x):
    result = expect_verdict(CHECK, Verdict.VACUOUS, functional(keras, Drawing()), x)
    assert "random" in result.summary


@pytest.mark.thorough
def test_training_mode_baked_around_a_nested_model(k, x):
    layers = [k.layers.Dense(4), k.layers.BatchNormalization(name="bn")]
    base = k.Sequential([k.Input((4,)), *layers], name="base")
    expect_failure(
        CHECK,
        functional(k, lambda h: base(h, training=True)),
        x,
        rule=TRAINING_MODE,
        layer="base/bn",
        cause_tested=True,
    )
    expect_pass(CHECK, functional(k, base), x)


def test_the_call_around_a_nested_model_is_named(k, x):
    layers = [k.layers.Dense(4), k.layers.BatchNormalization(name="bn")]
    base = k.Sequential([k.Input((4,)), *layers], name="base")
    model = functional(k, lambda h: base(h, training=True))
    cause = "because base is called with training=True"
    expect_failure(CHECK, model, x, rule=TRAINING_MODE, cause_contains=cause)


@pytest.mark.thorough
def test_training_mode_hard_coded_in_a_subclass(k, x):
    def build(**told):
        class Own(k.Model):
            def __init__(self):
                super().__init__()
                self.bn, self.head = k.layers.BatchNormalization(name="bn"), k.layers.Dense(2)

            def call(self, x, training=None):
                return self.head(self.bn(x, **(told or {"training": training})))

        model = Own()
        model(x)
        return model

    finding = expect_failure(
        CHECK, build(training=True), x, rule=TRAINING_MODE, layer="bn", cause_tested=True
    )
    assert finding.evidence["holds"] == []
    expect_pass(CHECK, build(), x)


def test_training_mode_as_the_default_of_a_subclass(k, x):
    def build(default):
        class Own(k.Model):
            def __init__(self):
                super().__init__()
                self.bn, self.head = k.layers.BatchNormalization(name="bn"), k.layers.Dense(2)

            def call(self, x, training=default):
                return self.head(self.bn(x, training=training))

        model = Own()
        model(x)
        return model

    finding = expect_failure(
        CHECK, build(True), x, rule=TRAINING_MODE, layer="bn", cause_tested=True
    )
    assert finding.evidence["fails"] == ["model(x)"]
    expect_pass(CHECK, build(None), x)


def test_a_default_of_training_leaks_from_a_layer_upstream(x):
    def build(default):
        class Noise(keras.layers.Layer):
            def call(self, x, training=default):
                return x

        bn = keras.layers.BatchNormalization(name="bn")
        return functional(keras, lambda h: bn(keras.layers.Dense(4)(Noise(name="noise")(h))))

    finding = expect_failure(
        CHECK, build(True), x, rule=TRAINING_MODE, layer="bn", cause_tested=True
    )
    assert finding.evidence["fails"] == ["model(x)"]
    expect_pass(CHECK, build(None), x)


@pytest.mark.thorough
def test_a_random_layer_upstream_puts_the_normaliser_into_training_mode():
    images = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
    inputs = keras.Input((8, 8, 3))
    h = keras.layers.RandomFlip()(inputs)
    h = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(4, 3)(h))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(h))
    expect_failure(CHECK, model, images, rule=TRAINING_MODE, layer="bn", cause_tested=True)


def several(k, count):
    def body(h):
        for number in range(1, count + 1):
            bn = k.layers.BatchNormalization(name=f"bn_{number}")
            h = bn(k.layers.Dense(4)(h), training=True)
        return h

    return functional(k, body)


@pytest.mark.thorough
def test_three_layers_in_training_mode_are_counted(k, x):
    finding = expect_failure(
        CHECK, several(k, 3), x, rule=TRAINING_MODE, layer="bn_1", cause_tested=True
    )
    assert "bn_1 and 2 more layers normalise by the batch" in finding.cause
    assert finding.layers == ("bn_1", "bn_2", "bn_3")


def test_two_layers_in_training_mode_are_counted(k, x):
    finding = expect_failure(CHECK, several(k, 2), x, rule=TRAINING_MODE)
    assert "bn_1 and 1 more layer normalise by the batch" in finding.cause


def test_a_home_made_normaliser_that_always_uses_the_batch(k, x):
    class Own(k.layers.Layer):
        def call(self, x, training=None):
            if training is False:
                return x / 2
            return (x - tf.reduce_mean(x, 0)) / 2

    model = functional(k, lambda h: Own(name="norm")(h))
    finding = expect_failure(CHECK, model, x, rule=TRAINING_MODE, layer="norm", cause_tested=True)
    assert finding.evidence["fails"] == ["model(x)"]


def test_training_mode_baked_around_a_layer_that_draws_by_itself(k, x):
    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.bn = k.layers.BatchNormalization(name="bn")

        def call(self, x, training=None):
            h = self.bn(x, training=training)
            return tf.nn.dropout(h, 0.3, seed=1) if training else h

    model = functional(k, lambda h: Block()(h, training=True))
    expect_failure(CHECK, model, x, rule=TRAINING_MODE, layer="block/bn")


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


def lengths(longest):
    """Rows as long as they are without the zeros at their ends, padded to the longest one."""

    def call(x):
        ragged = tf.RaggedTensor.from_tensor(x, padding=0.0)
        step = tf.shape(ragged.to_tensor())[1] if longest else ragged.row_lengths()[:, None]
        return x + tf.cast(step, x.dtype)

    return call


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
