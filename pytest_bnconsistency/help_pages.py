"""What `--bn-explain` and `--bn-checks` print; no model and no TensorFlow is needed for it."""

from __future__ import annotations

from pytest_bnconsistency.checks.registry import CHECKS
from pytest_bnconsistency.rules import pages


def explanation(name: str) -> str:
    """The page of a rule, or all rules in a line each.

    Raises:
        OptionError: there is no such rule.
    """
    return pages.overview() if name == "all" else pages.plain(pages.named(name))


def checks() -> str:
    """Each check with its property, what it needs and what it makes use of."""
    return "\n".join(
        f"{check.name}: {check.property}\n  needs  {check.needs}\n  helps  {check.helps}\n"
        for check in CHECKS.values()
    )
