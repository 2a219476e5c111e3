import sys
from pathlib import Path

import hypothesis  # noqa: F401 - inner runs share it with us
import pytest

import pytest_bnconsistency.assertions  # noqa: F401 - inner runs share it with us


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # the short summary is cut at the terminal's width
    # A test file that is rewritten within a second, at the same size, is another one all the same.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    # However these tests were started: as those in a process of their own are.
    monkeypatch.setattr(sys, "argv", [str(Path(pytest.__file__).with_name("__main__.py"))])


@pytest.fixture
def project(pytester):
    """A project whose conftest replaces the checks by fakes that take no time."""
    fakes = Path(__file__).with_name("fake_checks.py")
    pytester.makeconftest(fakes.read_text(encoding="utf-8"))
    return pytester
