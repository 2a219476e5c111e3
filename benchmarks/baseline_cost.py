"""What comparing with a baseline costs, alone and beside the checks that run anyway.

    python benchmarks/baseline_cost.py [ResNet50 ...] [--runs 3]

Alone: graph, statistics and outputs without the verdicts of checks, beside one trace of the model
in inference and its first `predict`. Beside: the checks that need no data, without and with the
check `baseline`, in turn in one process. Printed are medians of the processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from pytest_bnconsistency import assert_baseline, check_consistency, record_baseline
from pytest_bnconsistency.settings import CheckName

CHECKS: list[CheckName] = [
    "batch_invariance",
    "inference_purity",
    "frozen_stability",
    "statistics_health",
]


def built(name: str, side: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    shape = (side, side, 3)
    return getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)


def spent(model: keras.Model, run: Callable[[keras.Model], object]) -> float:
    start = time.process_time()
    run(model)
    seconds = time.process_time() - start
    keras.backend.clear_session()
    return seconds


def traced(model: keras.Model) -> None:
    function = tf.function(lambda x: model(x, training=False))
    function.get_concrete_function(tf.TensorSpec((None, *model.input_shape[1:])))


def predicted(model: keras.Model) -> None:
    model.predict(np.zeros((2, *model.input_shape[1:]), np.float32), verbose=0)


def checked(name: str, checks: list[CheckName], folder: str) -> Callable[[keras.Model], None]:
    def run(model: keras.Model) -> None:
        report = check_consistency(model, checks=checks, baseline_dir=folder, baseline_name=name)
        if not report.ok:
            raise SystemExit(report)

    return run


def medians(
    name: str, side: int, runs: int, *ways: Callable[[keras.Model], object]
) -> list[float]:
    """The seconds of each way, all in turn, each on a model of its own."""
    found = [[spent(built(name, side), way) for way in ways] for _ in range(runs)]
    return [statistics.median(seconds) for seconds in zip(*found, strict=True)]


def alone(name: str, side: int, runs: int, folder: str) -> str:
    def compared(model: keras.Model) -> None:
        assert_baseline(model, name, baseline_dir=folder, baseline_checks="none")

    record_baseline(built(name, side), name, baseline_dir=folder, baseline_checks="none")
    trace, predict, whole = medians(name, side, runs, traced, predicted, compared)
    return (
        f"{name}: {whole:.1f} s alone; one trace takes {trace:.1f} s, a first predict "
        f"{predict:.1f} s"
    )


def beside(name: str, side: int, runs: int, folder: str) -> str:
    record_baseline(built(name, side), name, baseline_dir=folder)
    without, both = medians(
        name,
        side,
        runs,
        checked(name, CHECKS, folder),
        checked(name, [*CHECKS, "baseline"], folder),
    )
    added = f"{both - without:.1f} s more, {both / without - 1:.0%}"
    return f"{name}: {without:.1f} s without, {both:.1f} s with the baseline: {added}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=["ResNet50", "MobileNetV2"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="pixels of a side of the images")
    parser.add_argument("--only", choices=("alone", "beside"))
    given = parser.parse_args()
    for name in given.names:
        for what in (alone, beside):
            if given.only in (None, what.__name__):
                with tempfile.TemporaryDirectory() as folder:
                    print(what(name, given.side, given.runs, folder), flush=True)


if __name__ == "__main__":
    main()
