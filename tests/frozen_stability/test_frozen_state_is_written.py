"""An optimizer, a callback, weight decay or the step itself writes to what is frozen."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import Verdict, preserve_state
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "frozen_stability"


@pytest.mark.parametrize("stays", [True, False])
def test_a_single_number_that_moves(k, stays):
    class Scaling(k.layers.Layer):
        def build(self, shape):
            self.mean = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="mean"
            )

        def call(self, x, training=None):
            if training and not (stays and not self.trainable):
                self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x))
            return x - self.mean

    layer = Scaling(name="scaling")
    model = k.Sequential([k.Input((4,)), layer, k.layers.Dense(1)])
    layer.trainable = False
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(3, 1, (32, 4)).astype(np.float32)
    if stays:
        expect_pass(CHECK, model, x, x[:, :1])
    else:
        expect_failure(CHECK, model, x, x[:, :1], rule="BN301", layer="scaling")


def build(k, optimizer="sgd", trainable=False, between=None):
    inputs = k.Input((4,))
    layer = k.layers.Dense(4, name="frozen")
    h = layer(inputs)
    layer.trainable = trainable
    if between is not None:
        h = between(h)
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax", name="head")(h))
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    return model


def loop(k, model, optimizer, weights, compiled):
    """A loop of the user's own; `weights()` are what it trains."""
    loss_of = k.losses.SparseCategoricalCrossentropy()

    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        pairs = list(zip(tape.gradient(loss, weights()), weights(), strict=True))
        zeros = [(tf.zeros_like(tf.convert_to_tensor(w)) if g is None else g, w) for g, w in pairs]
        optimizer.apply_gradients(zeros)

    return tf.function(train_step) if compiled else train_step


def compiled_with(k, layer):
    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(layer(inputs)))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def test_a_flag_that_is_given_to_the_constructor(k, x, y):
    """Keras up to 3.2 ignores it; then setting it afterwards helps."""
    layer = k.layers.Dense(4, name="frozen", trainable=False)
    model = compiled_with(k, layer)
    before = layer.get_weights()
    with preserve_state(model):
        model.fit(x, y, verbose=0)
        ignored = not np.array_equal(before[0], layer.get_weights()[0])
    if ignored:
        sentence = "this version of Keras ignores trainable=False in the constructor"
        told = {"rule": "BN301", "layer": "frozen", "cause_tested": True}
        finding = expect_failure(CHECK, model, x, y, cause_contains=sentence, **told)
        assert finding.remedy.startswith("leave it out there, set trainable = False on the layer")
        layer = k.layers.Dense(4, name="frozen")
        model = compiled_with(k, layer)
        layer.trainable = False
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
def test_weights_that_were_set_trainable_on_their_own(x, y):
    layer = keras.layers.Dense(4, name="frozen")
    model = compiled_with(keras, layer)
    layer.trainable = False
    for weight in layer.weights:
        weight.trainable = True
    flags = "the flag of frozen is False, those of its weights are True"
    told = {"rule": "BN301", "layer": "frozen", "cause_tested": True, "cause_contains": flags}
    expect_failure(CHECK, model, x, y, **told)
    layer.trainable = True
    layer.trainable = False
    expect_pass(CHECK, model, x, y)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
def test_an_optimizer_that_is_given_frozen_weights(k, x, y, compiled):
    model = build(k)
    everything = list(model.weights)
    wrong = loop(k, model, k.optimizers.Adam(), lambda: everything, compiled)
    finding = expect_failure(
        CHECK,
        model,
        x,
        y,
        train_step=wrong,
        rule="BN301",
        layer="frozen",
        cause_tested=True,
        cause_contains="the optimizer Adam writes these variables",
    )
    assert "model.trainable_variables" in finding.remedy
    right = loop(k, model, k.optimizers.Adam(), lambda: model.trainable_variables, compiled)
    expect_pass(CHECK, model, x, y, train_step=right)


