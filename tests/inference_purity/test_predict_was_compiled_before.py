"""`predict` that was compiled before the model changed, for rows of one shape, dtype or nest."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "inference_purity"


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)


class Adapted:
    """A model with a `Normalization` that is adapted once `predict` has run."""

    def __init__(self, k, x):
        self.layer, inputs = k.layers.Normalization(name="norm"), k.Input((4,))
        self.model, self.change = k.Model(inputs, k.layers.Dense(3)(self.layer(inputs))), x

    def __call__(self):
        self.layer.adapt(self.change)


class Tempered:
    """A model with a number in Python that is set once `predict` has run."""

    def __init__(self, k, x):
        class Temperature(k.layers.Layer):
            by = 1.0

            def call(self, h):
                return h / self.by

        self.layer, inputs = Temperature(name="temperature"), k.Input((4,))
        self.model = k.Model(inputs, self.layer(k.layers.Dense(3)(inputs)))

    def __call__(self):
        self.layer.by = 2.0


class Replaced(Tempered):
    """A model whose weight is an array that is replaced."""

    def __init__(self, k, x):
        super().__init__(k, x)
        self.layer.by = np.ones(3, np.float32)

    def __call__(self):
        self.layer.by = np.array([1, 2, 3], np.float32)


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(3)


CALLS = {
    "five rows": lambda model, x: model.predict(x[:5], verbose=0),
    "more rows than are checked": lambda model, x: model.predict(x, verbose=0),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x[:3]),
    "x and y": lambda model, x: model.predict(batches(x[:6], x[:6, :3]), verbose=0),
    "float64": lambda model, x: model.predict(batches(x[:6].astype(float)), verbose=0),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("build", "call"),
    [*((Adapted, call) for call in CALLS), (Tempered, "five rows"), (Replaced, "x and y")],
)
def test_what_changed_after_predict(k, x, build, call):
    change = build(k, x)
    CALLS[call](change.model, x)
    if call == "five rows":
        expect_pass(CHECK, change.model, x)
    change()
    found = expect_failure(
        CHECK,
        change.model,
        x,
        rule="BN003",
        layer="the compiled function",
        cause_tested=True,
        cause_contains="before the model changed",
    )
    assert "model.predict_function = None" in found.remedy
    if call == "five rows":
        change.model.predict_function = None
        expect_pass(CHECK, change.model, x)


def test_sequences_of_another_length(k, x):
    layer, inputs = k.layers.Normalization(name="norm"), k.Input((None, 4))
    pooled = k.layers.GlobalAveragePooling1D()(layer(inputs))
    model, rows = k.Model(inputs, k.layers.Dense(3)(pooled)), x.reshape(8, 8, 4)
    model.predict(rows[:2, :3], verbose=0)
    expect_pass(CHECK, model, rows)
    layer.adapt(rows)
    expect_failure(CHECK, model, rows, rule="BN003", layer="the compiled function")


def test_pictures_in_whole_numbers(k, x):
    change = Tempered(k, x)
    change.model.predict(np.arange(12, dtype=np.uint8).reshape(3, 4), verbose=0)
    expect_pass(CHECK, change.model, x)
    change()
    found = expect_failure(CHECK, change.model, x, rule="BN003", layer="the compiled function")
    assert "uint8" in found.message


@pytest.mark.filterwarnings("ignore:The structure of:UserWarning")  # Keras 3.6, of its own lists
def test_several_inputs(k, x):
    layer, a, b = k.layers.Normalization(name="norm"), k.Input((4,)), k.Input((2,))
    joined = k.layers.Concatenate()([layer(a), b])
    model, rows = k.Model([a, b], k.layers.Dense(3)(joined)), [x, x[:, :2]]
    model.predict([leaf[:3] for leaf in rows], verbose=0)
    expect_pass(CHECK, model, rows)
    layer.adapt(x)
    expect_failure(CHECK, model, rows, rule="BN003", layer="the compiled function")


@pytest.mark.thorough
def test_a_model_that_was_used_and_trained_in_every_way(k, x):
    """Weights and moving statistics change, and no trace keeps them."""
    layer, inputs = k.layers.Normalization(), k.Input((4,))
    layer.adapt(x)
    h = k.layers.BatchNormalization()(layer(inputs))
    model = k.Model(inputs, k.layers.Dense(3, name="head")(k.layers.Dropout(0.5)(h)))
    model.compile("sgd", "mse")
    for call in CALLS.values():
        call(model, x)
    model.fit(x, x[:, :3], verbose=0)
    model.evaluate(x, x[:, :3], verbose=0)
    head = model.get_layer("head")
    head.set_weights([2 * weight for weight in head.get_weights()])
    expect_pass(CHECK, model, x, x[:, :3])
