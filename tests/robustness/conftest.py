import pytest


@pytest.fixture(autouse=True, scope="module")
def _needs_both_generations():
    pytest.importorskip("tf_keras")
