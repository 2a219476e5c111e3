"""Entry points that say something else, refuse what others take, or only seem to."""

import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import model_of

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "inference_purity"


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.mark.parametrize("shape", ["same", "other"])
def test_a_predict_step_that_adds_to_the_model_is_a_warning(k, x, shape):
    class Model(k.Model):
        def predict_step(self, data):
            outputs = super().predict_step(data)
            return tf.nn.softmax(outputs) if shape == "same" else tf.argmax(outputs, -1)

    result = expect_pass(CHECK, model_of(k, kind=Model), x)
    (found,) = result.warnings
    assert (found.rule, found.layer, found.cause_tested) == ("BN003", "predict_step", True)
    assert "but for what predict_step adds" in result.summary
    assert "BN003" in text.render(result)


def test_rows_after_others_have_their_own_noise_in_half_precision(k):
    class Doubled(k.layers.Layer):
        def call(self, x):
            return 2 * x

    k.utils.set_random_seed(0)
    half = {"dtype": "mixed_float16"}
    pictures = k.Input((12, 12, 3))
    h = pictures
    for channels in (8, 16):
        h = k.layers.Conv2D(channels, 3, strides=2, bias_initializer="random_normal", **half)(h)
        h = k.layers.ReLU(**half)(k.layers.BatchNormalization(**half)(h - 1))
    h = k.layers.GlobalAveragePooling2D(**half)(Doubled(**half)(h))
    model = k.Model(pictures, k.layers.Dense(2, dtype="float32")(h))
    x = 9 * np.random.default_rng(0).standard_normal((8, 12, 12, 3)).astype(np.float32)
    x[:4] = 0  # nothing gets past the first activation: no rounding reaches the outputs
    inside = tf.function(lambda rows: model(rows, training=False))(x[4:])
    if np.array_equal(inside, model(x[4:], training=False)):
        pytest.skip("this processor rounds alike inside of a trace and outside")
    expect_pass(CHECK, model, x)


def test_a_predict_that_was_compiled_for_another_model(k, x):
    scale = [1.0]

    class Scaled(k.layers.Layer):
        def call(self, x):
            return x * scale[0]

    model = model_of(k, Scaled())
    model.predict(x, verbose=0)
    scale[0] = 2.0
    expect_failure(
        CHECK,
        model,
        x,
        rule="BN003",
        layer="the compiled function",
        cause_tested=True,
        cause_contains="before the model changed",
    )
    assert scale == [2.0]
    model.predict_function = None
    expect_pass(CHECK, model, x)


@pytest.mark.parametrize(
    ("twice", "does"),
    [
        (lambda x: tf.executing_eagerly(), "does something else outside of a trace"),
        (lambda x: not tf.executing_eagerly(), "does something else outside of a trace"),
        (lambda x: x.shape[0] is None, "reads the number of rows"),
    ],
    ids=["eager", "traced", "any number"],
)
def test_code_that_is_another_in_a_trace(k, x, twice, does):
    class Own(k.layers.Layer):
        def call(self, x):
            return 2 * x if twice(x) else x

    model = model_of(k, Own(name="own"))
    found = expect_failure(
        CHECK, model, x, rule="BN003", layer="own", cause_tested=True, cause_contains=does
    )
    assert set(found.evidence["apart"]) == {"model(x)", "model(x, training=False)"}


def test_code_that_is_another_for_two_rows_alone(k, x):
    """Rows of other numbers are run by `batch_invariance`."""

    class Own(k.layers.Layer):
        def call(self, x):
            return 2 * x if x.shape[0] == 2 else x

    model = model_of(k, Own(name="own"))
    finding = expect_failure("batch_invariance", model, x, rule="BN104", layer="own")
    assert "not through predict" in finding.message
    expect_pass(CHECK, model, x)


def test_code_between_layers_that_is_another_in_a_trace(k, x):
    class Model(k.Model):
        def __init__(self):
            super().__init__()
            self.head = k.layers.Dense(3)

        def call(self, x):
            return self.head(x) * (2 if tf.executing_eagerly() else 1)

    model = Model()
    model(x)
    cause = "the model's code does something else outside of a trace"
    expect_failure(CHECK, model, x, rule="BN003", cause_tested=True, cause_contains=cause)


