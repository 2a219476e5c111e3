"""Weights that are of another model: its statistics may not have come with them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"


class Teacher(keras.Model):
    """It answers by the average of a student's weights: of those that train, or of all."""

    def __init__(self, averaged, student_trains=False):
        super().__init__()
        self.student, self.teacher = map(net, ("student", "teacher"))
        self.averaged, self.student_trains = averaged, student_trains
        for teacher, student in self.pairs("weights"):
            teacher.assign(student)

    def pairs(self, which):
        return zip(getattr(self.teacher, which), getattr(self.student, which), strict=True)

    def call(self, x, training=None):
        if training and self.student_trains:
            return self.student(x, training=True)
        return self.teacher(x, training=False)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self.student(x, training=True))
        weights = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        for teacher, student in self.pairs(self.averaged):
            teacher.assign(0.9 * teacher + 0.1 * student)
        return {"loss": loss}


def net(name):
    layers = keras.layers
    norm = layers.BatchNormalization(momentum=0.8, name="bn")
    last = layers.Dense(3, activation="softmax")
    return keras.Sequential([keras.Input((4,)), norm, last], name=name)


def trained(*how):
    y = np.arange(96) % 3
    x = np.random.default_rng(0).normal(8 + 15 * np.eye(3, 4)[y], 5).astype(np.float32)
    model = Teacher(*how)
    model(x[:1])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=60, verbose=0)
    return model, x, y


@pytest.mark.thorough
@pytest.mark.parametrize("averaged", ["trainable_variables", "weights"])
@pytest.mark.parametrize("flag", [True, False])
def test_an_averaged_copy_that_evaluation_runs(averaged, flag):
    """Training mode runs the network itself, whose statistics are as they should be."""
    model, x, y = trained(averaged, True)
    model.teacher.trainable = flag
    if averaged == "weights":
        expect_pass(CHECK, model, x, y)
        return
    finding = expect_failure(CHECK, model, x, y, rule="BN203", layer="teacher/bn")
    assert "that evaluation alone runs are exactly their initial values" in finding.message
    model.teacher.layers[0].moving_mean.assign(x.mean(0) + 40.0)
    expect_failure(CHECK, model, x, y, rule="BN204", layer="teacher/bn", cause_tested=True)
    model.teacher.trainable = True  # recalibrate refuses what is frozen
    recalibrate(model.teacher, x)
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
@pytest.mark.parametrize("averaged", ["trainable_variables", "weights"])
def test_a_teacher_that_averages_the_weights_of_a_student(averaged):
    """That no step reaches its layers is meant; recalibrated, it is as good as the student."""
    model, x, y = trained(averaged)
    if averaged == "weights":
        expect_verdict(CHECK, "not applicable", model, x, y)
        return
    expect_failure(
        CHECK,
        model,
        x,
        y,
        rule="BN203",
        layer="teacher/bn",
        cause_tested=True,
        cause_contains="which were not copied",
    )
    before = model.evaluate(x, y, verbose=0)
    recalibrate(model.teacher, x)
    assert model.evaluate(x, y, verbose=0) < before / 2
