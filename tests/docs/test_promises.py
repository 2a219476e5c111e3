"""What the page of promises names is there."""

import inspect
import re
from pathlib import Path

import pytest

import pytest_bnconsistency
from pytest_bnconsistency.checks.registry import CHECKS
from pytest_bnconsistency.results import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "what-1.0-promises.md"


def named(row):
    text = re.search(rf"^\| {row}[^|]*\|([^|]*)\|", PAGE.read_text("utf-8"), re.M)
    return re.findall(r"`([^`]+)`", text[1])


def test_the_page_names_what_can_be_imported():
    assert sorted(set(named("names to import"))) == dir(pytest_bnconsistency)


def test_the_page_names_checks_and_verdicts():
    assert set(named("checks")) == set(CHECKS)
    assert set(named("verdicts")) == {verdict.value for verdict in Verdict}


FUNCTIONS = [name for name in dir(pytest_bnconsistency) if name.startswith(("a", "c", "p", "r"))]


@pytest.mark.every_case
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_and_raises(name):
    function = getattr(pytest_bnconsistency, name)
    said = " ".join(inspect.getdoc(function).split())
    assert "Raises:" in said or "errors are those of" in said
    missing = [one for one in inspect.signature(function).parameters if one not in said]
    assert not missing or "are those of" in said
