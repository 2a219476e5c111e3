"""No false alarm on any architecture of keras.applications: one line a model.

pytest -m slow -s tests/sweep
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency, recalibrate

SMALLEST = {"Inception": 75, "Xception": 71, "NASNet": 32, "VGG": 32, "MobileNet": 32}
ARCHITECTURES = sorted(
    name
    for name, build in vars(keras.applications).items()
    if inspect.isfunction(build) and name[0].isupper()
)


def build(name: str) -> Any:
    size = next((s for prefix, s in SMALLEST.items() if name.startswith(prefix)), 32)
    size = 75 if name == "InceptionResNetV2" else size
    options = {"input_shape": (size, size, 3), "weights": None, "include_top": False}
    return getattr(keras.applications, name)(**options, pooling="avg")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_false_alarm(name: str, policy: str) -> None:
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build(name)
    finally:
        keras.config.set_dtype_policy(before)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, *model.input_shape[1:]), np.float32)
    checks = ["batch_invariance", "inference_purity"]
    normalises = any(layer.__class__.__name__ == "BatchNormalization" for layer in model.layers)
    for state in ("as built", "recalibrated") if normalises else ("as built",):
        if state == "recalibrated":
            recalibrate(model, x)
        report = check_consistency(model, x, checks=checks)
        margin = report["batch_invariance"].evidence["margin"]
        verdicts = ", ".join(str(result.verdict) for result in report)
        print(f"\n{name:<20} {policy:<15} {state:<13} {verdicts}, margin {margin:.3f}", end="")
        assert all(str(result.verdict) == "passed" for result in report), report.results
