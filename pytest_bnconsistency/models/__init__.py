"""What is under test."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from typing import Any

from pytest_bnconsistency import libraries
from pytest_bnconsistency.errors import BNConsistencyError, UnsupportedSubjectError
from pytest_bnconsistency.models.base import Subject
from pytest_bnconsistency.models.calls import Call, Hook, Part, Proceed

__all__ = ["ADAPTERS", "Call", "Hook", "Part", "Proceed", "Subject", "subject_of"]

ADAPTERS = "bnconsistency.subjects"
"""The entry-point group of subjects that other packages bring."""


def subject_of(model: Any) -> Subject:
    """The subject that `model` is; a subject is taken as it is.

    Raises:
        MissingDependencyError: TensorFlow is not installed, or can't be imported.
        UnsupportedSubjectError: `model` is nothing that can be checked, or is not built.
    """
    libraries.tensorflow()
    if isinstance(model, Subject):
        return model
    for kind in _kinds():
        if kind.accepts(model):
            subject: Subject = kind(model)
            return subject
    if isinstance(model, type):
        raise UnsupportedSubjectError(
            f"{model.__name__} is a class; expected a model: write {model.__name__}(...)"
        )
    if isinstance(model, str):
        loader = "tf.saved_model.load" if os.path.isdir(model) else "keras.models.load_model"
        raise UnsupportedSubjectError(
            f"{_describe(model)} is no model that can be checked; load it first: "
            f"{loader}({model!r})"
        )
    raise UnsupportedSubjectError(
        f"{_describe(model)} is no model that can be checked; expected a keras.Model or a "
        f"tf_keras.Model, a tf.Module, a loaded SavedModel or a function of x{_slip(model)}"
    )


def _slip(value: Any) -> str:
    """What may have gone wrong where a value of this kind stands for a model."""
    if value is None:
        return " (a function that returns nothing gives None)"
    return " (the model comes before x)" if hasattr(value, "shape") else ""


def _kinds() -> Iterator[Any]:
    """The kinds of subjects, the most special first; those of libraries in use only."""
    yield from _adapters()
    # A library that was not imported cannot have made the model.
    if "keras" in sys.modules:
        from pytest_bnconsistency.models.keras3 import Keras3Subject

        yield Keras3Subject
    if "tf_keras" in sys.modules:
        from pytest_bnconsistency.models.tf_keras import TfKerasSubject

        yield TfKerasSubject
    if "tensorflow" in sys.modules:
        from pytest_bnconsistency.models.saved_model import SavedModelSubject
        from pytest_bnconsistency.models.tf_module import ModuleSubject

        yield ModuleSubject
        yield SavedModelSubject
    from pytest_bnconsistency.models.function import FunctionSubject

    yield FunctionSubject


@functools.cache
def _adapters() -> tuple[Any, ...]:
    """The subjects of other packages: classes as `Subject`, by their entry points."""
    found = []
    for entry in importlib.metadata.entry_points(group=ADAPTERS):
        try:
            kind = entry.load()
        except Exception as error:
            raise BNConsistencyError(
                f"the adapter {entry.name} = {entry.value!r} can't be loaded: {error}; repair or "
                "uninstall its package"
            ) from error
        if not callable(getattr(kind, "accepts", None)):
            raise BNConsistencyError(
                f"the adapter {entry.name} = {entry.value!r} has no accepts(model); expected a "
                "class derived from pytest_bnconsistency.models.Subject"
            )
        found.append(kind)
    return tuple(found)


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    text = repr(value) if shape is None else f"of shape {shape}"
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
