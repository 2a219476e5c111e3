"""A model may be compiled without a loss, as where a loop or a step of one's own trains it."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


@pytest.fixture
def rows():
    x = np.random.default_rng(0).normal(3, 2, (256, 4)).astype(np.float32)
    return x, x[:, :1]


def trained_by_a_loop(k, x, momentum, penalty=None):
    bn = k.layers.BatchNormalization(momentum=momentum, name="bn")
    model = k.Sequential([k.Input((4,)), bn, k.layers.Dense(2, kernel_regularizer=penalty)])
    model.compile()
    for start in range(0, len(x), 32):
        model(x[start : start + 32], training=True)
    return model


@pytest.mark.parametrize("penalty", [None, "l2"])
@pytest.mark.every_case
def test_it_is_judged_by_its_outputs(k, rows, penalty):
    x, y = rows
    expect_failure(CHECK, trained_by_a_loop(k, x, 0.99, penalty), x, y, rule="BN201", layer="bn")
    expect_pass(CHECK, trained_by_a_loop(k, x, 0.5, penalty), x, y)


def test_no_other_check_is_kept_from_an_answer(k, rows):
    verdicts = {
        r.check: r.verdict.value
        for r in check_consistency(trained_by_a_loop(k, *rows[:1], 0.5), *rows)
    }
    assert verdicts["inference_purity"] == verdicts["batch_invariance"] == "passed"


def test_a_step_of_its_own_may_take_other_rows_than_are_checked(k, rows):
    class Pairs(k.Sequential):
        def train_step(self, data):
            (one, _), (other, _) = data
            self(one, training=True)
            self(other, training=True)
            return {}

    bn = k.layers.BatchNormalization(momentum=0.5, name="bn")
    model = Pairs([k.Input((4,)), bn, k.layers.Dense(2)])
    model.compile()
    for _ in range(20):
        model(rows[0], training=True)
    expect_pass(CHECK, model, *rows)


@pytest.mark.thorough
def test_a_loss_that_layers_add_is_one(k, rows):
    class Distance(k.layers.Layer):
        def call(self, inputs):
            x, of = inputs
            self.add_loss(tf.reduce_mean(tf.abs(x - of)))
            return x

    x = rows[0]
    inputs = k.Input((4,))
    h = k.layers.Dense(4)(k.layers.BatchNormalization(momentum=0.5, name="bn")(inputs))
    model = k.Model(inputs, Distance()([h, inputs]))
    model.compile("sgd")
    model.fit(x, epochs=5, verbose=0)
    expect_pass(CHECK, model, x)
