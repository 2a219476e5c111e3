"""Facts against facts: what moved, and what moved by no more than rounding."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pytest_bnconsistency.checks.baseline.facts import (
    DISTANCE,
    INVENTORY,
    OUTPUTS,
    SAMPLING,
    STATISTICS,
    VERDICTS,
    Block,
    Blocks,
    Facts,
    Value,
)
from pytest_bnconsistency.checks.baseline.verdicts import (
    VERDICT,
    complaints,
    saw,
    sees_less,
    word_of,
)
from pytest_bnconsistency.words import counted, listed

SAME_NUMBER = 1e-4
"""Momenta and epsilons that are measured are as near; those that are declared are the same."""
SAME_WEIGHTS = 1e-8
"""Digests of the same weights are as near, in their size: they are told with nine digits."""
SAME_STATISTICS, SMALLEST = 2e-6, 0.01
"""Statistics may move by this share of their size, or of so much, if they are smaller."""
FARTHER, ERRORS = 0.1, 10.0
"""Statistics may come farther from the population by so much, in standard deviations of a mean and
shares of a variance, and by so many standard errors of the distances."""
DIGITS = 2e-9
"""What the digits of the file leave out of a number."""
NO_DIGESTS = ("noise", DISTANCE, SAMPLING)
"""Facts that are compared in their own way."""
NOTHING, GRAPH, BATCH, PLACE = "not there", "graph", "batch", "place"

BEHAVIOUR = ("modes ", "updates", "kind")
"""Facts of a layer that a library has a say in; all others are declared."""

NoiseOf = Callable[[str], float]
"""How far rounding may move an element of an output, by the name of its block; it is measured."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One fact that is not as it was. `bound` is what it could have moved by, 0 for nothing.

    `block` is what `section` has the fact under, `layer` what it is about.
    """

    section: str
    block: str
    layer: str
    fact: str
    was: Value
    now: Value
    change: float = math.inf
    bound: float = 0.0

    @property
    def size(self) -> float:
        """How large it is, in bounds."""
        return self.change / self.bound if self.bound else math.inf


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is not as it was, by kind, and what was compared.

    `rounding` is the largest change of an output that rounding explains, in bounds. `better` says
    what checks see that they did not, `unseen` which checks did not run this time. `values` says
    whether statistics and outputs were compared, `on_request` whether the caller decided that.
    """

    inventory: Sequence[Difference] = ()
    weights: Sequence[Difference] = ()
    statistics: Sequence[Difference] = ()
    outputs: Sequence[Difference] = ()
    less: Sequence[Difference] = ()
    warnings: Sequence[Difference] = ()
    better: Sequence[str] = ()
    unseen: Sequence[str] = ()
    values: bool = True
    on_request: bool = False
    rounding: float = 0.0
    facts: int = field(default=0)

    @property
    def moved(self) -> list[Difference]:
        return [*self.inventory, *self.statistics, *self.outputs, *self.less, *self.warnings]


def is_distance(one: Difference) -> bool:
    """Whether it is about data: how far statistics are from those of the population."""
    return one.section == STATISTICS and one.fact.endswith(DISTANCE)


def is_behaviour(one: Difference) -> bool:
    return one.section == INVENTORY and one.fact.startswith(BEHAVIOUR)


def compared(was: Facts, now: Facts, noise: NoiseOf, weights: str | None) -> Compared:
    """What moved since `was`; `weights` says whether they are the same, None to find that out."""
    other = list(_weights(was, now))
    values = weights == "same" or (weights is None and not other)
    outputs, rounding = _compared_outputs(was, now, noise) if values else ([], 0.0)
    asked = {name: block for name, block in was.verdicts.items() if name in now.verdicts}
    return Compared(
        inventory=_layers(was, now),
        weights=other,
        statistics=[
            *(other if values else ()),
            *(_statistics(was.statistics, now.statistics) if values else ()),
            *_farther(was.statistics, now.statistics),
        ],
        outputs=outputs,
        less=list(_less(asked, now.verdicts)),
        warnings=list(_complaints(asked, now.verdicts)),
        better=[*_better(asked, now.verdicts), *_new_distances(was, now)],
        unseen=[name for name in was.verdicts if name not in now.verdicts],
        values=values,
        on_request=weights is not None,
        rounding=rounding,
        facts=_count(was, values),
    )


