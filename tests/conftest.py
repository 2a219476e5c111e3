import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# pytester drops what an inner run imports, and neither library survives a second import.
import numpy as np
import pytest
import tensorflow  # noqa: F401

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def fixed_weights():
    # Each generation draws its weights from a generator of its own.
    for name in ("tf_keras", "keras"):
        if name in sys.modules:
            sys.modules[name].utils.set_random_seed(1)


@pytest.fixture(params=["keras", "tf_keras"])
def k(request):
    """Either generation of Keras."""
    return pytest.importorskip(request.param)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((8, 4), np.float32)
