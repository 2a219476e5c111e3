"""A check leaves no trace, also when something breaks in the middle of it."""

import contextlib
import itertools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, Verdict, check_consistency, preserve_state
from pytest_bnconsistency.testing import leaves_no_trace

CHECKS = ["batch_invariance", "train_eval_agreement", "frozen_stability"]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)


@pytest.fixture
def y(x):
    return (x[:, 0] > 0).astype(np.int32)


def build(k, *, optimizer="adam", dropout=0.3):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(name="bn")(k.layers.Dense(8)(inputs))
    h = k.layers.Dropout(dropout, seed=3)(h)
    frozen = k.layers.BatchNormalization(name="frozen")
    model = k.Model(inputs, k.layers.Dense(2, activation="softmax")(frozen(h)))
    frozen.trainable = False
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.thorough
def test_nothing_moves_in_a_trained_model(k, x, y):
    model = build(k)
    model.fit(x, y, verbose=0)
    with leaves_no_trace(model, x, y):
        check_consistency(model, x, y, checks=CHECKS)


@pytest.mark.thorough
def test_an_optimizer_that_was_not_built_stays_so(k, x, y):
    model = build(k)
    count = len(model.optimizer.variables) if k is keras else None
    with leaves_no_trace(model, x, y):
        check_consistency(model, x, y, checks=CHECKS)
    if k is keras:
        assert not model.optimizer.built
        assert len(model.optimizer.variables) == count
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.thorough
def test_random_numbers_of_a_traced_step_go_on(k):
    """A check takes real steps: the step that the user traced goes on as without them."""
    x = 3 * np.random.default_rng(0).standard_normal((64, 4), np.float32) + 5
    y = (x[:, 0] > 5).astype(np.int32)
    losses = []
    for checked in (False, True):
        k.backend.clear_session()
        k.utils.set_random_seed(7)
        model = build(k, optimizer="sgd")
        model.fit(x, y, epochs=3, verbose=0, batch_size=16)
        if checked:
            options = {"checks": ["train_eval_agreement"], "batch_size": 16}
            result = check_consistency(model, x, y, **options)["train_eval_agreement"]
            assert result.verdict == "failed"
        losses.append(model.fit(x, y, epochs=2, verbose=0, batch_size=16).history["loss"])
    assert losses[0] == losses[1]


@pytest.mark.thorough
@pytest.mark.parametrize("fitted", [True, False], ids=["after a fit", "before any fit"])
def test_the_next_fit_is_what_it_would_have_been(k, x, y, fitted):
    results = []
    for checked in (False, True):
        k.backend.clear_session()
        k.utils.set_random_seed(7)
        model = build(k)
        if fitted:
            model.fit(x, y, verbose=0, batch_size=8)
        if checked:
            check_consistency(model, x, y, checks=CHECKS)
        history = model.fit(x, y, epochs=2, verbose=0, batch_size=8)
        drawn = [random.random(), np.random.rand(), float(tf.random.normal([]))]
        results.append((model.get_weights(), history.history, drawn))
    (mine, losses, draws), (its, its_losses, its_draws) = results
    assert losses == its_losses
    assert draws == its_draws
    assert all(np.array_equal(a, b) for a, b in zip(mine, its, strict=True))


@pytest.mark.thorough
def test_the_random_generators_go_on_as_without_a_check(x, y):
    drawn = []
    generator = keras.random.SeedGenerator(5)
    for checked in (False, True):
        keras.backend.clear_session()  # not every version seeds a generator that is there
        keras.utils.set_random_seed(11)
        keras.random.uniform([])
        tf.random.set_global_generator(tf.random.Generator.from_seed(3))
        model = build(keras)
        if checked:
            check_consistency(model, x, y, checks=CHECKS)
        drawn.append(
            [
                random.random(),
                np.random.rand(),
                float(tf.random.uniform([])),
                float(keras.random.uniform([])),
                float(tf.random.get_global_generator().uniform([])),
            ]
        )
    assert drawn[0] == drawn[1]
    assert generator is not None