def test_code_between_two_layers_that_is_another_in_a_trace(k, x):
    class Model(k.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = (k.layers.Dense(3, name=n) for n in ("first", "second"))

        def call(self, x):
            h = self.first(x)
            return self.second(h * (2 if tf.executing_eagerly() else 1))

    model = Model()
    model(x)
    place = "between first and second"
    expect_failure(CHECK, model, x, rule="BN003", layer=place, cause_contains=f"the code {place}")


def test_what_a_layer_keeps_of_the_first_batch(k, x):
    class Centred(k.layers.Layer):
        mean = None

        def call(self, h):
            if self.mean is None and tf.executing_eagerly():
                self.mean = h.numpy().mean(0)
            return h if self.mean is None else h - self.mean

    inputs = k.Input((4,))
    model = k.Model(inputs, Centred(name="centred")(inputs))
    result = check_consistency(model, x, checks=[CHECK])[CHECK]
    assert {finding.rule for finding in result.findings} == {"BN003"}
    assert not any("number of rows" in finding.cause for finding in result.findings)
    assert any("keeps something in Python" in finding.cause for finding in result.findings)


@pytest.mark.parametrize("kept", ["of the first call", "of the last call", "nothing", "by shape"])
def test_what_calls_outside_of_a_trace_keep_for_the_next(k, x, kept):
    """The first call gives what inference gives in a trace, and so do two of the same rows."""
    memory = {}

    def centre(h):
        mean = tf.reduce_mean(h, -1, keepdims=True)
        if not tf.executing_eagerly() or kept == "nothing":
            return mean
        if kept == "by shape":  # a cache that is right
            return mean * memory.setdefault(tuple(h.shape), tf.ones_like(mean))
        if kept == "of the first call":
            return memory.setdefault(tuple(h.shape), mean)
        before, memory[tuple(h.shape)] = memory.get(tuple(h.shape), mean), mean
        return before

    class Own(k.layers.Layer):
        def call(self, h):
            return h - centre(h)

    model = model_of(k, Own(name="own"))
    memory.clear()
    if kept in ("nothing", "by shape"):
        expect_pass(CHECK, model, x)
    else:
        what = "keeps something"
        expect_failure(CHECK, model, x, rule="BN003", layer="own", cause_contains=what)


def test_an_entry_point_that_refuses_what_inference_takes(k, x):
    class Model(k.Model):
        def predict_step(self, data):
            outputs = super().predict_step(data)
            tf.debugging.assert_greater(tf.shape(outputs)[0], 5)
            return outputs

    model = model_of(k, kind=Model)
    found = expect_failure(CHECK, model, x, rule="BN003", layer="predict_step", cause_tested=True)
    assert "predict(dataset) raises InvalidArgumentError: assertion failed" in found.message
    assert "any number of rows" in found.remedy
    both = check_consistency(model, x, checks=["batch_invariance", CHECK])
    assert [f.rule for result in both for f in result.findings] == ["BN103", "BN003"]


@pytest.mark.parametrize("check", [CHECK, "batch_invariance"])
def test_a_predict_of_the_models_own(k, x, check):
    class Deciding(k.Model):
        def predict(self, x):
            return np.argmax(super().predict(x, verbose=0), 1)

    class Choosing(k.Model):
        def predict(self, x, threshold):
            return super().predict(x, verbose=0) > threshold

    assert not expect_pass(check, model_of(k, kind=Deciding), x).notes
    notes = expect_pass(check, model_of(k, kind=Choosing), x).notes
    assert "predict raised TypeError" in notes[0]
    assert "threshold" in notes[0]


@pytest.mark.parametrize(
    ("check", "given"),
    [
        ("frozen_stability", False),
        ("train_eval_agreement", True),
    ],
)
def test_a_stateful_recurrence_takes_one_number_of_rows(k, x, check, given):
    inputs = k.Input(batch_shape=(6, 4, 1))
    model = k.Model(inputs, k.layers.LSTM(3, stateful=True)(inputs))
    result = expect_verdict(check, "not applicable", model, x[..., None] if given else None)
    assert result.summary.startswith("the model takes batches of 6 rows and no others: ")


def test_state_of_a_layer_that_only_a_predict_step_moves(k, x):
    class Model(k.Model):
        def predict_step(self, data):
            self.get_layer("head").bias.assign_add([0.0, 0.0, 1.0])
            return super().predict_step(data)

    model = model_of(k, kind=Model)
    found = expect_failure(CHECK, model, x, rule="BN001", layer="predict_step", cause_tested=True)
    assert found.evidence["layers"] == ["head"]
    expect_pass(CHECK, model_of(k), x)


def own(k, code):
    """A subclassed model whose code gets x, `training` and its dense layer's result."""

    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(3)
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x, training=None):
            return code(self, x, training, self.dense(x))

    model = Own()
    model(np.zeros((2, 4), np.float32))
    return model


