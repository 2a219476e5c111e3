"""How the cost of the checks grows with rows, layers, examples and the length of the data.

    python benchmarks/growth.py

Each is made eight times as much on a small model, the rest left as it is; printed are the median
processor seconds at both ends and their ratio.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from pytest_bnconsistency import check_consistency, recalibrate

LEAST, MOST, TURNS = 1, 8, 3
INFERENCE = ["batch_invariance", "inference_purity"]


def net(blocks: int = 4) -> keras.Model:
    inputs = h = keras.Input((32,))
    for _ in range(blocks):
        h = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Dense(32)(h)))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 32), np.float32), rng.integers(0, 10, rows)


def rows(times: int) -> Callable[[], Any]:
    model, (x, _) = net(), data(16 * times)
    return lambda: check_consistency(model, x, checks=INFERENCE, rows=len(x))


def layers(times: int) -> Callable[[], Any]:
    model, (x, _) = net(4 * times), data(8)
    return lambda: check_consistency(model, x, checks=INFERENCE)


def examples(times: int) -> Callable[[], Any]:
    model = net()
    return lambda: check_consistency(model, checks=["batch_invariance"], examples=50 * times)


def length(times: int) -> Callable[[], Any]:
    model, (x, _) = net(), data(512 * times)
    recalibrate(model, x)
    y = model.predict(x, verbose=0).argmax(1)
    check = ["train_eval_agreement"]
    return lambda: check_consistency(model, x, y, checks=check, updates=5000, max_rows=len(x))


GROWTH = {
    "rows, 16 to 128 (two checks of inference)": rows,
    "layers, 13 to 97 (two checks of inference)": layers,
    "examples, 50 to 400 (`batch_invariance`)": examples,
    "data, 512 to 4096 rows (`train_eval_agreement`)": length,
}


def main() -> None:
    print("| eight times the | least, s | most, s | times |")
    print("|---|---|---|---|")
    for name, make in GROWTH.items():
        spent: dict[int, list[float]] = {LEAST: [], MOST: []}
        for times in (LEAST, MOST) * TURNS:
            run = make(times)
            start = time.process_time()
            report = run()
            spent[times].append(time.process_time() - start)
            if not report.ok:
                raise SystemExit(report)
            keras.backend.clear_session()
        least, most = (statistics.median(taken) for taken in spent.values())
        print(f"| {name} | {least:.2f} | {most:.2f} | {most / least:.1f} |", flush=True)


if __name__ == "__main__":
    main()
