"""What the pages on how the checks decide say of a constant is what the code has."""

import importlib
import re
from pathlib import Path

import pytest

from pytest_bnconsistency.settings import Settings

FOLDER = Path(__file__).parents[2] / "docs" / "how-it-decides"
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| `([\w/]+)` \|", re.M)
ROWS = [
    (page.stem, *found)
    for page in FOLDER.glob("*.md")
    for found in ROW.findall(page.read_text("utf-8"))
]


@pytest.mark.every_case
@pytest.mark.parametrize(("page", "name", "said", "place"), ROWS)
def test_a_constant_is_what_the_page_says(page, name, said, place):
    module = importlib.import_module(f"pytest_bnconsistency.{place.replace('/', '.')}")
    value = getattr(Settings() if place == "settings" else module, name)
    assert value == eval(said, {})


@pytest.mark.parametrize(
    "page",
    [
        "batch_invariance",
        "inference_purity",
        "train_eval_agreement",
        "frozen_stability",
        "statistics_health",
        "baseline",
    ],
)
def test_a_page_begins_with_the_decision_in_five_lines_and_a_table(page):
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    numbered = re.findall(r"^(\d)\. ", text.partition("| constant |")[0], re.M)
    assert numbered == list("12345")
    assert [row for row in ROWS if row[0] == page]
    # What the text names is in the table.
    named = set(re.findall(r"\(`([A-Z_]{3,})`[,)]", text))
    assert named <= {row[1] for row in ROWS if row[0] == page}