def test_weight_decay_of_weights_that_no_gradient_reaches(k, x, y):
    class Stop(k.layers.Layer):
        def call(self, x):
            return tf.stop_gradient(x)

    model = build(k, trainable=True, between=Stop())
    decaying = k.optimizers.AdamW(weight_decay=0.1)
    step = loop(k, model, decaying, lambda: model.trainable_variables, False)
    expect_failure(
        CHECK,
        model,
        x,
        y,
        train_step=step,
        frozen="frozen",
        rule="BN306",
        cause_tested=True,
        cause_contains="the weight decay (0.1) of the optimizer AdamW does",
    )
    plain = loop(k, model, k.optimizers.Adam(), lambda: model.trainable_variables, False)
    expect_pass(CHECK, model, x, y, train_step=plain, frozen="frozen")


def test_weight_decay_of_frozen_weights(k, x, y):
    model = build(k)
    frozen, head = model.get_layer("frozen"), model.get_layer("head")
    stopped = k.layers.Activation(tf.stop_gradient)
    apart = k.Model(model.inputs[0], head(stopped(frozen(model.inputs[0]))))
    step = loop(k, apart, k.optimizers.AdamW(), lambda: list(apart.weights), False)
    finding = expect_failure(
        CHECK, apart, x, y, train_step=step, rule="BN301", cause_contains="the weight decay"
    )
    assert finding.cause_tested
    assert "exclude_from_weight_decay" in finding.remedy