def test_predict_that_cannot_give_none(k, x):
    model = own(k, lambda model, x, training, h: {"aux": None, "h": h})
    found = expect_failure(CHECK, model, x, rule="BN003", layer="the model's output")
    assert "predict raises" in found.message
    expect_pass(CHECK, own(k, lambda model, x, training, h: {"aux": h + 1, "h": h}), x)


def test_python_code_in_a_graph_may_draw_numbers(k, x):
    """In batches of more than two rows, so that a few rows don't show it."""
    rng = np.random.default_rng(0)

    def noisy(h):
        return h + np.float32(rng.normal()) if len(h) > 2 else h

    def code(noise):
        def call(model, x, training, h):
            given = tf.numpy_function(noise, [h], tf.float32)
            given.set_shape([None, 3])
            return given

        return call

    expect_failure(CHECK, own(k, code(noisy)), x, rule="BN002")
    expect_pass(CHECK, own(k, code(np.tanh)), x)


def test_inference_of_several_rows_outside_of_traces(k, x):
    def code(told):
        def call(model, x, training, h):
            several = x.shape[0] is not None and x.shape[0] > 1
            if training is told and several:
                model.calls.assign_add(1.0)
            return h

        return call

    expect_failure(CHECK, own(k, code(False)), x, rule="BN001")
    expect_pass(CHECK, own(k, code(True)), x)


def test_predict_leaves_the_models_call_alone(k, x):
    """A thread that runs the model meanwhile gets what the model gives."""
    model = own(k, lambda model, x, training, h: h)
    call, stop, wrong = vars(k.layers.Layer)["__call__"], threading.Event(), []
    expected = np.asarray(model(x, training=False))

    def infer():
        while not stop.is_set():
            try:
                if not np.array_equal(model(x, training=False), expected):
                    wrong.append("other outputs")
            except Exception as error:
                wrong.append(error)

    thread = threading.Thread(target=infer)
    thread.start()
    try:
        expect_pass(CHECK, model, x)
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert vars(k.layers.Layer)["__call__"] is call


def test_texts_are_no_noise_on_the_screen(k, capfd):
    inputs = k.Input((), dtype="string")
    hashed = k.layers.Hashing(num_bins=8)(inputs)
    model = k.Model(inputs, k.layers.Embedding(8, 3)(hashed))
    expect_pass(CHECK, model, np.array(["a", "b", "c", "d"], object))
    assert "Error" not in capfd.readouterr().err


def test_a_model_of_a_strategy(k, x):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = model_of(k, k.layers.BatchNormalization())
    expect_pass(CHECK, model, x)


def test_calls_outside_of_a_trace_are_as_users_make_them(k, x, capsys):
    class Noting(k.layers.Layer):
        def call(self, h):
            if tf.executing_eagerly():
                sys.stdout.write(f"{tf.config.optimizer.get_experimental_options()}\n")
            return h

    for check in (CHECK, "batch_invariance"):
        expect_pass(check, model_of(k, Noting()), x)
    options = f"{tf.config.optimizer.get_experimental_options()}"
    assert set(capsys.readouterr().out.splitlines()) == {options}


