"""What is under test."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from pytest_bnconsistency.errors import MissingDependencyError, UnsupportedSubjectError
from pytest_bnconsistency.subjects.base import Call, Hook, Proceed, Subject

__all__ = ["Call", "Hook", "Proceed", "Subject", "subject_of"]


def subject_of(model: Any) -> Subject:
    """The subject that `model` is.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        UnsupportedSubjectError: `model` is nothing that can be checked, or is not built.
    """
    if "tensorflow" not in sys.modules and importlib.util.find_spec("tensorflow") is None:
        raise MissingDependencyError(
            "TensorFlow is not installed, and the checks run models with it; install it with: "
            'pip install "pytest-bnconsistency[tensorflow]"'
        )
    if isinstance(model, type):
        raise UnsupportedSubjectError(
            f"{model.__name__} is a class; expected a model: write {model.__name__}(...)"
        )
    # A library that was not imported cannot have made the model.
    if "keras" in sys.modules:
        from pytest_bnconsistency.subjects.keras3 import Keras3Subject

        if Keras3Subject.accepts(model):
            return Keras3Subject(model)
    if "tf_keras" in sys.modules:
        from pytest_bnconsistency.subjects.tf_keras import TfKerasSubject

        if TfKerasSubject.accepts(model):
            return TfKerasSubject(model)
    raise UnsupportedSubjectError(
        f"{_describe(model)} is no model that can be checked; expected a keras.Model or a "
        "tf_keras.Model, built or with an input shape"
    )


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
