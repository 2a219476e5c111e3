"""The checks on some architectures with 8 images, beside a hand-written script.

    python benchmarks/script_comparison.py [MobileNetV2 ...] [--turns 3] [--side 96]

A is what a careful person writes by hand: `predict` at several batch sizes and row by row, a call
in each mode, `evaluate`, and a short `fit` with frozen layers. B is `batch_invariance` and
`inference_purity` with their defaults, C is all five checks. They run A B C A B C in one process;
printed are the medians of the processor's seconds, how often the network was traced, and the
ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from failing_cost import application, transformer
from tensorflow.python.framework import func_graph

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.results import Verdict

ROWS, SIDE, TURNS = 8, 96, 3
MODELS = ("ResNet50", "MobileNetV2", "EfficientNetV2B0", "transformer")
INFERENCE = ["batch_invariance", "inference_purity"]
Run = Callable[[keras.Model, np.ndarray, np.ndarray], None]


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
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=2, verbose=0)


def by_inference_checks(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    report = check_consistency(model, x, checks=INFERENCE)
    if not report.ok:
        raise SystemExit(report)


def by_all_checks(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    for layer in model.layers[:-2]:
        layer.trainable = False
    model.compile("sgd", "mse")
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


@dataclass(frozen=True)
class Cost:
    """The median processor seconds of a run, and how often it traced the network."""

    seconds: float
    traces: int


RUNS: dict[str, Run] = {"A": by_hand, "B": by_inference_checks, "C": by_all_checks}


def compared(build: Callable[[], keras.Model], turns: int = TURNS) -> dict[str, Cost]:
    """What each run costs, in turn, so that what else the machine does meets all."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    counts: dict[str, int] = {}
    for _ in range(turns):
        for name, run in RUNS.items():
            model = build()
            model.compile("sgd", "mse")
            x = rng.standard_normal((ROWS, *model.input_shape[1:]), np.float32)
            y = np.eye(model.output_shape[-1], dtype=np.float32)[np.arange(ROWS) % 10]
            with counted_traces(len(model.layers)) as traces:
                start = time.process_time()
                run(model, x, y)
                seconds[name].append(time.process_time() - start)
            counts[name] = len(traces)
            keras.backend.clear_session()
    return {name: Cost(statistics.median(seconds[name]), counts[name]) for name in RUNS}


def row(name: str, costs: dict[str, Cost]) -> str:
    hand = costs["A"]
    times = [f"{costs[name].seconds / hand.seconds:.2f}" for name in ("B", "C")]
    traces = " / ".join(str(cost.traces) for cost in costs.values())
    return f"| {name} | {hand.seconds:.1f} | {' | '.join(times)} | {traces} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("architectures", nargs="*", default=MODELS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--side", type=int, default=SIDE, help="of the pictures")
    chosen = parser.parse_args()
    print("| model | A by hand, s | B two checks, times A | C five checks, times A | traces |")
    print("|---|---|---|---|---|")
    for name in chosen.architectures:
        build = transformer if name == "transformer" else application(name, chosen.side)
        print(row(name, compared(build, chosen.turns)), flush=True)


if __name__ == "__main__":
    main()
