"""The pages of the rules, as a terminal shows them."""

from __future__ import annotations

import re
from importlib import resources

from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.rules.catalogue import ALL, Rule
from pytest_bnconsistency.settings import did_you_mean

_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def named(name: str) -> Rule:
    """The rule that `name` is the id or the name of, whatever the case of its letters.

    Raises:
        OptionError: there is no such rule.
    """
    known = {word: rule for rule in ALL for word in (rule.id, rule.slug)}
    for word in (name.strip().upper(), name.strip().lower(), f"BN{name.strip()}"):
        if word in known:
            return known[word]
    # Ids are all alike: the nearest is as good as any of its family.
    family = [rule.id for rule in ALL if rule.id[:3] == name.strip().upper()[:3]]
    if family:
        raise OptionError(f"there is no rule {name!r}; expected one of {', '.join(family)}")
    slugs = tuple(rule.slug for rule in ALL)
    near = did_you_mean(name, slugs, otherwise="pytest --bn-explain all names them")
    raise OptionError(f"there is no rule {name!r}{near}")


def markdown(rule: Rule) -> str:
    """The page of `rule`, as it is written."""
    page = resources.files(__package__) / f"{rule.id}.md"
    return page.read_text(encoding="utf-8")


def plain(rule: Rule) -> str:
    """The page of `rule` for a terminal, where nobody follows a link to another file."""
    return _LINK.sub(_said, markdown(rule))


def overview() -> str:
    """All rules, in a line each."""
    widest = max(len(rule.slug) for rule in ALL)
    return "".join(f"{rule.id}  {rule.slug:<{widest}}  {rule.summary}\n" for rule in ALL)


def _said(link: re.Match[str]) -> str:
    words, target = link.groups()
    if target.startswith("http"):
        return f"{words} ({target})"
    if words in target:  # another rule
        return words
    return f"{words} ({target.replace('../', '').partition('#')[0]})"
