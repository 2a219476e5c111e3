"""Libraries that are there or not, and one sentence for those that are not."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import warnings
from typing import Any

from pytest_bnconsistency.errors import MissingDependencyError
from pytest_bnconsistency.words import first_line

PACKAGES = {
    "pytest": ("pytest",),
    "numpy": ("numpy",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tf-nightly"),
    "keras": ("keras", "keras-nightly"),
    "tf-keras": ("tf-keras", "tf-keras-nightly"),
}
"""The names under which libraries are installed."""


def has(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def imported(name: str) -> Any:
    """The library, whatever it warns of: warnings as errors would stop it in the middle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def tensorflow() -> Any:
    """TensorFlow.

    Raises:
        MissingDependencyError: it is not installed, or can't be imported.
    """
    if not has("tensorflow"):
        raise MissingDependencyError(
            "TensorFlow is not installed, and the checks run models with it; install it with: "
            "pip install tensorflow"
        )
    try:
        return imported("tensorflow")
    except Exception as error:  # a library that is missing or too old raises what it likes
        raise MissingDependencyError(
            f"TensorFlow is installed and can't be imported: {type(error).__name__}: "
            f'{first_line(error)}; install it again until python -c "import tensorflow" works'
        ) from error


def needs_hypothesis(what: str) -> None:
    """Say that `what` takes Hypothesis, if that is not installed.

    Raises:
        MissingDependencyError: it is not.
    """
    if not has("hypothesis"):
        raise MissingDependencyError(
            f"{what} takes Hypothesis, which is not installed; install it with: "
            "pip install hypothesis"
        )


def versions() -> dict[str, str | None]:
    """The versions of the libraries that are installed, and of ours; None of others."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "pytest-bnconsistency": sys.modules[__package__].__version__,
    }
    for library, names in PACKAGES.items():
        found[library] = None
        for name in names:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[library] = found[library] or importlib.metadata.version(name)
    return found
