"""`train_eval_agreement` on ResNet50 at 224 with 64 images, beside `evaluate` on the same data.

    python benchmarks/agreement_cost.py

Prints the seconds of processor time (other work on the machine does not count in it) of
`evaluate`, of one trace for each mode until it runs, of a check that passes and of one that fails
(statistics five updates old), each check between two runs of `evaluate`, and their ratios.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.input_moments import pass_with_moments
from pytest_bnconsistency.models import subject_of

ROWS, SIZE = 64, 224


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def until_it_runs(make: Callable[[], Pass], x: np.ndarray) -> float:
    """What a trace costs: building it and what its first run takes longer than the second."""
    start = time.process_time()
    traced = make()
    traced.run(x)
    return time.process_time() - start - seconds(lambda: traced.run(x))


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, SIZE, SIZE, 3), np.float32)
    model = keras.applications.ResNet50(weights=None, input_shape=(SIZE, SIZE, 3), classes=10)
    recalibrate(model, x)
    y = model.predict(x, verbose=0).argmax(1)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    subject = subject_of(model)

    def evaluate() -> None:
        model.evaluate(x, y, verbose=0)

    def check(updates: int) -> None:
        report = check_consistency(model, x, y, checks=["train_eval_agreement"], updates=updates)
        print(f"{report.results[0].headline:.110}", flush=True)

    evaluate()
    few = x[:2]
    tracing = until_it_runs(lambda: pass_with_moments(subject, few), few)
    tracing += until_it_runs(lambda: Pass(subject, few, training=False), few)
    plain, spent = [seconds(evaluate)], {}
    spent["passing"] = seconds(lambda: check(5000))
    plain.append(seconds(evaluate))
    for layer in model.layers:
        if hasattr(layer, "moving_variance"):
            for variable, initial in ((layer.moving_mean, 0), (layer.moving_variance, 1)):
                variable.assign(0.95 * initial + 0.05 * variable)
    spent["failing"] = seconds(lambda: check(5))
    plain.append(seconds(evaluate))
    one = statistics.median(plain)
    print("evaluate: " + ", ".join(f"{time:.1f}" for time in plain) + " s")
    print(f"a trace for each mode: {tracing:.1f} s")
    for name, total in spent.items():
        ratio = (total - tracing) / one
        print(f"{name}: {total:.1f} s, {ratio:.2f} times evaluate beside the traces")
    more = (spent["failing"] - spent["passing"]) / spent["passing"]
    print(f"a failure costs {more:.2f} times the passing check on top")


if __name__ == "__main__":
    main()
