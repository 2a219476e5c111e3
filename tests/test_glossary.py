"""One word for one thing: identifiers of the package use the words of the glossary."""

import io
import re
import tokenize
from pathlib import Path

import pytest

import pytest_bnconsistency

RETIRED = {
    "way": "entry point",
    "exchange": "batch variant",
    "companion": "other row",
    "told": "called with, with training",
    "spelled": "call text",
    "tap": "on call",
    "watching": "hooked",
    "apart": "row by row, gap, unlike",
    "still": "stochastic off",
    "held": "patched, owned",
    "holding": "patching",
    "mixing": "cross-row dependence",
    "mixes": "cross-row dependence",
    "shaking": "rounding",
    "shaken": "rounding",
    "drowned": "noise dominated",
    "leak": "injected fault",
    "leaking": "injected fault",
    "gathers": "row routing",
    "routes": "dynamic routing",
    "harm": "practical tolerance",
    "restless": "baseline flip rate",
    "normaliser": "normalization layer",
    "alone": "isolated, one by one",
    "poisoned": "non-finite",
    "misplaced": "swapped",
    "anew": "retraced, recompile",
    "case": "check context",
}
"""What is no longer said, and what is said instead."""
GIVEN = {"TestCase"}
"""Names that others gave: unittest's."""


def retired(source):
    """The retired words among the identifiers of some code, with their lines."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string not in GIVEN:
            words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", token.string)
            singular = {word.lower() for word in words} | {
                word.lower().removesuffix("s") for word in words
            }
            found |= {(token.start[0], token.string) for word in singular & RETIRED.keys()}
    return sorted(found)


def test_no_identifier_uses_a_retired_word():
    package = Path(pytest_bnconsistency.__file__).parent
    found = {
        f"{path.relative_to(package)}:{line} {name}"
        for path in package.rglob("*.py")
        for line, name in retired(path.read_text())
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    "code", ["told = 1", "def _run_anew(x): ...", "class Normalisers: ...", "x.LEAKS", "f(way=2)"]
)
def test_a_retired_word_is_found(code):
    assert retired(code)


@pytest.mark.parametrize("code", ["retold = 1", "'told'", "always = 1  # told", "tape.watched"])
def test_other_words_and_texts_are_not(code):
    assert not retired(code)
