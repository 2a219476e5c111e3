"""What the page of promises names is there."""

import re
from pathlib import Path

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
