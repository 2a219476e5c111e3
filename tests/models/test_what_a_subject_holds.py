"""What stands in a model, or around it, and no pass runs; data by the names of inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, assert_batch_invariance
from pytest_bnconsistency.testing import expect_failure, expect_pass

BATCH, PURITY, FROZEN = "batch_invariance", "inference_purity", "frozen_stability"


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((16, 4), np.float32)


def net(k, name):
    inputs = k.Input((4,))
    inner = k.Sequential([k.Input((4,)), k.layers.BatchNormalization(name="bn")], name="inner")
    return k.Model(inputs, inner(k.layers.Dense(4, name="dense")(inputs)), name=name)


def distiller(k, teacher, *, training):
    class Distiller(k.Model):
        def __init__(self):
            super().__init__()
            self.parts, self.student = [teacher], net(k, "student")

        def call(self, x, training=None):
            return self.student(x, training=training)

        def train_step(self, data):
            x = data[0] if isinstance(data, tuple) else data
            with tf.GradientTape() as tape:
                wanted = self.parts[0](x, training=training)
                loss = tf.reduce_mean((self.student(x, training=True) - wanted) ** 2)
            held = self.student.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, held), held, strict=True))
            return {"loss": loss}

    model = Distiller()
    model(np.zeros((2, 4), np.float32))
    model.compile("sgd", jit_compile=False)
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("pattern", ["teacher/*", "*inner/bn"])
def test_a_teacher_that_the_forward_pass_does_not_run(k, rows, pattern):
    model = distiller(k, net(k, "teacher"), training=True)
    options = {"frozen": pattern.replace("*inner", "teacher/inner")}
    expect_failure(
        FROZEN, model, rows, rule="BN306", layer="teacher/inner/bn", cause_tested=True, **options
    )
    if pattern == "teacher/*":
        expect_pass(FROZEN, distiller(k, net(k, "teacher"), training=False), rows, **options)


@pytest.mark.thorough
def test_a_child_that_trains_in_a_frozen_teacher(rows):
    teacher = net(keras, "teacher")
    teacher.trainable = False
    teacher.get_layer("inner").get_layer("bn").trainable = True
    expect_failure(
        FROZEN,
        distiller(keras, teacher, training=True),
        rows,
        rule="BN305",
        layer="teacher/inner/bn",
        cause_tested=True,
    )


def test_rows_by_the_names_of_a_list_of_inputs(k, rows):
    """In another order than the inputs, with more than the model takes, which is left out."""
    inputs = [k.Input((4,), name="user"), k.Input((1,), name="age")]
    model = k.Model(inputs, k.layers.Dense(2)(k.layers.Concatenate()(inputs)))
    model.compile("sgd", "mse")
    x = {"age": rows[:, :1], "user": rows, "zip": rows[:, 1]}
    for check in (BATCH, PURITY):
        expect_pass(check, model, x)
    batches = tf.data.Dataset.from_tensor_slices((x, rows[:, :2])).batch(8)
    expect_pass(BATCH, model, batches)
    with pytest.raises(BNConsistencyError, match="x lacks the inputs age; expected age, user"):
        assert_batch_invariance(model, {"user": rows})


def interpreter_of_tanh(kernel):
    # Constants: TensorFlow 2.16 aborts the process where it converts variables of Keras 3.
    served = tf.function(
        lambda x: tf.tanh(x @ kernel), [tf.TensorSpec([None, len(kernel)], tf.float32)]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([served.get_concrete_function()])
    lite = tf.lite.Interpreter(model_content=converter.convert())
    return (lite, lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"])


@pytest.mark.filterwarnings("ignore")
def test_a_function_around_an_interpreter(rows):
    lite, taken, given = interpreter_of_tanh(np.eye(4, 3, dtype=np.float32))

    def served(x):
        x = np.asarray(x, np.float32)
        lite.resize_tensor_input(taken, x.shape)  # refused while somebody holds its parts
        lite.allocate_tensors()
        lite.set_tensor(taken, x)
        lite.invoke()
        return lite.get_tensor(given)

    expect_pass(BATCH, served, rows)
    expect_pass(PURITY, served, rows)

    class Server:
        def __init__(self):
            self.lite = lite

        def __call__(self, x):
            outputs = served(x)
            return outputs - outputs.mean(0)

    expect_failure(BATCH, Server(), rows, rule="BN101")


def test_a_function_that_gives_views_of_its_own_buffer(rows):
    buffer = np.zeros((64, 4), np.float32)

    def served(x):
        buffer[: len(x)] = np.asarray(x) * 2
        return buffer[: len(x)]

    expect_pass(BATCH, served, rows)
    expect_pass(PURITY, served, rows)
