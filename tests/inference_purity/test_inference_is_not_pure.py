"""State that moves in inference, and random numbers that it draws."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import model_of

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "inference_purity"


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def test_training_mode_moves_the_statistics(k, x):
    inputs = k.Input((4,))
    h = k.layers.BatchNormalization(name="bn")(inputs, training=True)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    found = expect_failure(
        CHECK,
        model,
        x,
        rule="BN001",
        layer="bn",
        cause_tested=True,
        cause_contains="training mode",
    )
    assert "model(x)" in found.evidence["moves"]
    expect_pass(CHECK, model_of(k, k.layers.BatchNormalization()), x)


@pytest.mark.parametrize("built", [["early", "late"], ["late", "early"]])
def test_the_first_of_two_layers_that_move(k, x, built):
    def model(mode):
        layers = {name: k.layers.BatchNormalization(name=name) for name in built}
        for name in built:
            layers[name].build((None, 4))
        inputs = k.Input((4,))
        h = layers["early"](inputs, training=mode)
        return k.Model(inputs, k.layers.Dense(3)(layers["late"](h, training=mode)))

    found = expect_failure(CHECK, model(True), x, rule="BN001", layer="early", cause_tested=True)
    assert found.evidence["layers"] == ["early", "late"]
    expect_pass(CHECK, model(None), x)


SEEN = tf.Variable(0.0, trainable=False)
"""No layer holds it: the code of one refers to it by name."""


def add_to_seen(x):
    SEEN.assign_add(tf.reduce_sum(tf.abs(x)))


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_a_variable_that_no_layer_holds(k, x, moved, read):
    class Noting(k.layers.Layer):
        def call(self, x, training=None):
            if training or moved:
                add_to_seen(x)
            return x + SEEN if read else x

    model = model_of(k, Noting(name="noting"))
    before = SEEN.numpy()
    if moved:
        cause = "noting writes state in inference as well: the code at"
        found = expect_failure(
            CHECK, model, x, rule="BN001", layer="noting", cause_tested=True, cause_contains=cause
        )
        assert "test_inference_is_not_pure.py" in found.cause
    else:
        expect_pass(CHECK, model, x)
    assert SEEN.numpy() == before


@pytest.mark.parametrize("moved", [True, False])
def test_a_state_of_the_layers_own(k, x, moved):
    class Counting(k.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(
                name="count", shape=(), initializer="zeros", trainable=False
            )

        def call(self, x, training=None):
            if training or moved:
                self.count.assign_add(1.0)
            return x

    model = model_of(k, Counting(name="own"))
    if moved:
        found = expect_failure(CHECK, model, x, rule="BN001", layer="own", cause_tested=True)
        where = "the code at test_inference_is_not_pure.py"
        assert found.cause.startswith(f"own writes state in inference as well: {where}")
    else:
        expect_pass(CHECK, model, x)


@pytest.mark.parametrize("moved", [True, False])
def test_a_state_of_the_models_own(k, x, moved):
    class Tracking(k.Model):
        def __init__(self):
            super().__init__(name="tracking")
            self.head = k.layers.Dense(3)
            self.mean = self.add_weight(
                name="mean", shape=(3,), initializer="zeros", trainable=False
            )

        def call(self, x, training=None):
            h = self.head(x)
            if training or moved:
                self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(h, 0))
            return h

    model = Tracking()
    model(x, training=False)
    if moved:
        expect_failure(CHECK, model, x, rule="BN001", layer="tracking")
    else:
        expect_pass(CHECK, model, x)


@pytest.mark.parametrize("moved", [True, False])
def test_a_state_that_predict_alone_moves(k, x, moved):
    class Counting(k.Model):
        def predict_step(self, data):
            if moved:
                self.count.assign_add(1.0)
            return super().predict_step(data)

    model = model_of(k, kind=Counting)
    model.count = tf.Variable(0.0)
    model.seen = k.metrics.Mean()
    if moved:
        found = expect_failure(
            CHECK, model, x, rule="BN001", layer="predict_step", cause_tested=True
        )
        assert found.cause == "the model's own Counting.predict_step writes state"
        assert "model(x)" in found.evidence["holds"]
        assert found.evidence["layers"] == [model.name]
    else:
        expect_pass(CHECK, model, x)


def test_dropout_that_is_always_on(k, x):
    inputs = k.Input((4,))
    h = k.layers.Dropout(0.5, name="drop")(inputs, training=True)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    found = expect_failure(
        CHECK, model, x, rule="BN002", layer="drop", cause_tested=True, cause_contains="drop draws"
    )
    assert "model(x)" in found.evidence["random"]
    expect_pass(CHECK, model_of(k, k.layers.Dropout(0.5)), x)


@pytest.mark.parametrize("places", [1, 2])
def test_noise_in_the_code_of_a_layer(k, x, places):
    class Noise(k.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = model_of(k, *(Noise(name=f"noise{i}") for i in range(places)))
    found = expect_failure(CHECK, model, x, rule="BN002", layer="noise0", cause_tested=True)
    assert found.evidence["layers"] == ["noise0", "noise1"][:places]


@pytest.mark.thorough
def test_a_metric_that_the_outputs_hang_on(k, x):
    """A metric may count in inference; where outputs read it, rows meet there."""

    class Centred(k.layers.Layer):
        def __init__(self, reads):
            super().__init__(name="centred")
            self.level, self.reads = k.metrics.Mean(name="level"), reads

        def call(self, x):
            self.level.update_state(tf.reduce_mean(x))
            return x - self.level.result() if self.reads else x

    def build(reads):
        model = model_of(k, Centred(reads))
        model(x + 1)
        return model

    found = expect_failure(CHECK, build(True), x, rule="BN002", layer="centred", cause_tested=True)
    assert found.cause == "the outputs hang on a metric of centred, which each call changes"
    mixing = {"rule": "BN101", "layer": "centred", "cause_tested": True}
    expect_failure("batch_invariance", build(True), x, **mixing)
    for check in (CHECK, "batch_invariance"):
        expect_pass(check, build(False), x)


def test_a_counter_in_python(k, x):
    def build(step):
        class Counting(k.layers.Layer):
            count = 1

            def call(self, x):
                self.count += step
                return x * self.count

        return model_of(k, Counting())

    faulty = expect_verdict(CHECK, "failed", build(1), x)
    # `predict` repeats itself: its trace keeps the count, and so differs from the calls.
    assert [finding.rule for finding in faulty.findings] == ["BN002", "BN003"]
    assert faulty.findings[0].evidence["random"] == ["model(x)", "model(x, training=False)"]
    assert not any("rounding" in note for note in faulty.notes)
    expect_pass(CHECK, build(0), x)


def test_a_batch_that_python_keeps(k, x):
    """`predict` and a trace see nothing of it, and are not to blame."""

    class Keeping(k.layers.Layer):
        last = None

        def call(self, x):
            if not tf.executing_eagerly():
                return x
            last, self.last = self.last, tf.identity(x)
            return x if last is None or last.shape != x.shape else x + 0.1 * last

    found = expect_failure(CHECK, model_of(k, Keeping()), x, rule="BN002")
    assert "keep nothing from one call to the next" in found.remedy
    assert not found.cause_tested


def test_a_default_of_training(k, x):
    class Doubled(k.layers.Layer):
        def call(self, x, training=True):
            return 2 * x if training else x

    model = model_of(k, Doubled(name="own"))
    found = expect_failure(
        CHECK, model, x, rule="BN003", layer="own", cause_tested=True, cause_contains="own runs in"
    )
    assert list(found.evidence["apart"]) == ["model(x)"]


def test_training_mode_in_a_predict_step(k, x):
    class Own(k.layers.Layer):
        def call(self, x, training=None):
            return 2 * x if training else x

    class Model(k.Model):
        def predict_step(self, data):
            rows = data[0] if isinstance(data, tuple) else data
            return self(rows, training=True)

    model = model_of(k, Own(name="own"), kind=Model)
    found = expect_failure(
        CHECK, model, x, rule="BN003", cause_tested=True, cause_contains="training mode"
    )
    assert set(found.evidence["apart"]) == {"predict", "predict(dataset)", "predict_on_batch"}
