"""Model files: `.keras` under safe mode; `.h5` and SavedModel, which can run code, if trusted."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

from pytest_bnconsistency import libraries
from pytest_bnconsistency.errors import BNConsistencyError, MissingDependencyError

SAFE, UNSAFE = (".keras",), (".h5", ".hdf5")
SAVED_MODEL = "saved_model.pb"


def is_model_file(path: Path) -> bool:
    """Whether `path` is named as a model file, or is a folder with a SavedModel."""
    return path.suffix in (*SAFE, *UNSAFE) or (path / SAVED_MODEL).is_file()


def can_run_code(path: Path) -> bool:
    """Whether loading `path` can run code that somebody put in."""
    return path.suffix not in SAFE


def load(path: Path) -> Any:
    """The model in `path`, by the generation of Keras that wrote it.

    Raises:
        MissingDependencyError: that library is not installed.
        BNConsistencyError: the file can't be read, or safe mode refuses what is in it.
    """
    tensorflow = libraries.tensorflow()
    try:
        if path.suffix in SAFE:
            return _library(_archived_version(path)).models.load_model(path, safe_mode=True)
        if path.suffix in UNSAFE:
            return _library(_hdf5_version(path)).models.load_model(path)
        return tensorflow.saved_model.load(str(path))
    except BNConsistencyError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BNConsistencyError(
            f"{path.name} can't be loaded ({type(error).__name__}: {reason}); expected a whole "
            "model without code of its own: else write a function that builds it and loads its "
            "weights, and give package.module:function"
        ) from error


def _library(version: str) -> Any:
    name = "tf_keras" if version.startswith("2.") else "keras"
    if not libraries.has(name):
        package = name.replace("_", "-")
        raise MissingDependencyError(
            f"the model was saved by Keras {version}, and {package} is not installed; install it "
            f'with: pip install "{package}"'
        )
    return libraries.imported(name)


def _archived_version(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))


def _hdf5_version(path: Path) -> str:
    with importlib.import_module("h5py").File(path, "r") as file:
        version = file.attrs.get("keras_version", "")
    return version.decode() if isinstance(version, bytes) else str(version)
