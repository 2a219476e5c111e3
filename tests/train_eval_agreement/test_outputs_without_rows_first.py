"""Outputs that have the rows elsewhere, or that are of no row, beside others or alone."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"
ops = keras.ops


class Gives(keras.Model):
    """`outputs` are made of what the model says of each row, and of a table that it holds."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs_of = outputs
        self.first = keras.layers.Dense(5)
        self.norm = keras.layers.BatchNormalization(momentum=0.8, name="bn")

    def call(self, x, training=None):
        return self.outputs_of(self.norm(self.first(x), training=training), self.first.kernel)


def trained(outputs, shape=(4,)):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(2.0, 3.0, (200, *shape)).astype(np.float32)
    model = Gives(outputs)
    for batch in [x[:40], *np.split(x, 5)] * 8:
        model(batch, training=True)
    return model, x


FORMS = {
    "beside a number": lambda h, table: (h, ops.mean(h)),
    "beside a table": lambda h, table: {"scores": h, "anchors": ops.tile(table, (8, 1))},
    "joined with their channels": lambda h, table: ops.reshape(h, (-1,)),
    "last": lambda h, table: ops.transpose(h),
}


@pytest.mark.thorough
@pytest.mark.parametrize("outputs", FORMS.values(), ids=FORMS)
def test_rows_are_found_where_they_are(outputs):
    """A table of 32 lines is as long as a batch, and a batch at the end is shorter."""
    model, x = trained(outputs)
    expect_pass(CHECK, model, x)
    model.norm.moving_mean.assign(model.norm.moving_mean + 20.0)
    expect_failure(CHECK, model, x, rule="BN204", layer="bn")


@pytest.mark.thorough
def test_steps_before_rows():
    model, x = trained(lambda h, table: ops.transpose(h, (1, 0, 2)), shape=(6, 4))
    expect_pass(CHECK, model, x)
    model.norm.moving_mean.assign(model.norm.moving_mean + 20.0)
    expect_failure(CHECK, model, x, rule="BN204", layer="bn")


def test_a_sum_over_all_rows_says_nothing_of_one():
    model, x = trained(lambda h, table: ops.sum(h, axis=0))
    result = expect_verdict(CHECK, "vacuous", model, x)
    assert result.summary == "no output says something of each row"