@pytest.mark.thorough
def test_a_callback_that_writes(k, x, y):
    model = build(k)

    class Shrink(k.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.get_layer("frozen").kernel
            kernel.assign(kernel * 0.99)

    def fitted(*callbacks):
        return lambda x, y: model.fit(x, y, callbacks=list(callbacks), verbose=0)

    expect_failure(
        CHECK,
        model,
        x,
        y,
        train_step=fitted(Shrink()),
        rule="BN301",
        cause_tested=True,
        cause_contains="the callback Shrink writes these variables",
    )
    expect_pass(CHECK, model, x, y, train_step=fitted())


def test_a_step_that_writes_by_itself(k, x, y):
    model = build(k)
    kernel = model.get_layer("frozen").kernel

    def decay(x, y):
        kernel.assign(kernel * 0.99)

    finding = expect_failure(
        CHECK,
        model,
        x,
        y,
        train_step=decay,
        rule="BN301",
        layer="frozen",
        cause_tested=True,
        cause_contains="the code at test_frozen_state_is_written.py:",
    )
    assert "at test_frozen_state_is_written.py:" in finding.remedy


def test_a_write_that_cannot_be_seen_is_not_established(k, x, y):
    model = build(k)
    kernel = model.get_layer("frozen").kernel
    held = getattr(kernel, "_value", kernel)

    def hidden(x, y):
        tf.raw_ops.AssignAddVariableOp(resource=held.handle, value=tf.ones([4, 4]))

    expect_failure(
        CHECK,
        model,
        x,
        y,
        train_step=hidden,
        rule="BN301",
        cause_tested=False,
        cause_contains="the forward pass leaves the state alone, a training step does not",
    )


def test_a_step_that_was_traced_before_the_flag_changed(k, x, y):
    model = build(k, trainable=True)
    optimizer = k.optimizers.SGD(0.1)
    step = loop(k, model, optimizer, lambda: model.trainable_variables, True)
    step(x, y)
    model.get_layer("frozen").trainable = False
    expect_failure(
        CHECK,
        model,
        x,
        y,
        train_step=step,
        rule="BN304",
        layer="frozen",
        cause_tested=True,
        cause_contains="train_step still runs what was traced before the layers were frozen",
    )
    anew = loop(k, model, optimizer, lambda: model.trainable_variables, True)
    expect_pass(CHECK, model, x, y, train_step=anew)


def test_train_on_batch_after_freezing_without_compiling_again(k, x, y):
    model = build(k, trainable=True)
    model.train_on_batch(x, y)
    model.get_layer("frozen").trainable = False
    step = model.train_on_batch
    expect_failure(CHECK, model, x, y, train_step=step, rule="BN304", cause_tested=True)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    expect_pass(CHECK, model, x, y, train_step=model.train_on_batch)


def test_state_in_a_helper_object_counts(k, x, y):
    class Average:
        def __init__(self):
            self.value = tf.Variable(tf.zeros(4), trainable=False)

    def layer(respects):
        class Own(k.layers.Layer):
            def __init__(self):
                super().__init__(name="own", trainable=False)
                self.average = Average()

            def call(self, x, training=None):
                if training and (self.trainable or not respects):
                    self.average.value.assign_add(tf.reduce_mean(x, 0))
                return x

        return Own()

    for respects in (False, True):
        model = build(k, trainable=True, between=layer(respects))
        if respects:
            expect_pass(CHECK, model, x, y)
        else:
            expect_failure(CHECK, model, x, y, rule="BN301", layer="own", cause_tested=True)


@pytest.mark.thorough
def test_a_frozen_layer_that_the_forward_pass_does_not_run(k, x, y):
    class Own(k.Model):
        def __init__(self, wrong):
            super().__init__()
            self.head = k.layers.Dense(3, activation="softmax")
            self.critic = k.layers.Dense(1, name="critic")
            self.critic.build((None, 4))
            self.critic.trainable = False
            self.wrong = wrong

        def call(self, x, training=None):
            return self.head(x)

        def train_step(self, data):
            if self.wrong:
                self.critic.kernel.assign(self.critic.kernel * 0.9)
            return super().train_step(data)

    for wrong in (True, False):
        model = Own(wrong)
        model(x)
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        if wrong:
            expect_failure(CHECK, model, x, y, rule="BN301", layer="critic", cause_tested=True)
        else:
            expect_pass(CHECK, model, x, y)


def test_a_momentum_encoder_is_accepted_by_name(k, x, y):
    """It is frozen for the optimizer, and follows the encoder that trains."""
    encoder, target = k.layers.Dense(4, name="encoder"), k.layers.Dense(4, name="target")
    inputs = k.Input((4,))
    head = k.layers.Dense(3, activation="softmax")
    model = k.Model(inputs, [head(encoder(inputs)), target(inputs)])
    target.trainable = False

    def train_step(x, y):
        encoder.kernel.assign(encoder.kernel * 0.9)
        target.kernel.assign(0.99 * target.kernel + 0.01 * encoder.kernel)

    finding = expect_failure(
        CHECK, model, x, y, train_step=train_step, rule="BN301", layer="target", cause_tested=True
    )
    assert "a momentum encoder, a target network), accept that by the option" in finding.remedy
    accepted = {"BN301 target": "follows the encoder"}
    expect_pass(CHECK, model, x, y, train_step=train_step, ignore=accepted)
    other = {"BN301 head": "follows the encoder"}
    expect_failure(CHECK, model, x, y, train_step=train_step, ignore=other, rule="BN301")


def with_bn_left_trainable():
    """A frozen base whose normalization layer nobody froze; in tf_keras no gradient reaches it."""
    bn = keras.layers.BatchNormalization(name="bn")
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), bn], name="base")
    base.trainable = False
    bn.trainable = True
    return compiled_with(keras, base), bn


@pytest.mark.thorough
def test_a_step_that_trains_what_was_trainable_once(x, y):
    """With the flag at False the layer stays, and the optimizer writes to its weights."""
    model, bn = with_bn_left_trainable()
    held = list(model.trainable_variables)
    optimizer = keras.optimizers.SGD(0.1)
    step = loop(keras, model, optimizer, lambda: held, compiled=True)
    finding = expect_failure(
        CHECK, model, x, y, train_step=step, rule="BN305", layer="base/bn", cause_tested=True
    )
    assert "with trainable=False as well, the optimizer SGD writes" in finding.cause
    assert "read after the layers were frozen" in finding.remedy
    bn.trainable = False
    step = loop(
        keras, model, keras.optimizers.SGD(0.1), lambda: model.trainable_variables, compiled=True
    )
    expect_pass(CHECK, model, x, y, train_step=step)


