"""Steps run on batches as the user gives them and as training was traced for; flags are seen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "frozen_stability"
ROWS = 24


@pytest.fixture
def rows():
    drawn = np.random.default_rng(0).integers(0, 255, (ROWS, 4))
    return drawn, (drawn[:, :1] / 255).astype(np.float32)


def transfer(k, inputs=None):
    """A base that trains, and a head; one input, or two in a list."""
    bn = k.layers.BatchNormalization(center=False, scale=False, name="bn")
    base = k.Sequential([k.Input((4,)), k.layers.Dense(4), bn], name="base")
    given = [k.Input((4,), name=name) for name in inputs or ["x"]]
    joined = k.layers.Concatenate()([base(given[0]), *given[1:]]) if inputs else base(given[0])
    model = k.Model(given if inputs else given[0], k.layers.Dense(1, name="head")(joined))
    compiled(model)
    return base, model


def compiled(model):
    model.compile("sgd", "mse", jit_compile=False)


def of_doubles(x, y):
    return (tf.data.Dataset.from_tensor_slices((x.astype(float), y)).batch(8),)


def of_bytes_in_full_batches(x, y):
    slices = tf.data.Dataset.from_tensor_slices((x.astype(np.uint8), y))
    return (slices.batch(5, drop_remainder=True),)


def of_doubles_with_weights(x, y):
    weights = np.linspace(0.5, 1, ROWS)
    return (
        tf.data.Dataset.from_tensor_slices((x.astype(float), y.astype(float), weights)).batch(8),
    )


@pytest.mark.parametrize(
    ("k", "form"),
    [
        (keras, of_doubles),
        (tf_keras, of_doubles),
        (keras, of_bytes_in_full_batches),
        (tf_keras, of_doubles_with_weights),
    ],
)
def test_frozen_late_in_a_data_set(k, rows, form):
    base, model = transfer(k)
    data = form(*rows)
    model.fit(*data, verbose=0, shuffle=False)
    base.trainable = False
    expect_failure(CHECK, model, *data, rule="BN304", cause_tested=True)
    if form is of_doubles and k is keras:
        compiled(model)
        model.fit(*data, verbose=0, shuffle=False)
        expect_pass(CHECK, model, *data)


@pytest.mark.thorough
@pytest.mark.parametrize(("k", "weighted"), [(keras, "class_weight"), (tf_keras, "sample_weight")])
def test_frozen_late_after_a_fit_with_weights(k, rows, weighted):
    x, y = rows[0].astype(np.float32), (rows[1] > 0.5).astype(np.int64)
    base, model = transfer(k)
    weights = {0: 1.0, 1: 3.0} if weighted == "class_weight" else np.linspace(0.5, 1, ROWS)
    model.fit(x, y, verbose=0, batch_size=ROWS, **{weighted: weights})
    base.trainable = False
    expect_failure(CHECK, model, x, y, rule="BN304", cause_tested=True)


@pytest.mark.thorough
def test_frozen_late_after_a_fit_on_other_data_than_the_check_is_given(rows):
    """A data set for `fit`, arrays for the check; and the names of a list of inputs."""
    base, model = transfer(keras, ["left", "right"])
    x, y = dict.fromkeys(("right", "left"), rows[0].astype(float)), rows[1]
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), verbose=0, shuffle=False)
    base.trainable = False
    given = [array.astype(np.float32) for array in x.values()]
    expect_failure(CHECK, model, given, y, rule="BN304", cause_tested=True)
    compiled(model)
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
@pytest.mark.parametrize("named", [False, True], ids=["bare", "dict"])
def test_a_step_that_is_given_x_alone(k, rows, named):
    """After a `fit` of such rows steps run on them again, in the form that the step takes."""

    class Coder(k.Model):
        def train_step(self, data):
            x = data["x"] if named else data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(x, training=True) - x[:, :1]))
            held = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, held), held, strict=True))
            return {"loss": loss}

    base, plain = transfer(k)
    model = Coder(plain.inputs, plain.outputs)
    compiled(model)
    x = rows[0].astype(np.float32)
    given = {"x": x} if named else x
    model.fit(given, batch_size=8, verbose=0)
    base.trainable = False
    expect_failure(CHECK, model, given, rule="BN304", cause_tested=True)
    compiled(model)
    expect_pass(CHECK, model, given)


@pytest.mark.thorough
def test_frozen_late_beside_a_step_of_the_users_own(rows):
    base, model = transfer(keras)
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(tf.cast(x, tf.float32), training=True) - y) ** 2)
        held = model.trainable_variables
        optimizer.apply(tape.gradient(loss, held), held)

    x, y = rows[0].astype(float), rows[1]
    step(x[:16], y[:16])
    base.trainable = False
    expect_failure(CHECK, model, x, y, train_step=step, rule="BN304", cause_tested=True)
    own = tf.function(step.python_function)
    optimizer.build(model.trainable_variables)
    expect_pass(CHECK, model, x, y, train_step=own)


def test_a_step_is_given_what_the_user_gives(rows):
    base, model = transfer(keras)
    base.trainable = False
    compiled(model)
    seen = []

    def step(x, y):
        seen.append((type(x), x.dtype))
        model.train_on_batch(np.asarray(x), np.asarray(y))

    doubles = rows[0].astype(float)
    expect_pass(CHECK, model, doubles, rows[1], train_step=step)
    assert {(kind, str(dtype)) for kind, dtype in seen} == {(np.ndarray, "float64")}
    seen.clear()
    expect_pass(CHECK, model, *of_doubles(*rows), train_step=step)
    assert all(issubclass(kind, tf.Tensor) and dtype == tf.float64 for kind, dtype in seen)


class Validate(keras.callbacks.Callback):
    """Evaluates in the middle of training, with every normalization layer frozen meanwhile."""

    def __init__(self, bn, x, y, *, carefully):
        super().__init__()
        self.bn, self.x, self.y, self.carefully = bn, x, y, carefully

    def on_epoch_end(self, epoch, logs=None):
        was = self.bn.trainable
        self.bn.trainable = False
        self.model.evaluate(self.x, self.y, verbose=0)
        self.bn.trainable = was if self.carefully else True


@pytest.mark.thorough
@pytest.mark.parametrize("carefully", [False, True])
def test_a_callback_that_sets_the_flag(rows, carefully):
    base, model = transfer(keras)
    base.trainable = False
    compiled(model)
    x, y = rows[0].astype(np.float32), rows[1]
    callback = Validate(base.layers[-1], x, y, carefully=carefully)

    def step(x, y):
        model.fit(x, y, batch_size=len(x), epochs=2, verbose=0, callbacks=[callback])

    if carefully:
        expect_pass(CHECK, model, x, y, train_step=step)
        return
    finding = expect_failure(
        CHECK, model, x, y, train_step=step, rule="BN301", layer="base/bn", cause_tested=True
    )
    assert finding.cause.startswith("the callback Validate at test_frozen_in_the_form")
    assert "sets trainable of base/bn from False to True" in finding.cause


@pytest.mark.thorough
def test_a_step_that_thaws_and_freezes_again(k, rows):
    base, model = transfer(k)
    base.trainable = False
    compiled(model)
    x, y = rows[0].astype(np.float32), rows[1]

    def step(x, y):
        base.trainable = True
        compiled(model)
        model.train_on_batch(x, y)
        base.trainable = False

    finding = expect_failure(CHECK, model, x, y, train_step=step, rule="BN301", cause_tested=True)
    assert "sets trainable of base/" in finding.cause
    assert "and 1 more from False to True" in finding.cause


@pytest.mark.thorough
def test_a_train_step_that_thaws_a_part_for_its_turn(rows):
    """As a GAN does with its discriminator: what was traced before writes to it as well."""

    class Turns(keras.Model):
        def train_step(self, data):
            x, y = data
            base.trainable = True
            self.turn(x, y, base)
            base.trainable = False
            return {"loss": self.turn(x, y, self)}

        def turn(self, x, y, part):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
            held = part.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, held), held, strict=True))
            return loss

    base, plain = transfer(keras)
    model = Turns(plain.inputs, plain.outputs)
    compiled(model)
    x, y = rows[0].astype(np.float32), rows[1]
    model.optimizer.build(model.trainable_variables)
    model.fit(x, y, batch_size=6, verbose=0)
    finding = expect_failure(CHECK, model, x, y, rule="BN301")
    assert "sets trainable of base/" in finding.cause
    assert "in its turn" in finding.remedy


def test_a_flag_that_no_step_has_read_yet(rows):
    base, model = transfer(keras)
    base.trainable = False
    compiled(model)
    x, y = rows[0].astype(np.float32), rows[1]
    model.fit(x[:15], y[:15], batch_size=8, verbose=0)  # traced for any number of rows

    def step(x, y):
        model.fit(x, y, verbose=0)
        base.layers[-1].trainable = True

    notes = expect_pass(CHECK, model, x, y, train_step=step).notes
    assert [
        note for note in notes if "leaves trainable = True on base/bn, which was False" in note
    ]
