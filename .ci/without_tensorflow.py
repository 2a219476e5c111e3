"""Run by `tox -e noframework`: what the installed wheel does where TensorFlow is missing."""

import importlib.util

import pytest

from pytest_bnconsistency import BNConsistencyError, assert_consistency

assert importlib.util.find_spec("tensorflow") is None, "TensorFlow is installed here"
with pytest.raises(BNConsistencyError, match="TensorFlow is not installed"):
    assert_consistency(lambda x: x)
