"""Libraries that are there or not, and one sentence for those that are not."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from pytest_bnconsistency.errors import MissingDependencyError
from pytest_bnconsistency.words import first_line


def has(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


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
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise MissingDependencyError(
            f"TensorFlow is installed and can't be imported: {first_line(error)}; "
            'install it again until python -c "import tensorflow" works'
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
