"""A trace keeps few outputs of layers at a time, even where one core has to hash them, too."""

import os
import subprocess
import sys

import pytest

LAYERS, MEGABYTES = 60, 16
CODE = f"""
import os, resource
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import keras, numpy as np, tensorflow as tf
from pytest_bnconsistency import assert_batch_invariance

class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.steps = [keras.layers.ReLU() for _ in range({LAYERS})]

    def call(self, h):
        for step in self.steps:
            h = step(h) + 1.0
        return h

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

model, x = Net(), np.random.default_rng(0).random((4, {MEGABYTES}, 2**16), np.float32)
tf.function(model)(x)
before = peak()
assert_batch_invariance(model, x)
print(peak() - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way to use one core")
def test_outputs_of_layers_are_not_kept_for_their_hashes():
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert float(said.stdout) < LAYERS * MEGABYTES * 0.75
