"""State that inference moves only on rows beyond those it has seen."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "inference_purity"


class Largest(keras.layers.Layer):
    """Divides by the largest number so far."""

    def __init__(self, writes):
        super().__init__(name="largest")
        self.writes = writes

    def build(self, shape):
        self.seen = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False)

    def call(self, x, training=None):
        if self.writes == "always" or training:
            self.seen.assign(keras.ops.maximum(self.seen, keras.ops.max(keras.ops.abs(x), axis=0)))
        elif self.writes == "the same":
            self.seen.assign(keras.ops.maximum(self.seen, 0.0))
        return x / (self.seen + 1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("writes", ["always", "in training", "the same"])
def test_a_largest_number_that_the_rows_do_not_exceed(writes):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), Largest(writes), keras.layers.Dense(2)])
    model(x, training=True)
    if writes != "always":
        expect_pass(CHECK, model, x)
        return
    finding = expect_failure(CHECK, model, x, rule="BN001", layer="largest", cause_tested=True)
    assert "writes state in inference as well" in finding.cause
