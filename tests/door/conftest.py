import sys
from pathlib import Path

import hypothesis  # noqa: F401 - inner runs share it with us
import pytest

import pytest_bnconsistency.assertions  # noqa: F401 - inner runs share it with us


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # the short summary is cut at the terminal's width
    monkeypatch.setattr(sys, "argv", ["pytest"])  # however these tests were started


@pytest.fixture
def project(pytester):
    """A project whose conftest replaces the checks by fakes that take no time."""
    fakes = Path(__file__).with_name("fake_checks.py")
    pytester.makeconftest(fakes.read_text(encoding="utf-8"))
    return pytester
