"""The most memory that both batch checks need, beside one plain forward pass.

    python benchmarks/peak_memory.py

ResNet50 at 224 with 8 images, each measurement in a process of its own; prints the peak of the
resident memory of each, what it lies above that of the built model, and the ratios.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

ROWS = 8
RUNS = ("build", "one forward pass", "both checks")


def run(name: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from pytest_bnconsistency import check_consistency

    model = keras.applications.ResNet50(weights=None)
    x = np.random.default_rng(0).standard_normal((ROWS, 224, 224, 3), np.float32)
    if name == "one forward pass":
        model.predict(x, verbose=0)
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
    built, forward, checks = (peaks[name] for name in RUNS)
    print(f"whole process: {checks / forward:.2f}")
    print(f"above the built model: {(checks - built) / (forward - built):.2f}")


if __name__ == "__main__":
    run(sys.argv[1]) if len(sys.argv) > 1 else main()
