"""Backbones that are properly frozen, through every path of training: nothing may fail."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import Stepping

from pytest_bnconsistency.testing import expect_pass

SIZE, CLASSES = {"InceptionV3": 75}, 4
BACKBONES = ["ResNet50", "InceptionV3", "MobileNetV2", "EfficientNetV2B0", "DenseNet121"]
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(1e-3),
    "AdamW": lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.1),
    "SGD": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
}


def loop(model, optimizer):
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)

    return train_step


@pytest.fixture(scope="module")
def backbone(request):
    size = SIZE.get(request.param, 32)
    base = getattr(keras.applications, request.param)(
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
    )
    base.trainable = False
    return base


def is_frozen(base, path, optimizer):
    """Whether the check passes on a frozen base with trainable normalization in its head."""
    shape = base.input_shape[1:]
    rng = np.random.default_rng(0)
    x = (rng.random((8, *shape)) * 255).astype(np.float32)
    y = np.arange(8) % CLASSES
    inputs = keras.Input(shape)
    h = keras.layers.BatchNormalization(name="top")(base(inputs))
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(h)
    model = (Stepping if path == "train_step" else keras.Model)(inputs, outputs)
    step = None
    if path == "loop":
        step = loop(model, OPTIMIZERS[optimizer]())
    else:
        loss = "sparse_categorical_crossentropy"
        model.compile(OPTIMIZERS[optimizer](), loss, jit_compile=False)
    result = expect_pass("frozen_stability", model, x, y, train_step=step, steps=1)
    status = {
        row["normalization layer"]: row["is"] for row in result.evidence["normalization_layers"]
    }
    assert status.pop("top") == "trainable"
    assert set(status.values()) == {"frozen"}
    return len(status)


@pytest.mark.thorough
@pytest.mark.parametrize("backbone", ["MobileNetV2"], indirect=True)
def test_a_frozen_backbone_in_a_custom_loop(backbone):
    assert is_frozen(backbone, "loop", "AdamW") == 52


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("path", ["fit", "train_step", "loop"])
@pytest.mark.parametrize("backbone", BACKBONES, indirect=True)
def test_frozen_backbones(backbone, path, optimizer):
    found = is_frozen(backbone, path, optimizer)
    print(
        f"{backbone.name:20} {path:10} {optimizer:6} passes, {found} frozen normalization layers"
    )
