"""A row's result in inference does not depend on its companions, its position or their number.

At a fixed batch shape the answer is exact: a kept row must give the same bits whatever stands
beside it. Between batch sizes kernels differ, and the answer is measured against the noise floor
of the subject.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pytest_bnconsistency.checks import examples
from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.passes import measured_noise, observed
from pytest_bnconsistency.checks.words import counted, listed
from pytest_bnconsistency.data import Array, Nest, flatten, is_float, map_nest, rows_of
from pytest_bnconsistency.diagnosis import localise, rules
from pytest_bnconsistency.diagnosis.localise import Exchange
from pytest_bnconsistency.probes import noise
from pytest_bnconsistency.probes.state import (
    Variables,
    preserve_state,
    reachable_variables,
    same_bits,
)
from pytest_bnconsistency.probes.taps import Observation, Pass
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NAME = "batch_invariance"
SIZES = (1, 5, 2, 3)
LEAKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass
class Entry:
    """A way that users run the model. `observed` is the pass behind it, where there is one."""

    names: tuple[str, ...]
    run: Callable[[Nest], Observation]
    twice: Callable[[Nest], tuple[Observation, Observation]]
    observed: Pass | None = None
    training: bool | None = False
    exchanged: list[tuple[Exchange, list[int], float]] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    random: bool = False
    stable: frozenset[int] = frozenset()
    margin: float = 0.0

    @property
    def name(self) -> str:
        return listed(self.names)

    @property
    def fails(self) -> bool:
        return bool(self.exchanged or self.sizes or self.shapes)


def check(case: Case) -> CheckResult:
    x = case.sample()
    with preserve_state(case.subject):
        return examples.of_rows(case, x, lambda: _decide(case, x))


def _decide(case: Case, x: Nest) -> CheckResult:
    entries = _entries(case, x)
    exchanges, notes = exchange_rows(x, case.settings.seed), []
    floors: list[noise.Floor] = []
    finite = True
    for entry in entries:
        base, again = entry.twice(x)
        entry.random = not _same(base.outputs, again.outputs)
        entry.stable = _repeating(base, again)
        if entry.random:
            notes.append(
                f"the same batch gives other outputs through {entry.name}: only layers that "
                "repeat themselves are judged there"
            )
        elif entry.observed is not None and entry.observed.still:
            notes.append(f"layers that draw random numbers are held still in {entry.name}")
        finite &= all(_finite(output) for output in base.outputs)
        for exchange in exchanges:
            _compare_exchange(entry, base, exchange, notes)
        if entry.exchanged or entry.random:
            continue
        floors, _ = measured_noise(case, x)
        _compare_sizes(entry, base, x, floors)
    judged = [entry for entry in entries if not entry.random]
    sizes = sorted({stop - start for start, stop in _chunks(rows_of(x))})
    evidence = {
        "rows": rows_of(x),
        "entry_points": {name: _word(entry) for entry in entries for name in entry.names},
        "exchanges": [exchange.name for exchange in exchanges],
        "sizes": sizes,
        "outputs": [{"floor": f.floor, "bound": f.bound, "scale": f.scale} for f in floors],
        "margin": max((entry.margin for entry in judged), default=0.0),
    }
    findings = tuple(_findings(case, x, entries))
    if findings:
        return CheckResult(NAME, Verdict.FAILED, findings, notes=tuple(notes), evidence=evidence)

    def unseen(summary: str, hint: str) -> CheckResult:
        return CheckResult(NAME, Verdict.VACUOUS, (), summary, hint, tuple(notes), None, evidence)

    if not judged:
        return unseen(
            "inference is random: the same batch gives other bits in a second run",
            "remove the randomness from inference; inference_purity says where it is",
        )
    if not finite:
        return unseen(
            "the outputs are NaN or Inf, whatever the batch",
            "statistics_health says whether stored statistics are at fault",
        )
    seen = _resolution(case, x)
    evidence["resolution"] = {place: share for place, share in seen.items() if share is not None}
    if all(share is None for share in seen.values()):
        return unseen(
            "not even a row moved by 0.1 of its batch's mean would have been seen",
            "give rows that differ, and a model whose layers are not all zero",
        )
    leaks = "; ".join(f"{share:.0e} at {place}" for place, share in seen.items() if share)
    through = listed(_names(judged))
    summary = (
        f"each of {rows_of(x)} rows keeps its bits in {len(exchanges)} other batches through "
        f"{through}; batch sizes {listed(sizes)} stay within {evidence['margin']:.2f} of "
        "the noise bound; a leak of the batch mean into a row would have been seen from "
        f"{leaks}"
    )
    return CheckResult(
        NAME, Verdict.PASSED, summary=summary, notes=tuple(notes), evidence=evidence
    )


def _finite(output: Array) -> bool:
    return bool(np.isfinite(output.astype(float)).all())


def exchange_rows(x: Nest, seed: int) -> list[Exchange]:
    """Batches in which every row serves as a kept row beside every other row that changes.

    Row i is kept in the batches of the i-th of the ways to choose half of k batches: no choice
    holds another one, so that for any two rows some batch keeps the first and changes the second.
    """
    rows, rng = rows_of(x), np.random.default_rng(seed)
    count = next(k for k in itertools.count(2) if _ways(k) >= rows)
    choices = list(itertools.combinations(range(count), count // 2))[:rows]
    kinds = itertools.cycle((_redrawn, _hundredfold, _constant, _duplicated))
    exchanges = []
    for number in range(count):
        kept = np.array([row for row, choice in enumerate(choices) if number in choice])
        changed = np.setdiff1d(np.arange(rows), kept)
        names, other = [], map_nest(np.copy, x)
        for row in changed:
            kind = next(kinds)
            names.append(kind.__name__.strip("_"))
            for leaf, original in zip(flatten(other), flatten(x), strict=True):
                leaf[row] = kind(original, row, rng)
        if len(kept) and len(changed):
            name = f"{len(changed)} companions {', '.join(dict.fromkeys(names))}"
            exchanges.append(Exchange(name, other, kept, kept, rows))
    order = np.roll(np.arange(rows), 1)[::-1]
    now = np.argsort(order)
    permuted = map_nest(lambda leaf: leaf[order], x)
    exchanges.append(Exchange("the batch permuted", permuted, np.arange(rows), now, rows))
    if any(is_float(leaf) for leaf in flatten(x)):
        poisoned, row = map_nest(np.copy, x), rows // 2
        for leaf in flatten(poisoned):
            if is_float(leaf):
                leaf[row].flat[0] = np.nan
        kept = np.delete(np.arange(rows), row)
        exchanges.append(Exchange("one companion with a NaN", poisoned, kept, kept, rows))
    return exchanges


def _ways(k: int) -> int:
    return math.comb(k, k // 2)


def _redrawn(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    if is_float(leaf):
        normal = rng.standard_normal(leaf.shape[1:]) * (leaf.std() or 1.0) + leaf.mean()
        return np.asarray(normal, leaf.dtype)
    drawn = rng.integers(int(leaf.min()), int(leaf.max()) + 1, leaf.shape[1:])
    return np.asarray(drawn, leaf.dtype)


def _hundredfold(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    if is_float(leaf):
        changed: Array = leaf[row] * leaf.dtype.type(100)
        return changed
    return _redrawn(leaf, row, rng)


def _constant(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    return np.full_like(leaf[row], leaf.max())


def _duplicated(leaf: Array, row: int, rng: np.random.Generator) -> Array:
    copied: Array = leaf[(row + 1) % len(leaf)]
    return copied


def _entries(case: Case, x: Nest) -> list[Entry]:
    subject = case.subject
    inference, default = observed(case, x, False), observed(case, x, None)
    held = reachable_variables(subject)

    def predict(rows: Nest) -> Observation:
        outputs = subject.predict(rows, rows_of(rows))
        return Observation([np.asarray(leaf) for leaf in flatten(outputs)], [], (), {})

    def predict_restored(rows: Nest) -> Observation:
        with _restored(held):
            return predict(rows)

    def pass_twice(seen: Pass) -> Callable[[Nest], tuple[Observation, Observation]]:
        return lambda rows: _twice(lambda: seen.run(rows, keep=True), seen.written)

    entries = [
        Entry(("predict",), predict_restored, lambda rows: _twice(lambda: predict(rows), held)),
        Entry(("model(x, training=False)",), inference.run, pass_twice(inference), inference),
    ]
    if default.same_computation(inference):
        # The same operations in the same order: what holds for one holds for the other.
        entries[1].names = ("model(x)", "model(x, training=False)")
    else:
        entries.append(Entry(("model(x)",), default.run, pass_twice(default), default, None))
    return entries


def _twice(run: Callable[[], Observation], held: list[Any]) -> tuple[Observation, Observation]:
    """Two runs, the second from what the first left behind."""
    with _restored(held):
        return run(), run()


@contextlib.contextmanager
def _restored(variables: list[Any]) -> Iterator[None]:
    before = Variables(variables)
    try:
        yield
    finally:
        before.restore()


def _same(mine: list[Array], its: list[Array]) -> bool:
    return len(mine) == len(its) and all(map(same_bits, mine, its))


def _repeating(first: Observation, second: Observation) -> frozenset[int]:
    """The calls whose outputs had the same bits in two runs of one batch."""
    return frozenset(
        index
        for index, (mine, its) in enumerate(zip(first.records, second.records, strict=True))
        if mine is not None and its is not None and _same(mine, its)
    )


def _compare_exchange(
    entry: Entry, base: Observation, exchange: Exchange, notes: list[str]
) -> None:
    try:
        other = entry.run(exchange.x)
    except Exception as error:
        # A model may refuse some rows, NaN above all; that is no dependence.
        first = str(error).strip().splitlines()[0][:80]
        notes.append(f"{entry.name} refuses a batch with {exchange.name}: {first}")
        return
    moved = 0.0
    outputs = () if entry.random else zip(base.outputs, other.outputs, strict=True)
    for mine, its in outputs:
        if mine.ndim and len(mine) == len(its) == exchange.rows:
            different = localise.row_bits_differ(mine, its, exchange)
            if different.any():
                change = np.abs(
                    its[exchange.now][different].astype(float)
                    - mine[exchange.kept][different].astype(float)
                )
                moved = max(moved, float(np.nan_to_num(change, nan=np.inf).max()), 1e-300)
    places = localise.differing_calls(base, other, exchange)
    if entry.observed is not None and places:
        places = sorted(set(places) & entry.observed.reaching_outputs() & entry.stable)
    if moved or places:
        entry.exchanged.append((exchange, places, moved))


def _compare_sizes(entry: Entry, base: Observation, x: Nest, floors: list[noise.Floor]) -> None:
    for start, stop in _chunks(rows_of(x)):
        chunk = map_nest(lambda leaf: leaf[start:stop], x)  # noqa: B023
        size = stop - start
        try:
            outputs = entry.run(chunk).outputs
        except Exception as error:
            first = str(error).strip().splitlines()[0][:120]
            entry.shapes.append(f"a batch of {size} raises: {first}")
            return
        for index, (output, whole) in enumerate(zip(outputs, base.outputs, strict=True)):
            if not (whole.ndim and len(whole) == rows_of(x)):
                continue
            if output.shape != (size, *whole.shape[1:]):
                entry.shapes.append(
                    f"a batch of {size} gives shape {output.shape}; the batch of {rows_of(x)} "
                    f"gives {whole.shape}"
                )
                return
            change = np.abs(output.astype(float) - whole[start:stop].astype(float))
            worst = float(np.nan_to_num(change, nan=np.inf).max(initial=0.0))
            bound = floors[index].bound if index < len(floors) else 0.0
            entry.margin = max(entry.margin, worst / bound if bound else float(worst > 0) * 1e9)
            if worst > bound:
                row = start + int(change.reshape(size, -1).max(axis=1).argmax())
                entry.sizes.append(
                    f"row {row} moves by {worst:.3g} in a batch of {size}; noise explains "
                    f"{bound:.3g}"
                )


def _chunks(rows: int) -> list[tuple[int, int]]:
    """Batches of 1, 2, 3 and 5 rows that together take in every row at least once."""
    starts = list(itertools.accumulate(itertools.islice(itertools.cycle(SIZES), rows), initial=0))
    chunks = [(a, min(b, rows)) for a, b in itertools.pairwise(starts) if a < rows]
    return chunks + [(0, min(3, rows))] + [(a, a + 1) for a in range(1, min(3, rows))]


def _resolution(case: Case, x: Nest) -> Mapping[str, float | None]:
    """The smallest leak that the exact oracle flags, at the input and inside."""
    _, perturbed = measured_noise(case, x)
    rows = map_nest(lambda leaf: leaf[:2], x)
    exchange = next(e for e in exchange_rows(rows, case.settings.seed) if 0 in e.kept)
    places = {0: "the input"}
    if perturbed.calls:
        places[1] = perturbed.calls[len(perturbed.calls) // 2].label
    floating = any(is_float(leaf) for leaf in flatten(x))
    seen: dict[str, float | None] = {}
    for place, name in places.items():
        if place == 0 and not floating:
            continue
        seen[name] = None
        for share in LEAKS:
            leak = np.zeros(2, np.float32)
            leak[place] = share
            base, other = (perturbed.run(b, leak=leak) for b in (rows, exchange.x))
            hidden = localise.differing_calls(base, other, exchange)
            if hidden or localise.outputs_differ(base.outputs, other.outputs, exchange):
                seen[name] = share
                break
    return seen


def _findings(case: Case, x: Nest, entries: list[Entry]) -> list[Finding]:
    findings = []
    mixing = [entry for entry in entries if entry.exchanged]
    holding = _names([entry for entry in entries if not entry.fails and not entry.random])
    if mixing:
        findings.append(_mixing(case, x, mixing, holding))
    losing = [entry for entry in entries if entry.shapes]
    if losing:
        findings.append(_losing(losing, holding))
    sized = [entry for entry in entries if entry.sizes]
    if sized:
        findings.append(_sized(sized, holding))
    return findings


def _mixing(case: Case, x: Nest, mixing: list[Entry], holding: list[str]) -> Finding:
    # The entry whose layers can be seen; with several, the one that says least to the model.
    entry = next((e for e in reversed(mixing) if e.observed is not None), mixing[-1])
    exchange, _, _ = max(entry.exchanged, key=lambda item: np.nan_to_num(item[2], posinf=0.0))
    moves = [move for e in mixing for _, _, move in e.exchanged]
    moved = max([m for m in moves if m and np.isfinite(m)], default=max(moves))
    only_moved = all(item[0].name == "the batch permuted" for item in entry.exchanged)
    evidence = {
        "fails": _names(mixing),
        "holds": holding,
        "exchanges": {e.name: [item[0].name for item in e.exchanged] for e in mixing},
        "largest_change": moved,
    }
    through = f"through {listed(_names(mixing))}"
    where = f", not through {listed(holding, 'or')}" if holding else ""
    how = (
        f"a row moves by {moved:.3g}"
        if moved and np.isfinite(moved)
        else "a row becomes NaN"
        if moved
        else "a row's hidden values move, though saturation hides it in the outputs,"
    )
    what = "its position changes" if only_moved else "only its companions change"
    message = f"{how} when {what} ({exchange.rows} rows), {through}{where}"
    if entry.observed is None:
        return Finding(
            rules.ROWS_MIX.id,
            rules.ROWS_MIX.slug,
            "not located: only predict mixes the rows",
            message,
            "not established; tried: the same rows through model(x) and model(x, training=False), "
            "where they are independent",
            False,
            "look at the model's own predict, predict_step and make_predict_function",
            bound="no tolerance: bitwise, at one batch shape",
            evidence=evidence,
        )
    seen = entry.observed
    among = seen.reaching_outputs() & entry.stable
    origin = localise.first_origin(seen, x, exchange, among)
    evidence["layer"] = origin.label
    takes = [c.layer for c in origin.calls if case.subject.takes_training(c.layer)]
    forced = {id(layer): False for layer in takes}
    bound = "no tolerance: bitwise, at one batch shape; the same batch twice gives the same bits"
    if takes and localise.independent_with(seen, x, exchange, forced):
        by = _told_by(origin)
        moving = {id(v) for v in entry.observed.run(x).moved}
        more = sum(
            any(id(v) in moving for v in case.subject.own_variables(layer))
            for layer in {id(layer): layer for layer in takes}.values()
            if origin.call is None or layer is not origin.call.layer
        )
        who = f"{origin.label} normalises by the batch: it runs"
        if more:
            others = counted(more, "more layer")
            who = f"{origin.label} and {others} normalise by the batch: they run"
        return Finding(
            rules.TRAINING_MODE.id,
            rules.TRAINING_MODE.slug,
            origin.label,
            message,
            f"{who} in training mode{by}",
            True,
            "call the model with training=False; take training=True out of the call (pass "
            "training=None on); where the batch size of production is fixed or rows must not "
            "meet at all, use GroupNormalization",
            "forced into inference mode, every kept row has the same bits in every layer and "
            "output",
            bound,
            evidence=evidence,
        )
    rule = rules.POSITION_MATTERS if only_moved else rules.ROWS_MIX
    how_known = (
        "its input row is the same to the bit and its output row is not"
        if origin.replayed
        else "what comes before is the same to the bit"
    )
    return Finding(
        rule.id,
        rule.slug,
        origin.label,
        message,
        f"not established; {'its place counts' if only_moved else 'the rows mix'} here: "
        f"{how_known}",
        False,
        "take positions along the time or feature axis, not along axis 0"
        if only_moved
        else "compute over the feature axes, not over axis 0; give statistics of the batch to "
        "training mode only",
        "inference mode forced on every layer that takes one: the row still moves",
        bound,
        evidence=evidence,
    )


def _told_by(origin: localise.Origin) -> str:
    """Who put the first layer into training mode, as far as the calls around it show."""
    call = origin.call
    if call is None or True not in call.told:
        return ""
    chain = [*call.parents, call.layer][: call.told.index(True) + 1]
    return f", because {'/'.join(layer.name for layer in chain)} is called with training=True"


def _losing(losing: list[Entry], holding: list[str]) -> Finding:
    return Finding(
        rules.BATCH_AXIS_LOST.id,
        rules.BATCH_AXIS_LOST.slug,
        "the model's output",
        f"{losing[0].shapes[0]}, through {listed(_names(losing))}",
        "not established; tried: batches of " + listed(sorted(SIZES)),
        False,
        "name the axis: tf.squeeze(x, axis=-1) instead of tf.squeeze(x); reshape to (-1, ...)",
        evidence={"fails": _names(losing), "holds": holding},
    )


def _sized(sized: list[Entry], holding: list[str]) -> Finding:
    return Finding(
        rules.SIZE_MATTERS.id,
        rules.SIZE_MATTERS.slug,
        "not located",
        f"{sized[0].sizes[0]}, through {listed(_names(sized))}",
        "not established; tried: other companions at one batch size, where the rows are the same "
        "to the bit",
        False,
        "look for code that reads the batch size",
        bound=f"{noise.MULTIPLE:g} times the noise floor, measured on this model",
        evidence={"fails": {e.name: e.sizes for e in sized}, "holds": holding},
    )


def _names(entries: list[Entry]) -> list[str]:
    return [name for entry in entries for name in entry.names]


def _word(entry: Entry) -> str:
    return "not judged" if entry.random else "fails" if entry.fails else "holds"
