"""Every rule has a page inside the package, and the catalogue and the docs say the same of it."""

import re
from pathlib import Path

import pytest

from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.rules import pages
from pytest_bnconsistency.rules.catalogue import ALL

INDEX = Path(__file__).parents[2] / "docs" / "rules" / "README.md"


@pytest.mark.every_case
@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.id)
def test_a_rule_has_a_page_and_a_line_in_the_docs(rule):
    page = pages.markdown(rule)
    assert page.startswith(f"# {rule.id} {rule.slug}\n")
    for title in ("What you see", "How the check proves it", "Remedy"):
        assert f"\n## {title}\n" in page
    link = f"[{rule.id}](../../pytest_bnconsistency/rules/{rule.id}.md)"
    (line,) = (row for row in INDEX.read_text("utf-8").splitlines() if row.startswith(f"| {link}"))
    assert rule.slug in line
    assert rule.summary in line
    said = pages.plain(rule)
    assert "](" not in said
    assert "../" not in said


def test_each_id_and_each_name_is_given_once():
    assert len({rule.id for rule in ALL}) == len({rule.slug for rule in ALL}) == len(ALL) >= 41
    assert all(re.fullmatch(r"BN\d{3}", rule.id) for rule in ALL)


def test_all_rules_in_a_line_each():
    lines = pages.overview().splitlines()
    assert [line.split()[:2] for line in lines] == [[rule.id, rule.slug] for rule in ALL]


@pytest.mark.parametrize("name", ["BN201", "bn201", " BN201 ", "201", "stale-moving-statistics"])
def test_a_rule_by_its_id_or_name(name):
    assert pages.named(name).id == "BN201"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "BN3011",
            "there is no rule 'BN3011'; expected one of BN301, BN302, BN303, BN304, BN305, BN306",
        ),
        ("stale-moving-statistic", "did you mean 'stale-moving-statistics'?"),
        ("E501", "there is no rule 'E501'; pytest --bn-explain all names them"),
        ("", "there is no rule ''; pytest --bn-explain all names them"),
    ],
)
def test_no_such_rule(name, said):
    with pytest.raises(OptionError) as caught:
        pages.named(name)
    assert str(caught.value).endswith(said)
    assert "\n" not in str(caught.value)
