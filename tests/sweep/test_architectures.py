"""No false alarm on any architecture of keras.applications: one line a model.

    pytest -m slow -s tests/sweep

The smallest input that each takes, random weights, as built and with statistics of a batch, so
that the outputs don't vanish.
"""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency
from tests.sweep.architectures import ARCHITECTURES, build, calibrate

CHECKS = ["batch_invariance", "inference_purity"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_no_false_alarm(name: str, policy: str) -> None:
    model = build(name, policy)
    x = np.random.default_rng(0).standard_normal((8, *model.input_shape[1:]), np.float32)
    for state in ("as built", "calibrated"):
        if state == "calibrated" and not calibrate(model, x):
            continue
        start = time.perf_counter()
        report = check_consistency(model, x, checks=CHECKS)
        seconds = time.perf_counter() - start
        margin = report["batch_invariance"].evidence["margin"]
        verdicts = ", ".join(str(result.verdict) for result in report)
        line = f"{name:<20} {policy:<15} {state:<11} {verdicts:<16} margin {margin:.3f}"
        print(f"\n{line} {seconds:5.0f} s", end="", flush=True)
        assert all(str(result.verdict) == "passed" for result in report), report.results
    keras.backend.clear_session()