def _count(was: Facts, values: bool) -> int:
    sections = [blocks for name, blocks in was.sections() if values or name != STATISTICS]
    return len(was.graph) + sum(len(block) for blocks in sections for block in blocks.values())


def _layers(was: Facts, now: Facts) -> list[Difference]:
    """What moved in the graph and the inventory, each place once, those of normalization layers
    first.
    """
    found = list(_listed_layers(was, now))
    placed = {one.layer for one in found if one.fact == PLACE}
    found += [
        one
        for one in _inventory(was.inventory, now.inventory)
        if one.fact != PLACE or one.layer not in placed
    ]
    normalizing = was.inventory.keys() | now.inventory.keys()
    return sorted(found, key=lambda one: one.fact != PLACE or one.layer not in normalizing)


def _listed_layers(was: Facts, now: Facts) -> Iterator[Difference]:
    """The layers of the graph that came, went, changed places or hold other arrays."""
    before, after = (dict(map(_parted, facts.graph)) for facts in (was, now))
    yield from _places(GRAPH, list(before), list(after), list(was.inventory))
    for path, shapes in before.items():
        if path in after and after[path] != shapes:
            yield Difference(
                section=GRAPH,
                block=path,
                layer=path,
                fact="arrays",
                was=shapes or "none",
                now=after[path] or "none",
            )


def _parted(line: str) -> tuple[str, str]:
    path, _, shapes = line.partition(": ")
    return path, shapes


def _places(
    section: str, before: Sequence[str], after: Sequence[str], always: Collection[str] = ()
) -> Iterator[Difference]:
    """What came, what went, and what changed places; of those in `always`, what stands before
    them.
    """
    gone, come = set(before) - set(after), set(after) - set(before)
    for path in (path for path in after if path in come):
        yield _changed(section, path, NOTHING, _behind(after, path))
    for path in (path for path in before if path in gone):
        yield _changed(section, path, _behind(before, path), NOTHING)
    stay = [path for path in before if path not in gone]
    now = [path for path in after if path not in come]
    for path in _elsewhere(stay, now, always):
        yield _changed(section, path, _behind(stay, path), _behind(now, path))


def _elsewhere(stay: Sequence[str], now: Sequence[str], always: Collection[str]) -> Iterator[str]:
    """Those of the same paths that stand in another place."""
    yield from (p for p in always if p in now and _behind(stay, p) != _behind(now, p))
    yield from (path for path in _moved(stay, now) if path not in always)


