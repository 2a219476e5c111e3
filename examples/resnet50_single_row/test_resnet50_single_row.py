# pytest examples/resnet50_single_row
"""ResNet50, six classes: one row alone and the same row in a batch differ. See README.md."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from skimage import data, transform

from pytest_bnconsistency import assert_batch_invariance, recalibrate

SIZE = 64
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Six photographs in [0, 1], of shape (6, SIZE, SIZE, 3)."""
    rows = [
        transform.resize(getattr(data, name)(), (SIZE, SIZE, 3), anti_aliasing=True)
        for name in PHOTOGRAPHS
    ]
    return np.stack(rows).astype("float32")


def classifier(library: Any, base: Any, head: Any, **flags: bool) -> Any:
    """Six classes on top of `base`, for `keras` and `tf_keras` alike."""
    inputs = library.Input((SIZE, SIZE, 3))
    return library.Model(inputs, head(base(inputs, **flags)))


def resnet50(library: Any) -> Any:
    return library.applications.ResNet50(
        include_top=False, input_shape=(SIZE, SIZE, 3), pooling="avg", weights=None
    )


@pytest.fixture(scope="module")
def parts(x: np.ndarray) -> tuple[keras.Model, keras.layers.Layer]:
    """A base with the statistics of the photographs, and a head that knows them by heart."""
    keras.utils.set_random_seed(0)
    base, head = resnet50(keras), keras.layers.Dense(6, activation="softmax")
    recalibrate(base, x)
    features = base.predict(x, verbose=0)
    top = keras.Sequential([keras.Input(features.shape[1:]), head])
    top.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    top.fit(features, np.arange(6), epochs=60, verbose=0)
    return base, head


@pytest.fixture(scope="module")
def healthy(parts: tuple[keras.Model, keras.layers.Layer]) -> keras.Model:
    return classifier(keras, *parts)


@pytest.fixture(scope="module")
def faulty(parts: tuple[keras.Model, keras.layers.Layer]) -> keras.Model:
    """The same weights; the flag is baked into the graph."""
    return classifier(keras, *parts, training=True)


def test_symptom(faulty: keras.Model, x: np.ndarray) -> None:
    alone = np.concatenate([faulty(x[row : row + 1]) for row in range(len(x))])
    together = faulty(x).numpy()
    assert np.abs(alone - together).max() > 0.1


def test_fault_training_mode_baked_in(faulty: keras.Model, x: np.ndarray) -> None:
    """Keras 3.15: `predict` overrides the flag, `model(x)` obeys it."""
    assert_batch_invariance(faulty, x)


def test_fault_training_mode_baked_in_legacy(healthy: keras.Model, x: np.ndarray) -> None:
    """tf_keras: `predict` obeys it, too."""
    tf_keras = pytest.importorskip("tf_keras")
    base, head = resnet50(tf_keras), tf_keras.layers.Dense(6, activation="softmax")
    model = classifier(tf_keras, base, head, training=True)
    model.set_weights(healthy.get_weights())
    assert_batch_invariance(model, x)


def test_remedy_inference_mode(healthy: keras.Model, x: np.ndarray) -> None:
    """What is left between one row alone and in a batch is float noise, and that passes."""
    alone, beside = healthy.predict(x[:1], verbose=0), healthy.predict(x, verbose=0)[:1]
    np.testing.assert_allclose(alone, beside, atol=1e-5)
    assert_batch_invariance(healthy, x)


def test_remedy_group_normalization(
    parts: tuple[keras.Model, keras.layers.Layer], x: np.ndarray
) -> None:
    """Each row is normalised by itself, so that the flag harms nobody."""
    base, head = parts
    grouped = keras.models.clone_model(
        base, clone_function=with_group_normalization, call_function=without_mask
    )
    assert not any(isinstance(la, keras.layers.BatchNormalization) for la in grouped.layers)
    assert_batch_invariance(classifier(keras, grouped, head, training=True), x)


def with_group_normalization(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.BatchNormalization):
        return keras.layers.GroupNormalization(groups=32, name=layer.name)
    return layer.__class__.from_config(layer.get_config())


def without_mask(layer: keras.layers.Layer, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
    """The graph notes `mask=None` for BatchNormalization; GroupNormalization takes none."""
    return layer(*args, **kwargs)
