"""The checks on one architecture with 8 images, beside a hand-written script.

    python benchmarks/script_comparison.py [MobileNetV2] [--runs 2]

A is what a careful person writes by hand: `predict` at several batch sizes and row by row, a call
in each mode, `evaluate`, and a short `fit` with frozen layers. B is `batch_invariance` and
`inference_purity` with their defaults, C is all five checks. They run A B C A B C in one process;
printed are the seconds of each, how often the network was traced, and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import func_graph

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.results import Verdict

ROWS = 8
INFERENCE = ["batch_invariance", "inference_purity"]
Run = Callable[[keras.Model, np.ndarray, np.ndarray], None]


def small(weights: None = None) -> keras.Model:
    """Two blocks with BatchNormalization, on images of 28 pixels."""
    inputs = h = keras.Input((28, 28, 1))
    for channels in (16, 32):
        h = keras.layers.Conv2D(channels, 3, strides=2)(h)
        h = keras.layers.ReLU()(keras.layers.BatchNormalization()(h))
    h = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(h))
    return keras.Model(inputs, h)


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


def by_inference_checks(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    report = check_consistency(model, x, checks=INFERENCE)
    if not report.ok:
        raise SystemExit(report)


def by_all_checks(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    for layer in model.layers[:-2]:
        layer.trainable = False
    model.compile("sgd", "categorical_crossentropy")
    report = check_consistency(model, x, y)
    # Of a model that was never trained, training and evaluation can't disagree.
    if any(result.verdict is Verdict.FAILED for result in report.results):
        raise SystemExit(report)


@contextlib.contextmanager
def counted_traces(least: int) -> Iterator[list[int]]:
    """The sizes of all traces of `least` operations or more that are made within."""
    made, original = list[int](), func_graph.func_graph_from_py_func

    def counting(*args: object, **kwargs: object) -> func_graph.FuncGraph:
        outermost = tf.executing_eagerly()
        graph = original(*args, **kwargs)
        functions = graph.as_graph_def().library.function
        inner = max((len(function.node_def) for function in functions), default=0)
        size = max(len(graph.get_operations()), inner)
        if outermost and size >= least:
            made.append(size)
        return graph

    func_graph.func_graph_from_py_func = counting
    try:
        yield made
    finally:
        func_graph.func_graph_from_py_func = original


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("architecture", nargs="?", default="ResNet50")
    parser.add_argument("--runs", type=int, default=2)
    chosen = parser.parse_args()
    build = small if chosen.architecture == "small" else None
    build = build or getattr(keras.applications, chosen.architecture)
    rng, seconds = np.random.default_rng(0), dict[str, list[float]]()
    runs: dict[str, Run] = {
        "A by hand": by_hand,
        "B both checks of inference": by_inference_checks,
        "C all five checks": by_all_checks,
    }
    for _ in range(chosen.runs):
        for name, run in runs.items():
            model = build(weights=None)
            model.compile("sgd", "categorical_crossentropy")
            x = rng.standard_normal((ROWS, *model.input_shape[1:]), np.float32)
            y = np.eye(model.output_shape[-1], dtype=np.float32)[:ROWS]
            with counted_traces(len(model.layers)) as traces:
                start = time.perf_counter()
                run(model, x, y)
                seconds.setdefault(name, []).append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.1f} s, {len(traces)} traces", flush=True)
    by_hand_median, *medians = (statistics.median(taken) for taken in seconds.values())
    for name, median in zip(list(seconds)[1:], medians, strict=True):
        print(f"{name} / A: {median / by_hand_median:.2f}")


if __name__ == "__main__":
    main()
