import numpy as np
import pytest


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((24, 4), np.float32)
