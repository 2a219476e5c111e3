# pytest examples/resnet50_three_images -m "not slow"
"""ResNet50 on three images: accuracy 1.0 in training, 0.33 in prediction. See README.md."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from skimage import data, transform

from pytest_bnconsistency import assert_train_eval_agreement, preserve_state, recalibrate

SIZE = 64
PHOTOGRAPHS = ("camera", "coins", "page")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Three grey photographs in [0, 1], of shape (3, SIZE, SIZE, 1)."""
    rows = [
        transform.resize(getattr(data, name)(), (SIZE, SIZE, 1), anti_aliasing=True)
        for name in PHOTOGRAPHS
    ]
    return np.stack(rows).astype("float32")


@pytest.fixture(scope="module")
def y() -> np.ndarray:
    return np.eye(3, dtype="float32")


def resnet50(momentum: float) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(input_shape=(SIZE, SIZE, 1), classes=3, weights=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    # jit_compile=False only saves the time that XLA takes to compile.
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


@pytest.fixture(scope="module")
def trained(x: np.ndarray, y: np.ndarray) -> keras.Model:
    """The model of the report: momentum 0.99 as it comes, five epochs."""
    model = resnet50(momentum=0.99)
    model.fit(x, y, epochs=5, verbose=0)
    return model


def test_symptom(trained: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    assert trained.history.history["accuracy"][-1] == 1.0
    _, accuracy = trained.evaluate(x, y, verbose=0)
    assert accuracy == pytest.approx(1 / 3)
    assert len(set(trained.predict(x, verbose=0).argmax(axis=1))) == 1


def test_fault_five_epochs(trained: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    assert_train_eval_agreement(trained, x, y)


def test_remedy_recalibrate(trained: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    with preserve_state(trained):
        recalibrate(trained, x)
        assert_train_eval_agreement(trained, x, y)
        assert trained.predict(x, verbose=0).argmax(axis=1).tolist() == [0, 1, 2]


def test_remedy_momentum(x: np.ndarray, y: np.ndarray) -> None:
    model = resnet50(momentum=0.01)
    model.fit(x, y, epochs=20, verbose=0)
    assert_train_eval_agreement(model, x, y)
    assert model.predict(x, verbose=0).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.slow  # minutes: a thousand updates of 23 million weights
def test_remedy_thousand_epochs(trained: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """0.99 ** 1000 of the initial variance 1 is small against variances of a thousandth."""
    epochs = tf.data.Dataset.from_tensors((x, y)).repeat()
    with preserve_state(trained):
        # Weights that still move leave their moving statistics behind.
        trained.optimizer.learning_rate.assign(1e-5)
        trained.fit(epochs, steps_per_epoch=1000, shuffle=False, verbose=0)
        assert_train_eval_agreement(trained, x, y)
        assert trained.predict(x, verbose=0).argmax(axis=1).tolist() == [0, 1, 2]
