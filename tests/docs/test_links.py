"""Every link of the documentation leads to a file, and to a heading of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (".", "docs/**", "pytest_bnconsistency/rules", "examples/*")
    for path in ROOT.glob(f"{folder}/*.md")
)
FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text("utf-8")), re.M)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.strip().replace(" ", "-") for title in plain}


def broken_links(page, text):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
        if target.startswith(("https://", "http://")):
            continue
        place, _, anchor = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            yield target


@pytest.mark.every_case
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert not list(broken_links(page, page.read_text("utf-8")))


def test_a_broken_link_is_seen():
    page = ROOT / "README.md"
    text = "[a](nothing.md) [b](README.md#nothing) [c](#use-it) [d](docs/README.md#tasks)"
    assert list(broken_links(page, text)) == ["nothing.md", "README.md#nothing"]
