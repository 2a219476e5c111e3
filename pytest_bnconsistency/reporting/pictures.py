"""Bars for the numbers that a record holds as evidence. A picture is a table, too, for who can't
see it.

Evidence differs by check and by release: what is not there, or not a number, has no picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.reporting.numbers import real
from pytest_bnconsistency.words import digits

WIDE = 1000
"""Numbers whose sizes differ by more than this share a logarithmic scale."""
SHORTEST = 2.0
"""Percent of the width for the smallest number above 0."""
_SIDES = {
    "moving": "evaluation, as stored",
    "population": "evaluation, population statistics",
    "training": "training mode",
}
_EXCESS = {
    "excess": "found",
    "tolerance": "tolerated",
    "counting": "chance: so few rows",
    "sampling": "chance: statistics of other rows",
    "jitter": "chance: jitter of the moving average",
}
_NOISE = {
    "floor": "noise floor of this model",
    "bound": "noise bound: more fails",
    "scale": "size of the output",
}
_DISTANCE = {
    "gap_to_training": "with the stored statistics",
    "gap_left": "with the population statistics",
}
_SHARES = {
    "initial_share": "left by momentum and updates",
    "initial_share_measured": "measured in the statistics",
}
_GAP = {
    "closes": "given the population statistics alone",
    "opens": "left alone with its stored statistics",
}


@dataclass(frozen=True)
class Bar:
    """A number, and how much of the width it takes, in percent."""

    label: str
    said: str
    length: float


@dataclass(frozen=True)
class Picture:
    """Bars on one scale, those of layers with the worst first; the `line`, in percent of the
    width, stands where a bound is.
    """

    caption: str
    bars: Sequence[Bar]
    line: float | None = None


def of_check(evidence: Mapping[str, Any]) -> Iterator[Picture]:
    """What the numbers of a whole check show."""
    yield from _scores(evidence)
    for one in _list(evidence, "excess"):
        yield from _picture(f"{_word(one, 'of')}: the excess beside its limits", one, _EXCESS)
    yield from _sizes(evidence)
    outputs = _list(evidence, "outputs")
    for position, one in enumerate(outputs, 1):
        which = f" of output {position}" if len(outputs) > 1 else ""
        yield from _picture(f"Rounding{which}, measured on this model", one, _NOISE)
    tried = _mapping(evidence, "examples")
    of_size = {f"batches of {size}": count for size, count in _mapping(tried, "sizes").items()}
    yield from _drawn("Batches that Hypothesis made, by number of rows", of_size.items())
    for role in ("mean", "variance"):
        caption = f"The {role}s: standard errors off the population's, the median over channels"
        yield from _drawn(caption, _layers(evidence, "distances", role))


def of_finding(evidence: Mapping[str, Any]) -> Iterator[Picture]:
    """What the numbers of a finding show."""
    yield from _divergence(evidence)
    yield from _batch(evidence)
    yield from _picture("Distance of the outputs to those of training", evidence, _DISTANCE)
    known = {label: real(evidence.get(key)) for key, label in _SHARES.items()}
    yield from _shares("Share of the initial values", list(known.items()))
    for column, how in _GAP.items():
        layers = [(layer, real(one)) for layer, one in _layers(evidence, "gap_by_layer", column)]
        yield from _shares(f"Share of the gap that a layer {column}, {how}", layers)
    yield from statistics_off(
        _layers(evidence, "gap_by_layer", "mean_shift"),
        _layers(evidence, "gap_by_layer", "variance_ratio"),
    )


def statistics_off(
    means: Sequence[tuple[str, object]], ratios: Sequence[tuple[str, object]]
) -> Iterator[Picture]:
    """Moving statistics beside the population's, layer by layer."""
    yield from _drawn(
        "Moving mean, in standard deviations off the population's, the median over channels", means
    )
    yield from _drawn(
        "Moving variance over the population's, the median over channels (line: 1, the same)",
        ratios,
        bound=1.0,
    )


