"""Models that take one number of rows, with data of as many rows as there are, or too few."""

import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

PURE = "inference_purity"


def recurrent(k, *, stateful):
    inputs = k.Input(batch_shape=(6, 4, 1))
    h = k.layers.LSTM(3, stateful=stateful, name="recurrent")(inputs)
    model = k.Model(inputs, k.layers.Dense(1)(h))
    model.compile("sgd", "mse")
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [24, 5])
def test_a_compiled_recurrence_is_evaluated_on_the_rows_that_it_takes(k, rows):
    x = np.random.default_rng(0).standard_normal((rows, 4, 1), np.float32)
    expect_failure(PURE, recurrent(k, stateful=True), x, x[:, 0], rule="BN001", layer="recurrent")
    expect_pass(PURE, recurrent(k, stateful=False), x, x[:, 0])


def test_a_summary_counts_only_what_there_is():
    x = np.ones((4, 2), np.float32)
    result = expect_pass(PURE, lambda x: x * 2, x)
    assert result.summary == "model(x) gives the same bits twice on 4 rows"
