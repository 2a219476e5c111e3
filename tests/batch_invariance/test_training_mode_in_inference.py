"""Layers that run in training mode in inference, whoever asked for it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import drawing_block, functional, moved_by_call, with_bn

from pytest_bnconsistency import Verdict
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"


TRAINING_MODE, ROWS_MIX = "BN102", "BN101"


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


@pytest.mark.thorough
def test_the_call_around_a_nested_model_is_named(k, x):
    layers = [k.layers.Dense(4), k.layers.BatchNormalization(name="bn")]
    base = k.Sequential([k.Input((4,)), *layers], name="base")
    model = functional(k, lambda h: base(h, training=True))
    cause = "because base is called with training=True"
    expect_failure(
        CHECK,
        model,
        x,
        rule=TRAINING_MODE,
        cause_contains=cause,
        remedy=lambda _: functional(k, lambda h: base(h)),
    )


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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_default_of_training_leaks_from_a_layer_upstream(x):
    def build(default):
        class Noise(keras.layers.Layer):
            def call(self, x, training=default):
                return x

        bn = keras.layers.BatchNormalization(name="bn")
        return functional(keras, lambda h: bn(keras.layers.Dense(4)(Noise(name="noise")(h))))

    if not moved_by_call(build(True), x, "bn"):  # as in Keras 3.16
        expect_pass(CHECK, build(True), x)
        return
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


@pytest.mark.thorough
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
    finding = expect_failure(
        CHECK,
        model,
        x,
        rule=TRAINING_MODE,
        layer="norm",
        cause_tested=True,
        remedy=lambda _: functional(k, lambda h: Own(name="norm")(h, training=False)),
    )
    assert finding.evidence["fails"] == ["model(x)"]


def test_training_mode_baked_around_a_layer_that_draws_by_itself(k, x):
    model = functional(k, lambda h: drawing_block(k)(h, training=True))
    expect_failure(CHECK, model, x, rule=TRAINING_MODE, layer="block/bn")


@pytest.mark.thorough
def test_rows_that_meet_in_state_alone(k, x):
    """A codebook that follows the rows: in inference it should stay."""

    class Codebook(k.layers.Layer):
        def __init__(self, always):
            super().__init__(name="codebook")
            self.always = always

        def build(self, shape):
            self.codes = self.add_weight(
                name="codes", shape=(3, 4), initializer=k.initializers.Identity(), trainable=False
            )

        def call(self, h, training=None):
            near = tf.argmin(tf.reduce_sum((h[:, None] - self.codes) ** 2, -1), -1)
            if self.always or training:
                mean = tf.math.unsorted_segment_mean(h, near, 3)
                self.codes.assign(0.9 * self.codes + 0.1 * mean)
            return tf.gather(tf.convert_to_tensor(self.codes), near)

    def build(always):
        inputs = k.Input((4,))
        return k.Model(inputs, k.layers.Dense(2)(Codebook(always)(inputs)))

    found = expect_failure(
        CHECK, build(True), x, rule="BN101", layer="codebook", cause_tested=True
    )
    assert found.cause.startswith("inference writes state, which the rows read in codebook: the")
    assert found.remedy.startswith("write state only `if training`")
    expect_pass(CHECK, build(False), x)


@pytest.mark.thorough
def test_training_mode_in_a_saved_model(x, tmp_path):
    """Nothing in it can be told in which mode to run: what moves beside the rows says it."""

    def saved(name, **called):
        inputs = keras.Input((4,))
        h = keras.layers.BatchNormalization(name="norm")(inputs, **called)
        keras.Model(inputs, keras.layers.Dense(2)(h)).export(tmp_path / name)
        return tf.saved_model.load(tmp_path / name)

    faulty = saved("faulty", training=True)
    for check, rule, export in (
        (CHECK, "BN101", "export again what was saved"),
        ("inference_purity", "BN001", "in training mode: do so again in inference mode"),
    ):
        assert export in expect_failure(check, faulty, x, rule=rule).remedy
    sound = saved("sound")
    expect_pass(CHECK, sound, x)
    expect_pass("inference_purity", sound, x)


@pytest.mark.parametrize(("rate", "verdict"), [(0.0, "failed"), (0.1, "vacuous")])
def test_a_predict_step_in_training_mode_with_dropout_behind(k, rate, verdict):
    """Where the step draws, none of its layers can be compared: the other calls don't clear it."""

    class Sampled(k.Model):
        def predict_step(self, data):
            x = data[0] if isinstance(data, tuple) else data
            return (self(x, training=True) + self(x, training=True)) / 2

    inputs = k.Input((5,))
    h = k.layers.BatchNormalization()(k.layers.Dense(6)(inputs))
    h = k.layers.Dropout(rate)(h) if rate else h
    model = Sampled(inputs, k.layers.Dense(2)(h))
    x = np.random.default_rng(0).normal(2, 1, (8, 5)).astype(np.float32)
    result = expect_verdict("batch_invariance", verdict, model, x)
    if rate:
        assert "second run of predict, of which no layer can be looked at" in result.summary
