"""Options about models, and what the ini file says, in whichever of pytest's formats."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from pytest_bnconsistency import settings
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.settings import Layer

OPTIONS = (
    (
        "model",
        "MODULE:FACTORY|FILE",
        "check the model that a function returns, or that is an attribute of a module: "
        "'package.module:build', 'models.py:build(classes=4)'; or that a file holds: "
        "'model.keras'",
    ),
    (
        "data",
        "MODULE:FUNCTION|FILE.npz",
        "data for the models named before it, or for all: a function that returns x, (x, y), "
        "(x, y, sample_weight) or a tf.data.Dataset; or a file with the arrays x and y",
    ),
    ("check", "NAMES", "names of the checks of the models, separated by commas"),
)
MARKER = "bnconsistency"
LAYERS = pytest.StashKey[tuple[Layer, Layer]]()
"""The options of the command line, and those of the ini file."""
EXPLAIN_HELP = "print the page of a rule, 'BN201', or 'all' rules in a line each, and exit"
CHECKS_HELP = "print the checks and what each needs, and exit"
REPORT = (
    "report",
    "FORMAT:PATH",
    "write a report of the run, for each time that this is given: json:run.json, md:out.md, ...; "
    "`python -m pytest_bnconsistency report` makes others of a JSON",
)
TRUST = "trust_files"
TRUST_HELP = "load models from .h5 files and SavedModels, which can run code (default: no)"


def names_models(config: pytest.Config) -> bool:
    """Whether the command line or the ini file says something of models without a test file."""
    given = config.getoption("bn_given") or config.getoption("bn_check")
    return bool(given or any(words(config, name) for name in ("model", "check", "checks")))


def value(config: pytest.Config, name: str) -> Any:
    """The value of `bn_<name>` as it is written, None if it is not."""
    key = f"bn_{name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lists where pytest wants texts: both are taken
            return config.getini(key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        # In a native table pytest takes one type only, where ours take a number and its digits.
        written = getattr(config, "_inicfg", {})
        if key not in written:
            raise OptionError(f"{key}: {error}") from None
        return getattr(written[key], "value", written[key])


def words(config: pytest.Config, name: str) -> list[str]:
    """A list of texts, each on a line of its own, or in a list."""
    given = value(config, name)
    lines = given.splitlines() if isinstance(given, str) else given or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise OptionError(f"bn_{name} is {given!r}; expected a string or a list of strings")
    return [line.strip() for line in lines if line.strip()]


def trusts_files(config: pytest.Config) -> bool:
    """Whether the command line or the ini file says that loading a model may run code."""
    given = value(config, TRUST)
    in_ini = given is not None and settings.flag(f"bn_{TRUST}", given)
    return bool(config.getoption(f"bn_{TRUST}")) or in_ini
