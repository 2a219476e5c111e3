import keras
import numpy as np
import pytest
import tf_keras


@pytest.fixture(autouse=True)
def fixed_weights():
    keras.utils.set_random_seed(1)


@pytest.fixture(params=[keras, tf_keras], ids=["keras", "tf_keras"])
def k(request):
    """Either generation of Keras."""
    return request.param


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((8, 4), np.float32)
