"""Every architecture of keras.applications: no false alarm, and no miss. One line a model.

    pytest -m slow -s tests/sweep

The smallest input that each takes, random weights, as built and with the statistics of a batch,
so that the outputs don't vanish.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.assertions import check_context
from pytest_bnconsistency.checks.batch_invariance import localise
from pytest_bnconsistency.checks.batch_invariance.kept_rows import compare_kept_rows
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.execution.batch_variants import batch_variants

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
    """Give every layer the population statistics of `x`; False where there is none."""
    return any(hasattr(layer, "moving_mean") for layer in model.layers) and bool(
        recalibrate(model, x, batch_size=len(x))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_no_false_alarm(name: str, policy: str) -> None:
    model = build(name, policy)
    x = images(model)
    for state in ("as built", "calibrated"):
        if state == "calibrated" and not calibrate(model, x):
            continue
        start = time.perf_counter()
        report = check_consistency(model, x, checks=["batch_invariance", "inference_purity"])
        seconds = time.perf_counter() - start
        margin = report["batch_invariance"].evidence["margin"]
        verdicts = ", ".join(str(result.verdict) for result in report)
        line = f"{name:<20} {policy:<15} {state:<11} {verdicts:<16} margin {margin:.3f}"
        print(f"\n{line} {seconds:5.0f} s", end="", flush=True)
        # Some outputs overflow in half precision, and some untrained nets are so ill-conditioned
        # that rounding moves their outputs by as much as they are: then nothing can be seen.
        said = ["rounding alone may", *(["NaN or Inf"] if policy != "float32" else [])]
        for result in report:
            blind = any(words in result.summary for words in said)
            assert str(result.verdict) == ("vacuous" if blind else "passed"), result
    keras.backend.clear_session()


SHARES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_miss(name: str) -> None:
    model = build(name)
    x = images(model)
    calibrate(model, x)
    leaks = inject(model)
    passed = check_consistency(model, x, checks=["batch_invariance"]).results[0]
    # The shares are variables: one trace serves them all.
    given = check_context(model, x, None, {})
    seen = observed(given, False)
    watched = localise.with_inputs(seen, x)
    reported = max(passed.evidence["resolution"].values())
    for layer, share in leaks.items():
        found, close = [], {1e-5: [], 1e-6: []}
        for value in (0.0, *SHARES):
            share.assign(value)
            where = found_at(seen, watched, x)
            if where == layer:
                found.append(value)
            right = layer if value else None
            assert where == right or (where is None and value < reported), (layer, value, where)
            whole, alone = seen.run(x).outputs[0][:1], seen.run(x[:1]).outputs[0]
            for tolerance, by in close.items():
                if not np.allclose(whole, alone, rtol=tolerance, atol=tolerance):
                    by.append(value)
        share.assign(0.0)
        least = ", ".join(f"allclose {t:.0e}: {told(by)}" for t, by in close.items())
        line = f"{name:<20} {layer:<32} found from {min(found):.0e}, reported {reported:.0e}"
        print(f"\n{line}; {least}", end="", flush=True)
    assert found_at(seen, watched, x) is None
    keras.backend.clear_session()


def told(alarms: list[float]) -> str:
    """From which leak on there was an alarm."""
    least = min(alarms, default=np.nan)
    return f"{least:.0e}" if least > 0 else "always, without a leak" if alarms else "never"


def images(model: Any) -> np.ndarray:
    shape = (8, *model.input_shape[1:])
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def inject(model: Any) -> dict[str, tf.Variable]:
    """Let the first, the middle and the last but one layer leak, by shares that are zero yet."""
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer.output, keras.KerasTensor)
        and not isinstance(layer, keras.layers.InputLayer)
    ]
    chosen = [layers[0], layers[len(layers) // 2], layers[-2]]
    return {layer.name: leaking(layer) for layer in chosen}


def leaking(layer: Any) -> tf.Variable:
    share, call = tf.Variable(0.0, trainable=False), layer.call

    def leaky(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        leaked = outputs + share * tf.reduce_mean(outputs, 0)
        return tf.where(share > 0, leaked, outputs)

    vars(layer)["call"] = leaky
    return share


def found_at(seen: Any, watched: Any, x: np.ndarray) -> str | None:
    """The layer at which the exact oracle sees a leak, if it does."""
    base = seen.run(x)
    for variant in batch_variants(x, 0):
        other = seen.run(variant.x)
        if compare_kept_rows(base, other, variant) is not None:
            among = set(range(len(seen.calls)))
            return localise.first_origin(watched, x, variant, among).label
    return None
