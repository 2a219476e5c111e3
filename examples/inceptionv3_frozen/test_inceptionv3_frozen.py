# pytest examples/inceptionv3_frozen
"""InceptionV3, frozen: training accuracy falls to 0, validation stays at 1. See README.md."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from skimage import color, data, transform

from pytest_bnconsistency import (
    BNConsistencyError,
    assert_frozen_stability,
    check_consistency,
    preserve_state,
    recalibrate,
)

SIZE = 75
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins",
    "grass", "gravel", "horse", "hubble_deep_field", "moon", "page", "retina", "rocket",
)  # fmt: skip


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Sixteen photographs in [-1, 1] as InceptionV3 takes them, of shape (16, SIZE, SIZE, 3)."""
    rows = []
    for name in PHOTOGRAPHS:
        photograph = getattr(data, name)()
        if photograph.ndim == 2:
            photograph = color.gray2rgb(photograph)
        rows.append(transform.resize(photograph.astype("float32"), (SIZE, SIZE, 3)))
    top = np.array([row.max() for row in rows])
    return (np.stack(rows) / top[:, None, None, None] * 2 - 1).astype("float32")


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """One photograph a class."""
    return np.arange(len(PHOTOGRAPHS))


@pytest.fixture(scope="module")
def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(len(labels), dtype="float32")


def bottleneck_and_top(library: Any, x: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """InceptionV3 with the statistics of the photographs, and a top trained on its features."""
    library.utils.set_random_seed(0)
    base = library.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    recalibrate(base, x)
    features = base.predict(x, verbose=0)
    top = library.Sequential(
        [
            library.Input(features.shape[1:]),
            library.layers.Flatten(),
            library.layers.Dense(256, activation="relu"),
            library.layers.Dense(len(labels), activation="softmax"),
        ],
        name="top",
    )
    top.compile(library.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    top.fit(features, labels, epochs=60, verbose=0)
    return base, top


def compiled(library: Any, model: Any) -> Any:
    """As in the report: SGD, one-hot labels. Without XLA, which takes long to compile."""
    model.compile(
        library.optimizers.SGD(1e-4, momentum=0.9),
        "categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


@pytest.fixture(scope="module")
def parts(x: np.ndarray, labels: np.ndarray) -> tuple[keras.Model, keras.Model]:
    return bottleneck_and_top(keras, x, labels)


# Keras 2.2 and before: frozen layers that normalise by the batch.


@pytest.fixture(scope="module")
def v1(x: np.ndarray, labels: np.ndarray) -> Any:
    """The model of the report, with layers of V1 behaviour, frozen but for the last two."""
    tf_keras = pytest.importorskip("tf_keras")
    from tf_keras.src.layers.normalization import batch_normalization_v1

    def with_v1(layer: Any) -> Any:
        cls = type(layer)
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            cls = batch_normalization_v1.BatchNormalization
        return cls.from_config(layer.get_config())

    base, top = bottleneck_and_top(tf_keras, x, labels)
    old = tf_keras.models.clone_model(base, clone_function=with_v1)
    old.set_weights(base.get_weights())
    return frozen_but_two(tf_keras, old, top)


def frozen_but_two(library: Any, base: Any, top: Any) -> Any:
    model = library.Model(base.input, top(base.output))
    for layer in model.layers[:-2]:
        layer.trainable = False
    return compiled(library, model)


def test_symptom_v1(v1: Any, x: np.ndarray, one_hot: np.ndarray) -> None:
    """Training and validation data are identical; the batch is not the data set."""
    with preserve_state(v1):
        history = v1.fit(
            x, one_hot, batch_size=4, epochs=2, validation_data=(x, one_hot), verbose=0
        ).history
    assert max(history["accuracy"]) <= 0.5
    assert min(history["val_accuracy"]) >= 0.9


def test_fault_v1_normalises_by_the_batch(v1: Any, x: np.ndarray, one_hot: np.ndarray) -> None:
    assert_frozen_stability(v1, x, one_hot, batch_size=4)


def test_remedy_v2(
    parts: tuple[keras.Model, keras.Model], x: np.ndarray, one_hot: np.ndarray
) -> None:
    """Frozen as in the report; the layers of Keras 3 run in inference mode then."""
    model = frozen_but_two(keras, *parts)
    result = check_consistency(model, x, one_hot, checks=["frozen_stability"])["frozen_stability"]
    assert result.verdict == "passed", result.summary
    # layers[:-2] leaves out the nested top and the base's last layer, which has no weights.
    frozen = result.evidence["frozen"]
    assert {layer.name for layer in model.layers[:-2] if layer.weights} == set(frozen)
    assert not any(path.startswith("top/") for path in frozen)


# The question asked beside it: sparse or one-hot? Neither is the normalization layers' fault.


def test_labels_of_the_other_kind_are_refused(
    parts: tuple[keras.Model, keras.Model], x: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(BNConsistencyError, match="these are class numbers"):
        assert_frozen_stability(frozen_but_two(keras, *parts), x, labels)


def test_labels_in_another_order_are_told_from_the_normalisers(
    parts: tuple[keras.Model, keras.Model], x: np.ndarray, one_hot: np.ndarray
) -> None:
    """Wrong in training and in evaluation alike: no finding, and a note about the labels."""
    mixed = np.roll(one_hot, 1, axis=0)
    result = assert_frozen_stability(frozen_but_two(keras, *parts), x, mixed, batch_size=4)
    start = result.evidence["fine_tuning"]
    assert start["frozen_share"] == 0
    assert start["evaluation"]["accuracy"] == 0
    assert any("look at the labels" in note for note in result.notes)


@pytest.mark.slow
def test_both_faults_are_named(v1: Any, x: np.ndarray, one_hot: np.ndarray) -> None:
    mixed = np.roll(one_hot, 1, axis=0)
    report = check_consistency(v1, x, mixed, checks=["frozen_stability"], batch_size=4)
    result = report["frozen_stability"]
    assert [finding.rule for finding in result.findings] == ["BN302"]
    assert result.evidence["fine_tuning"]["evaluation"]["accuracy"] == 0
    assert any("look at the labels" in note for note in result.notes)


# Keras 3.0 to 3.15: the documented idiom, overridden.


def fine_tuned(parts: tuple[keras.Model, keras.Model]) -> keras.Model:
    """As the guides of Keras have it: the base in inference mode, its last two blocks trained."""
    base, top = parts
    for position, layer in enumerate(base.layers):
        layer.trainable = position >= 249
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, top(base(inputs, training=False)))


def test_fault_inference_mode_overridden(
    parts: tuple[keras.Model, keras.Model], x: np.ndarray, one_hot: np.ndarray
) -> None:
    assert_frozen_stability(compiled(keras, fine_tuned(parts)), x, one_hot)


def test_remedy_each_normaliser_frozen(
    parts: tuple[keras.Model, keras.Model], x: np.ndarray, one_hot: np.ndarray
) -> None:
    model = fine_tuned(parts)
    for layer in parts[0].layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    assert_frozen_stability(compiled(keras, model), x, one_hot)
