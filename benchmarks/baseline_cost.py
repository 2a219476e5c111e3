"""What comparing with a baseline adds to the checks that run anyway.

    python benchmarks/baseline_cost.py [ResNet50 ...] [--runs 3]

The checks that need no data, without and with the check `baseline`, in turn in one process;
printed are the medians of the processor time, and what the comparison adds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from pytest_bnconsistency import check_consistency, record_baseline

CHECKS = ["batch_invariance", "inference_purity", "frozen_stability", "statistics_health"]
SIDE = 64


def built(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    shape = (SIDE, SIDE, 3)
    return getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)


def seconds(name: str, checks: list[str], folder: str) -> float:
    model = built(name)
    start = time.process_time()
    report = check_consistency(model, checks=checks, baseline_dir=folder, baseline_name=name)
    spent = time.process_time() - start
    if not report.ok:
        raise SystemExit(report)
    keras.backend.clear_session()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["ResNet50", "MobileNetV2"])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names:
            record_baseline(built(name), name, baseline_dir=folder)
            without, beside = list[float](), list[float]()
            for _ in range(given.runs):
                without.append(seconds(name, CHECKS, folder))
                beside.append(seconds(name, [*CHECKS, "baseline"], folder))
            alone, both = statistics.median(without), statistics.median(beside)
            added = f"{both - alone:.1f} s more, {both / alone - 1:.0%}"
            print(f"{name}: {alone:.1f} s without, {both:.1f} s with the baseline: {added}")


if __name__ == "__main__":
    main()
