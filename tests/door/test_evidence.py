"""With `-v`, what a passed check rests on."""

import pytest

TEST = """
import keras
import numpy as np
from pytest_bnconsistency import (assert_batch_invariance, assert_frozen_stability)

def build():
    frozen = keras.layers.BatchNormalization(name="frozen")
    top = keras.layers.BatchNormalization(name="top")
    model = keras.Sequential([keras.Input((4,)), frozen, top, keras.layers.Dense(1)])
    frozen.trainable = False
    model.compile("sgd", "mse", jit_compile=False)
    return model

x = np.random.default_rng(0).standard_normal((8, 4), np.float32)

def test_frozen():
    assert_frozen_stability(build(), x, x[:, :1])

def test_without_a_table():
    assert_batch_invariance(build(), x)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("verbose", [True, False])
def test_the_normalisers_are_listed(pytester, verbose):
    pytester.makepyfile(test_it=TEST)
    result = pytester.runpytest(*["-v"] * verbose)
    result.assert_outcomes(passed=2)
    if not verbose:
        result.stdout.no_fnmatch_line("*nothing declares it frozen*")
        return
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_frozen frozen_stability",
            "*normalization layer*is*because*statistics*weights*training mode uses",
            "*frozen *frozen *trainable=False *stay *stay *what is stored",
            "*top *trainable *nothing declares it frozen *move *move *the batch",
        ]
    )
    result.stdout.no_fnmatch_line("test_it.py::test_without_a_table batch_invariance")
