import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# pytester drops what an inner run imports, and neither library survives a second import.
import numpy as np
import pytest
import tensorflow  # noqa: F401

pytest_plugins = ["pytester"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The quick suite takes the first case of each test: what says otherwise is marked."""
    known = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        later = test in known and not item.get_closest_marker("every_case")
        if later or item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.thorough)
        known.add(test)


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