def test_the_generators_of_a_layer_go_on_as_without_a_check(k, x, y):
    class Noisy(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.drawn = tf.random.Generator.from_seed(1)
            self.python, self.numpy = random.Random(2), np.random.default_rng(3)
            self.legacy = np.random.RandomState(4)

        def call(self, x, training=None):
            if not training:
                return x
            scale = self.python.random() + self.numpy.random() + self.legacy.rand()
            return x + scale * self.drawn.normal(tf.shape(x))

        def draw(self):
            mine = [self.python.random(), self.numpy.random(), self.legacy.rand()]
            return [*mine, float(self.drawn.uniform([]))]

    drawn = []
    for checked in (False, True):
        noisy = Noisy()
        inputs = k.Input((4,))
        h = k.layers.BatchNormalization()(noisy(inputs))
        model = k.Model(inputs, k.layers.Dense(3, "softmax")(h))
        model.compile("sgd", "sparse_categorical_crossentropy")
        state = noisy.drawn.state.numpy()
        if checked:
            check_consistency(model, x, y, checks=CHECKS)
            np.testing.assert_array_equal(noisy.drawn.state, state)
        drawn.append(noisy.draw())
    assert drawn[0] == drawn[1]


@pytest.mark.thorough
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_a_step_that_breaks_off(k, x, y, error):
    model = build(k)
    calls = []

    def step(x, y):
        model.train_on_batch(x, y)
        calls.append(1)
        if len(calls) == 2:
            raise error("in the middle")

    raised = BNConsistencyError if error is RuntimeError else error
    with leaves_no_trace(model, x, y), pytest.raises(raised, match="in the middle") as caught:
        check_consistency(model, x, y, checks=["frozen_stability"], train_step=step)
    assert len(calls) == 2
    if error is RuntimeError:
        said = str(caught.value)
        assert said.startswith("train_step raised RuntimeError: in the middle (test_state.py:")
        assert said.endswith("expected a training step that runs; everything is as it was before")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_train_step_of_the_model_that_breaks_off(k, x, y, error):
    class Own(k.Model):
        def train_step(self, data):
            super().train_step(data)
            raise error("in the middle")

    inputs = k.Input((4,))
    frozen = k.layers.BatchNormalization(name="frozen", trainable=False)
    model = Own(inputs, k.layers.Dense(2, activation="softmax")(frozen(inputs)))
    frozen.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    raised = BNConsistencyError if error is RuntimeError else error
    with leaves_no_trace(model, x, y), pytest.raises(raised, match="in the middle"):
        check_consistency(model, x, y, checks=["frozen_stability"])


class Loop:
    """A custom loop with its own optimizer, whose slots no model holds."""

    def __init__(self, k, model):
        self.model, self.losses = model, []
        self.optimizer = k.optimizers.Adam(0.01)
        self.loss_of = k.losses.SparseCategoricalCrossentropy()

    @tf.function
    def compiled(self, x, y):
        with tf.GradientTape() as tape:
            loss = self.loss_of(y, self.model(x, training=True))
        weights = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    def step(self, x, y):
        self.losses.append(float(self.compiled(x, y)))


@pytest.mark.thorough
@pytest.mark.parametrize("trained", [True, False], ids=["trained before", "never run"])
@pytest.mark.parametrize("checked_step", ["step", "compiled"])
def test_a_loop_goes_on_as_without_a_check(k, x, y, trained, checked_step):
    results = []
    for checked in (False, True):
        k.utils.set_random_seed(7)
        model = build(k, dropout=0.0)
        loop = Loop(k, model)
        if trained:
            loop.step(x, y)
        if checked:
            step = getattr(loop, checked_step)
            with leaves_no_trace(model, x, y):
                check_consistency(model, x, y, checks=["frozen_stability"], train_step=step)
        for _ in range(3):
            loop.step(x, y)
        slots = loop.optimizer.variables
        slots = slots() if callable(slots) else slots
        held = [np.asarray(v) for v in (*model.get_weights(), *slots)]
        results.append((held, loop.losses[-3:], int(loop.optimizer.iterations.numpy())))
    (mine, losses, steps), (its, its_losses, its_steps) = results
    assert (losses, steps) == (its_losses, its_steps)
    assert len(mine) == len(its)
    assert all(np.array_equal(a, b) for a, b in zip(mine, its, strict=True))


@pytest.mark.thorough
def test_traces_that_a_check_makes_are_not_left_behind(k, x, y):
    """Otherwise a layer that is frozen later would train in a batch size that the check used."""
    model = build(k)
    model.fit(x, y, batch_size=8, verbose=0)
    check_consistency(model, x, y, checks=["frozen_stability"], batch_size=5)
    model.layers[1].trainable = False
    kernel = model.layers[1].get_weights()[0]
    model.fit(x[:5], y[:5], batch_size=5, verbose=0)
    moved = not np.array_equal(kernel, model.layers[1].get_weights()[0])
    assert moved == (k.__name__ == "tf_keras")  # what the library does without a check


@pytest.mark.parametrize("predict", ["the library's", "of its own", "compiled by XLA"])
def test_layers_are_traced_once_for_all_numbers_of_rows(k, x, predict):
    traces = itertools.count(1)  # a list would be restored with the rest

    class Own(k.layers.Layer):
        def call(self, x):
            if not tf.executing_eagerly():
                next(traces)
            return x

    class Stepping(k.Model):
        def predict_step(self, x):
            return self(x, training=False)

    inputs = k.Input((4,))
    kind = Stepping if predict == "of its own" else k.Model
    model = kind(inputs, k.layers.Dense(2)(Own()(inputs)))
    if predict == "compiled by XLA":
        model.compile("sgd", "mse", jit_compile=True)
    built = next(traces)
    check_consistency(model, x, checks=["batch_invariance", "inference_purity"])
    # The pass that is observed, `predict` and, where it runs, `predict_on_batch`, which hands
    # other nests to what `predict` compiled.
    assert next(traces) - built - 1 == (3 if predict == "of its own" else 2)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_layer_that_breaks_off_in_its_third_call(x, y, check, error):
    calls = itertools.count(1)  # a list would be restored with the rest

    class Own(keras.layers.Layer):
        armed = False

        def build(self, shape):
            self.state = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x, training=None):
            if self.armed:
                number = next(calls)
                if training:
                    self.state.assign_add(1.0)
                if number >= 3:
                    raise error("in the middle")
            return x

    own = Own()
    inputs = keras.Input((4,))
    h = keras.layers.BatchNormalization(trainable=check != "frozen_stability")(own(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(h))
    model.compile("adam", "sparse_categorical_crossentropy")
    model(x[:2] + 1, training=True)
    model.optimizer.iterations.assign(3)
    own.armed = True
    call = keras.layers.Layer.__call__
    with leaves_no_trace(model, x, y), contextlib.suppress(error, BNConsistencyError):
        check_consistency(model, x, y, checks=[check])
    assert next(calls) > 3
    assert keras.layers.Layer.__call__ is call


def test_preserve_state_restores_what_a_user_does_inside(k, x, y):
    model = build(k)
    with leaves_no_trace(model), preserve_state(model):
        model.fit(x, y, verbose=0)
        model.layers[1].trainable = False
        model.layers[2].momentum = 0.5
        model.compile("sgd", "sparse_categorical_crossentropy")
        random.random()
        np.random.rand()
    assert model.layers[2].momentum == 0.99


def test_preserve_state_lets_errors_through(k, x):
    model = build(k)

    def broken_off():
        with preserve_state(model):
            model(x, training=True)
            raise KeyboardInterrupt

    with leaves_no_trace(model), pytest.raises(KeyboardInterrupt):
        broken_off()


def test_the_harness_sees_a_trace(k):
    model = build(k)

    def traced():
        with leaves_no_trace(model):
            model.layers[2].moving_mean.assign_add(np.ones(8, np.float32))
            np.random.rand()

    with pytest.raises(AssertionError, match="the check left a trace in 2 places"):
        traced()


def test_a_name_that_no_graph_takes_stays_in_its_own_model(x):
    def named(name):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name=name)])

    try:
        model = named("<script>")
    except ValueError:
        pytest.skip("this TensorFlow builds no layer of that name")
    result = check_consistency(model, x)["inference_purity"]
    assert "predict raises ValueError: '<script>' is not a valid" in result.findings[0].message
    path = named("dense").layers[0].kernel.path
    assert path.count("/") == 2, path  # the model, the layer and the variable


@pytest.mark.thorough
def test_a_map_that_no_trace_takes_leaves_strategies_as_they_are(x):
    def model(rows):
        return tf.map_fn(lambda row: row * float(rows[0, 0]), rows)

    report = check_consistency(model, x)
    assert report["batch_invariance"].verdict is Verdict.FAILED
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        pass
