"""Checks take little memory while they run, and leave none behind."""

import gc
import os
import subprocess
import sys
import weakref
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import assert_batch_invariance, check_consistency

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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way to use one core")
def test_outputs_of_layers_are_not_kept_for_their_hashes():
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert float(said.stdout) < LAYERS * MEGABYTES * 0.75


class Watched(keras.layers.Layer):
    """Tells how many of the tensors that all of these gave outside of traces live at once."""

    given: ClassVar[list[weakref.ref[Any]]] = []
    most = 0

    def call(self, h):
        h = h + 1.0
        if tf.executing_eagerly():
            Watched.given.append(weakref.ref(h))
            alive = sum(tensor() is not None for tensor in Watched.given)
            Watched.most = max(Watched.most, alive)
        return h


@pytest.mark.thorough
def test_a_run_outside_of_a_trace_does_not_keep_what_layers_give():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.steps = [Watched() for _ in range(30)]

        def call(self, h, training=None):
            for step in self.steps:
                h = step(h)
            return h

    model, x = Net(), np.random.default_rng(0).random((4, 3), np.float32)
    model(x)
    Watched.given.clear()
    assert_batch_invariance(model, x)
    assert len(Watched.given) >= 30
    assert Watched.most < 6


@pytest.mark.thorough
def test_traces_are_gone_when_the_checks_end():
    """Without help: the collector may take long to come by, and each trace can hold gigabytes."""
    inputs = keras.Input((8,))
    h = keras.layers.BatchNormalization()(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(h))
    x = np.random.default_rng(0).standard_normal((8, 8), np.float32)
    counts = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            check_consistency(model, x, checks=["inference_purity"])
            counts.append(len(gc.get_objects()))
    finally:
        gc.enable()
    assert counts[-1] - counts[0] < 500
