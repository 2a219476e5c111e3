"""Frozen whole, nothing to train, NaN losses: one clear sentence, and everything restored."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import moved_by_fit

from pytest_bnconsistency import BNConsistencyError
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "frozen_stability"


def build(k, *, frozen=True, rate=0.01, loss="sparse_categorical_crossentropy"):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax", name="head")(bn(inputs)))
    bn.trainable = not frozen
    model.compile(k.optimizers.SGD(rate), loss, metrics=["accuracy"], jit_compile=False)
    return model


@pytest.mark.thorough
def test_a_model_that_is_frozen_whole(k, x, y):
    model = build(k)
    model.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    result = expect_pass(CHECK, model, x, y)
    assert "6 variables of 2 frozen layers" in result.summary


@pytest.mark.thorough
def test_a_model_without_trainable_weights(k, x, y):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    model = k.Model(inputs, k.layers.Softmax()(bn(inputs)))
    bn.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    expect_pass(CHECK, model, x, y)


@pytest.mark.thorough
@pytest.mark.parametrize("path", ["fit", "loop"])
def test_a_loss_that_is_nan(k, x, y, path):
    model = build(k, loss=lambda y, p: tf.reduce_mean(p) * float("nan"))
    step = model.train_on_batch if path == "loop" else None
    result = expect_pass(CHECK, model, x, y, train_step=step)
    assert [note for note in result.notes if "the steps leave NaN or Inf in 2 weights" in note]


def test_weights_that_are_nan(k, x, y):
    model = build(k)
    model.get_layer("bn").gamma.assign(np.full(4, np.nan, np.float32))
    result = expect_verdict(CHECK, "vacuous", model, x, y)
    assert result.summary.startswith("the outputs of bn are NaN or Inf in both modes")


def test_labels_of_the_wrong_kind(k, x, y):
    one_hot = np.eye(3, dtype=np.float32)[y]
    for loss, given, kind in (
        ("categorical_crossentropy", y, "these are class numbers"),
        ("sparse_categorical_crossentropy", one_hot, "these are one-hot rows"),
    ):
        with pytest.raises(BNConsistencyError, match=kind):
            expect_pass(CHECK, build(k, loss=loss), x, given)


def test_an_optimizer_that_was_built_before_a_layer_trained(k, x, y):
    """Steps go on as they were traced, and can't be traced anew."""
    model = build(k)
    model.fit(x, y, batch_size=len(x), verbose=0)
    model.get_layer("bn").trainable = True
    model.get_layer("head").trainable = False
    if k is keras:  # steps of other sizes are traced anew
        sentence = "built before bn/gamma and 1 more trained, .* call model.compile"
        with pytest.raises(BNConsistencyError, match=sentence):
            expect_pass(CHECK, model, x, y)
        return
    finding = expect_failure(CHECK, model, x, y, rule="BN304", layer="head")
    assert not finding.cause_tested
    assert "the step can't run" in finding.tested


@pytest.mark.thorough
def test_labels_in_the_wrong_order_are_no_fault_of_the_normalisers(k, x, y):
    model, y = build(k), x[:, :3].argmax(axis=1)
    model.get_layer("head").kernel.assign(np.eye(4, 3, dtype=np.float32) * 20)
    agreeing = expect_pass(CHECK, model, x, y)
    assert "look at the labels" not in text.render(agreeing)
    mixed = expect_pass(CHECK, model, x, (y + 1) % 3)
    assert "evaluation itself is wrong" in text.render(mixed)
    assert mixed.evidence["fine_tuning"]["frozen_share"] == 0


@pytest.mark.thorough
def test_each_normaliser_and_why(k, x, y):
    inputs = k.Input((4,))
    base = k.Sequential(
        [k.Input((4,)), k.layers.Dense(4), k.layers.BatchNormalization(name="bn")], name="base"
    )
    base.trainable = False
    h = k.layers.BatchNormalization(name="half")(base(inputs), training=False)
    h = k.layers.BatchNormalization(name="free")(h)
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    if moved_by_fit(model, x, y, "half"):
        finding = expect_failure(CHECK, model, x, y, rule="BN303", layer="half")
        assert finding.evidence["layers"] == ["half"]
        return
    # In Keras 3.16 the mode of one call reaches the next.
    free = moved_by_fit(model, x, y, "free")
    result = expect_pass(CHECK, model, x, y)
    rows = {row["normalization layer"]: row for row in result.evidence["normalization_layers"]}
    assert {path: row["is"] for path, row in rows.items()} == {
        "half": "half-frozen",
        "base/bn": "frozen",
        "free": "trainable" if free else "half-frozen",
    }
    assert rows["base/bn"]["because"] == "trainable=False"
    assert rows["half"]["because"].startswith("training=False in the call of half")
    assert (rows["half"]["statistics"], rows["half"]["weights"]) == ("stay", "move")
    assert rows["free"]["statistics"] == ("move" if free else "stay")
    assert rows["free"]["training mode uses"] == ("the batch" if free else "what is stored")


@pytest.mark.thorough
def test_a_classical_gan(k):
    """The critic is compiled to train, then frozen and put behind the generator."""
    x = np.random.default_rng(0).standard_normal((8, 4), np.float32)
    norm = k.layers.BatchNormalization
    critic = k.Sequential([k.Input((4,)), k.layers.Dense(4), norm(), k.layers.Dense(1)], name="c")
    critic.compile("adam", "mse", jit_compile=False)
    generator = k.Sequential([k.Input((4,)), k.layers.Dense(4), norm()], name="g")
    inputs = k.Input((4,))
    critic.trainable = False
    joined = k.Model(inputs, critic(generator(inputs)))
    joined.compile("adam", "mse", jit_compile=False)
    expect_pass(CHECK, joined, x, np.ones((8, 1), np.float32))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rule", "thawed", "layer"),
    [
        ("BN301", True, "norm/inner"),
        ("BN301", False, "norm/inner"),
        ("BN305", False, "norm/inner"),
    ],
)
def test_a_layer_that_writes_to_the_one_it_holds(k, x, y, rule, thawed, layer):
    """As spectral normalization does, which divides the kernel whenever training is true."""

    class Divides(k.layers.Layer):
        def __init__(self, inner, **options):
            super().__init__(**options)
            self.inner = inner

        def call(self, x, training=False):
            y = self.inner(x)
            if training:
                kernel = self.inner.kernel
                kernel.assign(kernel / (1 + abs(kernel[0, 0])))
            return y

    inner = k.layers.Dense(4, name="inner")
    norm = Divides(inner, name="norm")
    inputs = k.Input((4,))
    first = k.layers.Dense(4, name="first")
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(norm(first(inputs))))
    norm.trainable = False
    if thawed:
        norm.trainable = True
        inner.trainable = False
    elif rule == "BN305":
        inner.trainable = True
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    finding = expect_failure(CHECK, model, x, y, rule=rule, layer=layer, cause_tested=True)
    if layer == "norm/inner":
        assert "norm, which holds norm/inner, writes to its state" in finding.cause
    norm.trainable = inner.trainable = True
    first.trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    expect_pass(CHECK, model, x, y)
