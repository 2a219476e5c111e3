"""The most memory that both checks of inference need, beside one `predict` and one `model(x)`.

    python benchmarks/peak_memory.py

ResNet50 at 224 with 8 images, each measurement in a process of its own; prints the peak of the
resident memory of each, and the checks' beside each forward pass. They call a model in both ways,
as its users do, and Keras keeps the outputs of all layers during `model(x)`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

ROWS = 8
RUNS = ("build", "one predict", "one model(x)", "both checks")


def run(name: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from pytest_bnconsistency import check_consistency

    model = keras.applications.ResNet50(weights=None)
    x = np.random.default_rng(0).standard_normal((ROWS, 224, 224, 3), np.float32)
    if name == "one predict":
        model.predict(x, verbose=0)
    elif name == "one model(x)":
        model(x, training=False)
    elif name == "both checks":
        assert check_consistency(model, x, checks=["batch_invariance", "inference_purity"]).ok
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    peaks = {}
    for name in RUNS:
        done = subprocess.run(
            [sys.executable, __file__, name], capture_output=True, text=True, check=True
        )
        peaks[name] = float(done.stdout.split()[-1])
        print(f"{name}: {peaks[name]:.0f} MB", flush=True)
    for forward in ("one predict", "one model(x)"):
        print(f"both checks, times {forward}: {peaks['both checks'] / peaks[forward]:.2f}")


if __name__ == "__main__":
    run(sys.argv[1]) if len(sys.argv) > 1 else main()
