"""What inner runs share with us: pytester drops what they import themselves."""

import hypothesis.extra.numpy
import hypothesis.strategies  # noqa: F401
import keras  # noqa: F401
import sklearn.datasets  # noqa: F401
import tf_keras  # noqa: F401

import pytest_bnconsistency.assertions
import pytest_bnconsistency.checks.recalibration
import pytest_bnconsistency.lifecycle
import pytest_bnconsistency.suite  # noqa: F401
