"""Every architecture of keras.applications, at the smallest input that it takes."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
ARCHITECTURES = sorted(
    name
    for name, build in vars(keras.applications).items()
    if inspect.isfunction(build) and name[0].isupper()
)


def build(name: str, policy: str = "float32") -> Any:
    """The backbone with random weights and pooled features."""
    keras.utils.set_random_seed(0)
    size = SMALLEST.get(name, 32)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        make = getattr(keras.applications, name)
        return make(input_shape=(size, size, 3), weights=None, include_top=False, pooling="avg")
    finally:
        keras.config.set_dtype_policy(before)


def calibrate(model: Any, x: np.ndarray) -> bool:
    """Give every normaliser the statistics of `x`; False where there is none."""
    layers = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(x, training=True)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
    return bool(layers)