def of_layers(layers: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """What the facts of a model's normalization layers show."""
    known = [(_word(one, "path"), _mapping(one, "population")) for one in layers]
    means = [(path, _mapping(found, "mean").get("off")) for path, found in known]
    ratios = [(path, _mapping(found, "variance").get("ratio")) for path, found in known]
    yield from statistics_off(means, ratios)


def figure(check: Mapping[str, Any]) -> str:
    """The number that says most of a check, in a few words."""
    evidence = check["evidence"]
    changes = [real(finding["evidence"].get("largest_change")) for finding in check["findings"]]
    if known := [change for change in changes if change is not None]:
        return f"a row moves by {digits(max(known))}"
    for one in _list(evidence, "excess"):
        found, limit = real(one.get("excess")), real(one.get("tolerance"))
        if found is not None and limit is not None and found > 0:
            return f"{_word(one, 'of')} off by {digits(found)}, tolerated {digits(limit)}"
    margin = real(evidence.get("margin"))
    return f"{digits(margin)} of the noise bound" if margin else ""


def entry_points(evidence: Mapping[str, Any]) -> list[list[str]]:
    """Each entry point, and what was seen of it."""
    return [[name, _seen(found)] for name, found in _mapping(evidence, "entry_points").items()]


def batches(evidence: Mapping[str, Any]) -> list[list[str]]:
    """The batches that show a finding, each with its entry points."""
    of = _mapping(evidence, "exchanges")
    return [[names, str(batch)] for names in of for batch in _sequence(of, names)]


def _seen(found: object) -> str:
    if not isinstance(found, Mapping):
        return str(found)
    moved = ", ".join(map(str, _sequence(found, "moved")))
    repeats = "repeats itself" if found.get("repeats") else "does not repeat itself"
    return f"{repeats}, moves {moved or 'nothing'}"


def _scores(evidence: Mapping[str, Any]) -> Iterator[Picture]:
    for name in _mapping(evidence, "moving"):
        sides = {label: _mapping(evidence, side).get(name) for side, label in _SIDES.items()}
        yield from _drawn(f"{name}: evaluation beside training", sides.items())


def _sizes(evidence: Mapping[str, Any]) -> Iterator[Picture]:
    """How far rows move in batches of each size, in the bounds that noise has there."""
    by_size = _list(evidence, "by_size")
    bounds = [bound for one in by_size if (bound := real(one.get("bound"))) and bound > 0]
    margins = {
        f"batch of {one.get('rows')}": _margin(one, max(bounds, default=0.0)) for one in by_size
    } or {"all sizes": real(evidence.get("margin"))}
    if any(margins.values()):
        caption = (
            "Largest change of a row by size of its batch, in noise bounds (line: 1, the bound)"
        )
        yield from _drawn(caption, margins.items(), bound=1.0)


def _margin(one: Mapping[str, Any], usual: float) -> float | None:
    """The change in bounds, the `usual` one where none was measured for that size."""
    change, bound = real(one.get("change")), real(one.get("bound"))
    bound = bound if bound and bound > 0 else usual
    return change / bound if change and bound else change


def _divergence(evidence: Mapping[str, Any]) -> Iterator[Picture]:
    """Where the difference of a row begins, and how it grows."""
    seen = _mapping(evidence, "divergence")
    layers = _layers(seen, "layers", "share")
    caption = (
        f"Row {seen.get('row')}, layer by layer: how far it moves, against the largest value there"
    )
    of = seen.get("calls")
    some = f" ({len(layers)} of {of} calls)" if of != len(layers) else ""
    yield from _drawn(caption + some, layers)


def _batch(evidence: Mapping[str, Any]) -> Iterator[Picture]:
    """The batch that fails, row by row: what was kept, and how far the rest was moved."""
    batch = _mapping(evidence, "batch")
    kept = _sequence(batch, "kept")
    rows = [
        (f"row {row}, kept" if row in kept else f"row {row}", moved)
        for row, moved in enumerate(_sequence(batch, "moved"))
    ]
    caption = (
        f"The batch that fails ({_word(batch, 'variant')}): how far the input of each row moved"
    )
    yield from _drawn(caption, rows)


def _layers(evidence: Mapping[str, Any], key: str, column: str) -> list[tuple[str, object]]:
    return [(_word(one, "layer"), one.get(column)) for one in _list(evidence, key)]


def _shares(caption: str, shares: Sequence[tuple[str, float | None]]) -> Iterator[Picture]:
    """Bars of shares of a whole: less than none of it is none, more than all is all."""
    whole = [(label, min(max(one, 0.0), 1.0)) for label, one in shares if one is not None]
    known = [(label, share) for label, share in whole if not math.isnan(share)]
    if any(share for _, share in known):
        bars = [Bar(label, f"{share:.0%}", round(100 * share, 1)) for label, share in known]
        yield Picture(caption, bars)


def _picture(
    caption: str, evidence: Mapping[str, Any], labels: Mapping[str, str]
) -> Iterator[Picture]:
    yield from _drawn(caption, [(label, evidence.get(key)) for key, label in labels.items()])


def _drawn(
    caption: str, values: Iterable[tuple[str, object]], *, bound: float = 0.0
) -> Iterator[Picture]:
    """The picture of what is a number, if anything is and there is something to compare."""
    known = [(label, found) for label, one in values if (found := real(one)) is not None]
    sizes = [one for one in (*(value for _, value in known), bound) if 0 < one < math.inf]
    if not known or not sizes:
        return
    scale = Scale(min(sizes), max(sizes))
    bars = [Bar(label, digits(value), scale.length(value)) for label, value in known]
    note = "; logarithmic scale" if scale.is_wide else ""
    line = min(scale.length(bound), 99.0) if bound else None
    yield Picture(f"{caption}{note}", bars, line)


@dataclass(frozen=True)
class Scale:
    """From 0 to the largest number; from the smallest on where that is much smaller."""

    smallest: float
    largest: float

    @property
    def is_wide(self) -> bool:
        return self.largest > WIDE * self.smallest

    def length(self, value: float) -> float:
        """In percent of the width; nothing for what is below 0 or no number."""
        if math.isnan(value) or value <= 0:
            return 0.0
        if not self.is_wide:
            return round(max(SHORTEST, min(100.0, 100 * value / self.largest)), 1)
        orders = math.log(min(value, self.largest) / self.smallest)
        share = orders / math.log(self.largest / self.smallest)
        return round(SHORTEST + (100 - SHORTEST) * share, 1)


def _mapping(evidence: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = evidence.get(key)
    return value if isinstance(value, Mapping) else {}


def _sequence(evidence: Mapping[str, Any], key: str) -> list[Any]:
    value = evidence.get(key)
    return value if isinstance(value, list) else []


def _list(evidence: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [one for one in _sequence(evidence, key) if isinstance(one, Mapping)]


def _word(one: Mapping[str, Any], key: str) -> str:
    return str(one.get(key, ""))
