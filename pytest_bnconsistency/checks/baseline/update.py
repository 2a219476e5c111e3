"""What a baseline becomes when it is recorded again: only what moved is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_bnconsistency.checks.baseline.compare import (
    BATCH,
    GRAPH,
    Compared,
    is_behaviour,
    undistanced,
)
from pytest_bnconsistency.checks.baseline.facts import (
    ELSEWHERE,
    INVENTORY,
    OUTPUTS,
    RUN_BY,
    SECTIONS,
    STATISTICS,
    VERDICTS,
    Block,
    Blocks,
    Facts,
)
from pytest_bnconsistency.errors import BaselineError

BY_VERSION = (INVENTORY, OUTPUTS, VERDICTS)
"""What a library has a say in."""


def merged(was: Facts, now: Facts, found: Compared) -> Facts:
    """`now`, but for the blocks in which nothing moved beyond rounding: they stay as they were.

    Verdicts of checks that did not run this time stay, too, and where this version of the library
    has entries of its own, so do the versions that the rest was recorded on.
    """
    fresh = _fresh(was, now, found)
    sections = {
        name: _joined(was.section(name), now.section(name), fresh[name])
        for name in SECTIONS
        if name != ELSEWHERE
    }
    sections[VERDICTS] = dict(sorted({**was.verdicts, **sections[VERDICTS]}.items()))
    weights = now.weights if found.weights else was.weights
    written = replace(
        now, versions=_recorded_on(was, now), weights=weights, elsewhere=was.elsewhere
    )
    written = written.with_sections(sections)
    known = [_entry(now, section, name) for section in BY_VERSION for name in fresh[section]]
    return _with_entries(written, was, now, [name for name in known if name in was.elsewhere])


def _fresh(was: Facts, now: Facts, found: Compared) -> dict[str, set[str]]:
    """The blocks that are written again, by section."""
    fresh = {name: _moved(found, name) for name in SECTIONS}
    if not found.values or found.weights:
        fresh[STATISTICS], fresh[OUTPUTS] = set(now.statistics), set(now.outputs)
    fresh[STATISTICS] |= undistanced(was, now)
    if BATCH in fresh[OUTPUTS]:
        fresh[OUTPUTS] = set(now.outputs)
    fresh[VERDICTS] |= set(now.verdicts) if found.better else set()
    return fresh


def _recorded_on(was: Facts, now: Facts) -> Block:
    """The versions of all that is no entry of a version."""
    is_beside = any(name.startswith(f"{version_of(now)} ") for name in was.elsewhere)
    return was.versions if is_beside else now.versions


def version_of(facts: Facts) -> str:
    """The library that runs the model, with the version that says how it computes."""
    library = str(facts.versions.get(RUN_BY))
    version = str(facts.versions.get(library.replace("_", "-")))
    return f"{library} {'.'.join(version.split('.')[:2])}"


def here(was: Facts, now: Facts) -> Facts:
    """`was` under the version that `now` was made with, where it has entries for that."""
    sections: dict[str, dict[str, Block]] = {name: dict(was.section(name)) for name in BY_VERSION}
    for name, block in was.elsewhere.items():
        for section in BY_VERSION:
            start = _entry(now, section, "")
            if name.startswith(start) and name.removeprefix(start) in sections[section]:
                sections[section][name.removeprefix(start)] = block
    return was.with_sections(sections)


def with_version(was: Facts, now: Facts, found: Compared) -> Facts:
    """`was` with entries for this version, of what the library computes otherwise under it.

    Raises:
        BaselineError: the baseline is that of this version, or something else moved than what a
            library has a say in.
    """
    if version_of(was) == version_of(now):
        raise BaselineError(
            f"{version_of(now)} gets no entry of its own: the baseline was recorded on it, and "
            "what moved is no difference of versions; record it with --bn-update-baseline"
        )
    own = [*found.weights, *found.statistics]
    own += [one for one in found.inventory if not is_behaviour(one)]
    if own:
        raise BaselineError(
            f"{version_of(now)} gets no entry of its own: {own[0].layer} moved ({own[0].fact}), "
            "which no library does; record it with --bn-update-baseline"
        )
    moved = [
        _entry(now, section, name)
        for section in BY_VERSION
        for name in now.section(section)
        if name in _moved(found, section)
    ]
    return _with_entries(was, was, now, moved)


def _entry(now: Facts, section: str, name: str) -> str:
    return f"{version_of(now)} {section}: {name}"


def _with_entries(facts: Facts, was: Facts, now: Facts, names: Sequence[str]) -> Facts:
    """`facts` with the blocks of `now` under these names, and those of `was` in their place."""
    elsewhere = dict(was.elsewhere)
    sections = {section: dict(facts.section(section)) for section in BY_VERSION}
    for section in BY_VERSION:
        for name, block in now.section(section).items():
            if (entry := _entry(now, section, name)) in names:
                elsewhere[entry] = block
                sections[section][name] = was.section(section).get(name, block)
    return replace(facts, elsewhere=dict(sorted(elsewhere.items()))).with_sections(sections)


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