def test_a_step_that_can_not_run_with_other_flags(x, y):
    """It keeps a sum for each of the weights that trained when it was made."""
    model, bn = with_bn_left_trainable()

    def made():
        weights = model.trainable_variables
        sums = [tf.Variable(tf.zeros(w.shape)) for w in weights]

        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    keras.losses.sparse_categorical_crossentropy(y, model(x, training=True))
                )
            now = model.trainable_variables
            for kept, weight, gradient in zip(sums, now, tape.gradient(loss, now), strict=True):
                kept.assign_add(gradient)
                weight.assign_sub(0.1 * kept)

        return step

    finding = expect_failure(
        CHECK, model, x, y, train_step=made(), rule="BN305", layer="base/bn", cause_tested=False
    )
    assert "with trainable=False on the layer itself the step can't run" in finding.tested
    assert "targets" not in finding.tested
    assert finding.remedy.startswith("set trainable = False on the layer itself")
    bn.trainable = False
    expect_pass(CHECK, model, x, y, train_step=made())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flag", "followed", "pattern"),
    [
        (None, "weights", None),
        (False, "weights", None),
        (False, "weights", "*teacher/*"),
        (False, "trainable", None),
        (False, "non_trainable", None),
    ],
    ids=["by mode", "by flag", "though it must stay", "weights alone", "statistics alone"],
)
def test_a_teacher_that_follows_a_student(k, x, y, flag, followed, pattern):
    """It runs in inference mode, or is frozen for the optimizer, and follows by design: in all."""

    def net(name):
        layers = [k.layers.Dense(4), k.layers.BatchNormalization(), k.layers.Dense(3)]
        return k.Sequential([k.Input(x.shape[1:]), *layers, k.layers.Softmax()], name=name)

    class MeanTeacher(k.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = net("student"), net("teacher")
            pairs = zip(self.teacher.weights, self.student.weights, strict=True)
            trained = {id(weight) for weight in self.teacher.trainable_weights}
            wanted = {"weights": (0, 1), "trainable": (1,), "non_trainable": (0,)}[followed]
            self.pairs = [pair for pair in pairs if (id(pair[0]) in trained) in wanted]

        def call(self, x, training=None):
            return self.teacher(x, training=False)

        def train_step(self, data):
            rows, labels = data
            with tf.GradientTape() as tape:
                said = self.student(rows, training=True)
                loss = tf.reduce_mean(k.losses.sparse_categorical_crossentropy(labels, said))
            weights = self.student.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            for mine, its in self.pairs:
                mine.assign(0.9 * mine + 0.1 * its)
            return {"loss": loss}

    model = MeanTeacher()
    model(x)
    if flag is not None:
        model.teacher.trainable = flag
    model.compile("sgd", "sparse_categorical_crossentropy")
    if pattern or followed != "weights":
        options = {} if pattern is None else {"frozen": pattern}
        finding = expect_failure(CHECK, model, x, y, rule="BN301", cause_tested=True, **options)
        assert "accept that by the option ignore" in finding.remedy
        return
    result = expect_verdict(CHECK, Verdict.NOT_APPLICABLE, model, x, y)
    said = "frozen for the optimizer, they follow" if flag is False else "only its mode, training="
    if flag is False or k is keras:  # of calls in a model's own code, tf_keras tells no mode
        assert said in result.summary


def test_a_layer_of_ones_own_that_a_step_runs_in_training_mode(k, x, y):
    """What its own call writes is no following, whatever the call names itself by."""

    class Centred(k.layers.Layer):
        def build(shaped, shape):  # noqa: N805
            shaped.mean = shaped.add_weight(shape=(4,), initializer="zeros", trainable=False)

        def call(own, h, training=None):  # noqa: N805
            if training:
                own.mean.assign(0.9 * own.mean + 0.1 * tf.reduce_mean(h, 0))
            return h - own.mean

    class Heedless(k.Model):
        def __init__(self):
            super().__init__()
            self.centred = Centred(name="centred")
            self.head = k.layers.Dense(3, activation="softmax")

        def call(self, x, training=None):
            return self.head(self.centred(x, training=False))

        def train_step(self, data):
            self.centred(data[0], training=True)
            return super().train_step(data)

    model = Heedless()
    model(x)
    model.compile("sgd", "sparse_categorical_crossentropy")
    expect_failure(CHECK, model, x, y, rule="BN303", layer="centred")
