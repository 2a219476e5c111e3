"""Names that a library counts up, `dense_3`, stand for the same layers in another count.

How far the count is depends on which models were built before, and says nothing of this one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_bnconsistency.checks.baseline.facts import Blocks, Facts, Value
from pytest_bnconsistency.checks.baseline.verdicts import complaints

_COUNTED = re.compile(r"(.*?)(?:_(\d+))?")
_NAME = re.compile(r"[\w.\-]+")


def aligned(was: Facts, now: Facts) -> tuple[Facts, dict[str, str]]:
    """`now` with its layers named as in `was`, where that makes them more alike; and the new names
    by the old ones that stand for them.
    """
    if was.graph == now.graph:
        return now, {}
    names = _names_of_was(was.graph, now.graph)
    other = _renamed(now, names)
    if _alike(was.graph, other.graph) <= _alike(was.graph, now.graph):
        return now, {}
    return other, {mine: its for its, mine in names.items() if its != mine}


def _alike(a: Sequence[str], b: Sequence[str]) -> float:
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


def _names_of_was(was: Sequence[str], now: Sequence[str]) -> dict[str, str]:
    """For each name in a graph, the one that has the same place in the count of the other."""
    mine = {place: name for name, place in _places(was).items()}
    return {name: mine.get(place, name) for name, place in _places(now).items()}


def _places(graph: Sequence[str]) -> dict[str, tuple[str, int]]:
    """For each name its stem, and its place among the names of that stem."""
    stems: dict[str, dict[int, str]] = {}
    for line in graph:
        for name in line.partition(": ")[0].split("/"):
            found = _COUNTED.fullmatch(name)
            assert found is not None
            stem, count = found.groups()
            stems.setdefault(stem, {})[-1 if count is None else int(count)] = name
    return {
        name: (stem, place)
        for stem, counts in stems.items()
        for place, (_, name) in enumerate(sorted(counts.items()))
    }


def _renamed(facts: Facts, names: Mapping[str, str]) -> Facts:
    def text(given: str) -> str:
        return _NAME.sub(lambda found: names.get(found[0], found[0]), given)

    def value(given: Value) -> Value:
        return text(given) if isinstance(given, str) else given

    def keys(blocks: Blocks) -> Blocks:
        return {text(key): block for key, block in blocks.items()}

    inventory = {
        text(path): {k: value(v) if k == "frozen_by" else v for k, v in block.items()}
        for path, block in facts.inventory.items()
    }
    verdicts = {
        check: {text(k) if k in complaints(block) else k: v for k, v in block.items()}
        for check, block in facts.verdicts.items()
    }
    return replace(
        facts,
        graph=tuple(map(text, facts.graph)),
        inventory=inventory,
        statistics=keys(facts.statistics),
        verdicts=verdicts,
    )
