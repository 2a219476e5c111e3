"""Both batch checks on ResNet50 at 224 with 8 images, beside a hand-written script.

    python benchmarks/script_comparison.py

Runs A B A B in one process and prints the seconds of each, and the ratio of the medians.
A is what a careful person writes by hand: `predict` at several batch sizes and row by row.
B is `batch_invariance` and `inference_purity` with their defaults.
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from pytest_bnconsistency import check_consistency

ROWS = 8


def by_hand(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    for size in (8, 4, 3, 2, 1):
        model.predict(x, batch_size=size, verbose=0)
    for row in range(ROWS):
        model.predict(x[row : row + 1], verbose=0)
    model(x, training=True)
    model(x, training=False)
    model.evaluate(x, y, verbose=0)
    for layer in model.layers[:-2]:
        layer.trainable = False
    model.compile("sgd", "categorical_crossentropy")
    model.fit(x, y, epochs=2, verbose=0)


def by_check(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    report = check_consistency(model, x, checks=["batch_invariance", "inference_purity"])
    if not report.ok:
        raise SystemExit(report)


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 224, 224, 3), np.float32)
    y = np.eye(1000, dtype=np.float32)[:ROWS]
    seconds: dict[str, list[float]] = {"A by hand": [], "B by check": []}
    for _ in range(2):
        for name, run in (("A by hand", by_hand), ("B by check", by_check)):
            model = keras.applications.ResNet50(weights=None)
            model.compile("sgd", "categorical_crossentropy")
            start = time.perf_counter()
            run(model, x, y)
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    by_hand_median, by_check_median = (statistics.median(v) for v in seconds.values())
    print(f"B / A: {by_check_median / by_hand_median:.2f}")


if __name__ == "__main__":
    main()
