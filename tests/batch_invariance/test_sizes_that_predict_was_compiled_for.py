"""`predict` that was compiled for some number of rows before the model changed."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "batch_invariance"


@pytest.fixture
def adapted(k):
    """A model, and a function that adapts its `Normalization`."""
    x = np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)
    layer, inputs = k.layers.Normalization(name="norm"), k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(3)(layer(inputs)))
    return model, x, lambda: layer.adapt(x)


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [32, 8, 5])
@pytest.mark.parametrize("method", ["predict_on_batch", "predict"])
def test_a_size_that_was_compiled_before_the_model_changed(adapted, method, rows):
    model, x, adapt = adapted

    options = {"batch_size": 64, "verbose": 0} if method == "predict" else {}

    def run(count):
        return np.asarray(getattr(model, method)(x[:count], **options))

    run(rows)
    expect_pass(CHECK, model, x)
    adapt()
    if np.abs(run(rows) - run(rows + 1)[:rows]).max() > 1:
        found = expect_failure(
            CHECK, model, x, rule="BN104", layer="the compiled function", cause_tested=True
        )
        assert "predict_function = None" in found.remedy
        model.predict_function = None
    else:
        assert method == "predict"  # one of the libraries compiles it for any number at once
    expect_pass(CHECK, model, x)


def test_all_sizes_that_were_compiled_before_the_model_changed(adapted):
    """What is off inference is no row's dependence on its batch: inference purity says it."""
    model, x, adapt = adapted
    for rows in (5, 6):  # the second has it compiled for any number
        model.predict(x[:rows], batch_size=64, verbose=0)
    adapt()
    off = np.abs(model.predict(x[:7], verbose=0) - np.asarray(model(x[:7]))).max()
    verdicts = {True: "failed", False: "passed"}
    expect_verdict("inference_purity", verdicts[bool(off > 1)], model, x)


def test_an_output_without_rows_beside_one_with_rows(k):
    class Scaled(k.Model):
        def __init__(self):
            super().__init__()
            self.head = k.layers.Dense(3)
            self.scale = tf.constant(2.0)

        def call(self, x, training=None):
            return {"embedding": self.head(x), "scale": self.scale}

    model, x = Scaled(), np.random.default_rng(0).normal(3, 2, (8, 4)).astype(np.float32)
    model(x)
    expect_pass(CHECK, model, x)
    model.predict_on_batch(x)
    expect_pass(CHECK, model, x)
