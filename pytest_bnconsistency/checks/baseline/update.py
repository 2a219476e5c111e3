"""What a baseline becomes when it is recorded again: only what moved is written."""

from __future__ import annotations

from dataclasses import replace

from pytest_bnconsistency.checks.baseline.compare import GRAPH, Compared
from pytest_bnconsistency.checks.baseline.facts import (
    INVENTORY,
    OUTPUTS,
    SECTIONS,
    STATISTICS,
    VERDICTS,
    Blocks,
    Facts,
)


def merged(was: Facts, now: Facts, found: Compared) -> Facts:
    """`now`, but for the blocks in which nothing moved beyond rounding: they stay as they were.

    Verdicts of checks that did not run this time stay, too.
    """
    fresh = {name: _moved(found, name) for name in SECTIONS}
    if not found.values or found.weights:
        fresh[STATISTICS], fresh[OUTPUTS] = set(now.statistics), set(now.outputs)
    fresh[VERDICTS] |= set(now.verdicts) if found.better else set()
    sections = {
        name: _joined(was.section(name), now.section(name), fresh[name]) for name in SECTIONS
    }
    sections[VERDICTS] = dict(sorted({**was.verdicts, **sections[VERDICTS]}.items()))
    weights = now.weights if found.weights else was.weights
    return replace(now, weights=weights).with_sections(sections)


def with_missing(was: Facts, now: Facts) -> Facts | None:
    """`was` with the verdicts that it says nothing of; None if it says all."""
    missing = {name: block for name, block in now.verdicts.items() if name not in was.verdicts}
    if not missing:
        return None
    return replace(was, verdicts=dict(sorted({**was.verdicts, **missing}.items())))


def _moved(found: Compared, section: str) -> set[str]:
    sections = {INVENTORY, GRAPH} if section == INVENTORY else {section}
    return {one.block for one in found.moved if one.section in sections}


def _joined(was: Blocks, now: Blocks, fresh: set[str]) -> Blocks:
    """The blocks of `now` in its order, those of `was` where they are not to be written again."""
    return {
        name: block if name in fresh or name not in was else was[name]
        for name, block in now.items()
    }