@pytest.mark.parametrize("shape", [[-1], [3, -1], []])
def test_outputs_without_rows_are_compared_as_well(k, x, shape):
    def code(factor):
        def call(model, x, training, h):
            h = tf.exp(tf.tile(h, [1, 5])) * (factor if tf.executing_eagerly() else 1.0)
            return tf.reshape(h, shape) if shape else tf.reduce_sum(h)

        return call

    expect_failure(CHECK, own(k, code(1.001)), x, rule="BN003")
    expect_pass(CHECK, own(k, code(1.0)), x)


@pytest.mark.thorough
@pytest.mark.parametrize("count", [3, 6])
@pytest.mark.parametrize("kind", ["generator", "random operation", "categories"])
def test_code_between_layers_that_draws(k, x, kind, count):
    generator = tf.random.Generator.from_seed(1)
    seeds = keras.random.SeedGenerator(1) if k is keras else None

    def drawn(h):
        if kind == "random operation":
            return tf.nn.dropout(h, 0.5)
        if kind == "categories":
            return h + tf.cast(tf.random.categorical(h, 3), tf.float32)
        if seeds is None:
            return h + generator.normal(tf.shape(h))
        return keras.random.dropout(h, 0.5, seed=seeds)

    class Own(k.Model):
        def __init__(self, always):
            super().__init__()
            self.first, self.head = k.layers.Dense(3, name="first"), k.layers.Dense(3, name="head")
            self.seeds, self.always = seeds, always

        def call(self, x, training=False):
            h = self.first(x)
            return self.head(drawn(h) if self.always or training else h)

    def built(always):
        model = Own(always)
        model(x)
        return model

    expect_failure(
        CHECK,
        built(True),
        x[:count],
        rule="BN002",
        layer="between first and head",
        cause_tested=True,
        cause_contains="the code between first and head draws random numbers",
    )
    expect_verdict("batch_invariance", "vacuous", built(True), x[:count])
    for check in (CHECK, "batch_invariance"):
        expect_pass(check, built(False), x[:count])


def test_what_hangs_on_a_metric(k, x):
    def build(weight):
        class Own(k.Model):
            def __init__(self):
                super().__init__()
                self.dense, self.seen = k.layers.Dense(3), k.metrics.Sum()

            def call(self, x):
                h = self.dense(x)
                self.seen.update_state(tf.abs(h))
                return h + weight * self.seen.result()

        model = Own()
        model(x)
        return model

    expect_failure(CHECK, build(1.0), x, rule="BN002")
    expect_pass(CHECK, build(0.0), x)


class Clip(keras.layers.Layer):
    """Halves rows that are large; outside of a trace all rows, if one of them is."""

    def __init__(self, all_rows):
        super().__init__(name="clip")
        self.all_rows = all_rows

    def call(self, h):
        size = tf.reduce_max(tf.abs(h), axis=-1, keepdims=True)
        if self.all_rows and tf.executing_eagerly():
            return h * 0.5 if float(tf.reduce_max(size)) > 50 else h
        return tf.where(size > 50, h * 0.5, h)


def test_predict_that_runs_outside_of_a_trace_has_the_cause_of_the_call():
    """One odd row: `predict` runs eagerly, so what sets it apart is what the call does there."""
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    x[5] *= 100

    def build(all_rows):
        model = keras.Sequential([keras.Input((4,)), Clip(all_rows), keras.layers.Dense(3)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    found = expect_failure(
        "inference_purity", build(True), x, rule="BN003", layer="clip", cause_tested=True
    )
    assert found.cause == "clip does something else outside of a trace"
    assert set(found.evidence["apart"]) >= {"predict", "model(x)"}
    expect_pass("inference_purity", build(False), x)


def test_rows_of_which_fewer_are_refused():
    """Purity needs no other number of rows: what refuses fewer is told by batch invariance."""

    class Many(keras.layers.Layer):
        def call(self, h):
            with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(h)[0], 5)]):
                return tf.identity(h)

    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), Many(name="many"), keras.layers.Dense(3)])
    result = expect_pass("inference_purity", model, x)
    assert any(note.startswith("not run: predict(dataset)") for note in result.notes)
    expect_failure("batch_invariance", model, x, rule="BN103")
