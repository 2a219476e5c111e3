"""The example of each rule's page fails, or warns, and prints what the page prints."""

import os
import re
from pathlib import Path

import keras
import pytest
import tf_keras

from pytest_bnconsistency.rules import pages
from pytest_bnconsistency.rules.catalogue import ALL

pytestmark = pytest.mark.thorough
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
NAMESAKE = re.compile(r"(?<=[a-z])_\d+\b")
WRAPPED = " " * 13


def block(rule, language):
    return re.search(rf"^```{language}\n(.*?)^```", pages.markdown(rule), re.M | re.S)[1]


def parts(lines):
    """A text's headline, rows and labelled lines, each on one line, without its figures."""
    joined = []
    for line in lines:
        if line.startswith(WRAPPED) and joined:
            joined[-1] += line
        else:
            joined.append(line)
    plain = (" ".join(line.split()) for line in joined)
    unnumbered = (NAMESAKE.sub("", line) for line in plain)
    return [NUMBER.sub("#", line) for line in unnumbered if line.strip(". ")]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.id)
def test_a_page_prints_what_its_example_prints(pytester, rule):
    for generation in (keras, tf_keras):  # else a layer without a name gets one with a number
        generation.backend.clear_session()
    pytester.makepyfile(test_example=block(rule, "python"))
    result = pytester.runpytest("-W", "ignore", "-p", "no:cacheprovider")
    said = [
        re.sub("^E {7}(AssertionError: )?", "", line)
        for line in result.outlines
        if line.startswith("E ")
    ]
    if folder := os.environ.get("BN_PAGES"):
        Path(folder, f"{rule.id}.txt").write_text("\n".join(result.outlines), encoding="utf-8")
    result.assert_outcomes(failed=1)
    printed = iter(parts(said))
    missing = [part for part in parts(block(rule, "text").splitlines()) if part not in printed]
    assert not missing, "\n".join(said)