def _moved(stay: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    """The fewest that change places, so that the others are in order."""
    matcher = difflib.SequenceMatcher(None, stay, now, autojunk=False)
    for kind, start, end, _, _ in matcher.get_opcodes():
        if kind in ("delete", "replace"):
            yield from stay[start:end]


def _behind(paths: Sequence[str], path: str) -> str:
    place = paths.index(path)
    return f"after {paths[place - 1]}" if place else "first"


def _changed(section: str, layer: str, was: Value, now: Value, fact: str = PLACE) -> Difference:
    return Difference(section=section, block=layer, layer=layer, fact=fact, was=was, now=now)


def _inventory(was: Blocks, now: Blocks) -> Iterator[Difference]:
    """The normalization layers, in execution order, and each fact of them."""
    yield from _places(INVENTORY, list(was), list(now))
    for path, block in was.items():
        for fact in _facts(block, now.get(path, block)):
            before, after = block.get(fact), now.get(path, block).get(fact)
            if not _same_value(before, after):
                yield Difference(
                    section=INVENTORY, block=path, layer=path, fact=fact, was=before, now=after
                )


def _facts(was: Block, now: Block) -> list[str]:
    return sorted(was.keys() | now.keys())


def _same_value(a: Value, b: Value) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or not (_numeric(a) and _numeric(b)):
        return a == b and isinstance(a, bool) == isinstance(b, bool)
    one, other = float(str(a)), float(str(b))
    return abs(one - other) <= SAME_NUMBER * max(abs(one), abs(other))


def _numeric(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _weights(was: Facts, now: Facts) -> Iterator[Difference]:
    """The weights that train, all together."""
    scale = max(_float(was.weights.get("size")), _float(now.weights.get("size")))
    yield from _numbers(
        "weights", "weights", "all weights", was.weights, now.weights, SAME_WEIGHTS * scale
    )


def _statistics(was: Blocks, now: Blocks) -> Iterator[Difference]:
    """The stored vectors; of those that came or went the inventory tells, or the graph."""
    for name, block in was.items():
        if name not in now:
            continue
        scale = max(_extent(block), _extent(now[name]), SMALLEST)
        layer, _, vector = name.rpartition(" ")
        bound = SAME_STATISTICS * scale
        found = list(_numbers(STATISTICS, name, layer, block, now[name], bound))
        # What a reader knows comes first: projections tell that something moved, and no more.
        found.sort(key=lambda one: (one.fact.startswith("projection"), -one.size))
        yield from (replace(one, fact=f"{vector} {one.fact}") for one in found)


def _farther(was: Blocks, now: Blocks) -> Iterator[Difference]:
    """The vectors that are farther from the population, where both sides had data."""
    for name, block in was.items():
        before, after = block.get(DISTANCE), now.get(name, {}).get(DISTANCE)
        if not (isinstance(before, float) and isinstance(after, float)):
            continue
        errors = (_float(each.get(SAMPLING)) for each in (block, now[name]))
        change, bound = after - before, max(FARTHER, ERRORS * math.hypot(*errors))
        if change > bound:
            layer, _, vector = name.rpartition(" ")
            yield Difference(
                section=STATISTICS,
                block=name,
                layer=layer,
                fact=f"{vector} {DISTANCE}",
                was=before,
                now=after,
                change=change,
                bound=bound,
            )


def undistanced(was: Facts, now: Facts) -> set[str]:
    """The vectors whose distance to the population is measured now, and is not in the baseline."""
    blocks = now.statistics.items()
    return {n for n, b in blocks if DISTANCE in b and DISTANCE not in was.statistics.get(n, b)}


def _new_distances(was: Facts, now: Facts) -> Iterator[str]:
    if names := undistanced(was, now):
        yield (
            "the baseline does not say how far statistics are from those of the data: "
            f"{counted(len(names), 'vector')}"
        )


def _extent(block: Block) -> float:
    """The root mean square of a vector."""
    mean, deviation = _float(block.get("mean")), _float(block.get("deviation"))
    size = math.hypot(mean, deviation)
    return size if math.isfinite(size) else 0.0


def _compared_outputs(was: Facts, now: Facts, noise: NoiseOf) -> tuple[list[Difference], float]:
    """What outputs moved, where they are of the same rows."""
    if was.batch == now.batch:
        return _outputs(was.outputs, now.outputs, noise)
    return [_changed(OUTPUTS, BATCH, was.batch, now.batch, "rows")], 0.0


def _outputs(was: Blocks, now: Blocks, noise: NoiseOf) -> tuple[list[Difference], float]:
    """What outputs moved beyond rounding, and by how much of it the others did."""
    first, more, explained = list[Difference](), list[Difference](), 0.0
    for name in dict.fromkeys([*was, *now]):
        own, share = _output(name, was.get(name), now.get(name), noise)
        own.sort(key=lambda one: -one.change)
        # A reader sees the first lines: which outputs moved comes before all that moved in one.
        first += own[:1]
        more += own[1:]
        explained = max(explained, share)
    return [*first, *more], explained


def _output(
    name: str, was: Block | None, now: Block | None, noise: NoiseOf
) -> tuple[list[Difference], float]:
    """The same of one output."""
    if was is None or now is None:
        was_there, is_there = (NOTHING if each is None else "given" for each in (was, now))
        return [_changed(OUTPUTS, name, was_there, is_there, "entry point")], 0.0
    own = _digests(name, was, now)
    most = max((one.change for one in own), default=0.0)
    if not most or not all(math.isfinite(one.change) for one in own):
        return own, 0.0
    bound = _float(was.get("noise"))
    bound += noise(name) if most > bound else 0.0
    beyond = [replace(one, bound=bound) for one in own if one.change > bound]
    return beyond, 0.0 if beyond else most / bound


def _digests(name: str, was: Block, now: Block) -> list[Difference]:
    """The facts of an output that differ; of one that gives none any more, only why."""
    found = _numbers(OUTPUTS, name, name, was, now, 0.0)
    both = ("shape" in was) == ("shape" in now)
    return [one for one in found if both or one.fact in ("random", "raises")]


def _numbers(
    section: str, name: str, layer: str, was: Block, now: Block, bound: float
) -> Iterator[Difference]:
    """The facts of a block that differ, numbers by more than `bound`."""
    for fact in _facts(was, now):
        before, after = was.get(fact), now.get(fact)
        if fact in NO_DIGESTS or before == after:
            continue
        change, allowed = math.inf, bound
        if isinstance(before, float) and isinstance(after, (int, float)):
            change = abs(before - after)
            allowed = bound + DIGITS * max(abs(before), abs(after))
        if not change <= allowed:
            yield Difference(
                section=section,
                block=name,
                layer=layer,
                fact=fact,
                was=before,
                now=after,
                change=change,
                bound=allowed,
            )


def _less(was: Blocks, now: Blocks) -> Iterator[Difference]:
    """The checks that see less than they did."""
    for check, block in was.items():
        verdict, after = block.get(VERDICT), now[check].get(VERDICT)
        if saw(after) < saw(verdict):
            yield _said(check, VERDICT, verdict, after)
            continue
        for fact in sees_less(block, now[check]) if after == verdict else ():
            yield _said(check, fact, block.get(fact), now[check].get(fact))


def _complaints(was: Blocks, now: Blocks) -> Iterator[Difference]:
    """What checks find or warn of that they did not."""
    for check, block in was.items():
        known = complaints(block)
        for key, kind in complaints(now[check]).items():
            if known.get(key) not in (kind, "finding"):
                rule, _, place = key.partition(" ")
                said = Difference(
                    section=VERDICTS,
                    block=check,
                    layer=place,
                    fact=rule,
                    was=known.get(key, NOTHING),
                    now=kind,
                )
                yield said


def _better(was: Blocks, now: Blocks) -> Iterator[str]:
    for check, block in was.items():
        verdict, after = str(block.get(VERDICT)), str(now[check].get(VERDICT))
        gone = [key for key in complaints(block) if key not in complaints(now[check])]
        if saw(after) > saw(verdict) or (verdict, after) == ("failed", "passed"):
            yield f"{check} is {word_of(after)}, and was {word_of(verdict)}"
        elif gone:
            yield f"{check} no longer tells of {listed(gone, most=3)}"
    new = [name for name in now if name not in was]
    if new:
        yield f"the baseline says nothing of {counted(len(new), 'check')}: {listed(new)}"


def _said(check: str, fact: str, was: Value, now: Value) -> Difference:
    return Difference(section=VERDICTS, block=check, layer=check, fact=fact, was=was, now=now)


def _float(value: Value) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
