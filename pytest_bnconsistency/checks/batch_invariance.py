"""A row's result in inference does not depend on its companions, its position or their number.

At a fixed batch shape the answer is exact: a kept row must give the same bits whatever stands
beside it. Between batch sizes kernels differ, and the answer is measured against the noise floor
of the subject.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from pytest_bnconsistency.checks import entries as ways
from pytest_bnconsistency.checks import examples
from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.entries import (
    ONE,
    PAIR,
    WHOLE,
    Entry,
    first_rows,
    has_rows,
    measured_noise,
    repeating,
    rows_between,
    same_outputs,
)
from pytest_bnconsistency.checks.hidden import hidden, laid_out
from pytest_bnconsistency.checks.passes import observed
from pytest_bnconsistency.checks.resolution import resolution
from pytest_bnconsistency.data import (
    Array,
    Nest,
    all_finite,
    distance,
    rows_of,
)
from pytest_bnconsistency.diagnosis import localise, mixing, padding
from pytest_bnconsistency.diagnosis.mixing import Difference, Judged
from pytest_bnconsistency.errors import OptionError, UnsupportedSubjectError
from pytest_bnconsistency.probes.exchanges import Exchange, exchanges, joint_exchanges
from pytest_bnconsistency.probes.noise import DROWNED, Noise
from pytest_bnconsistency.probes.padding import lengthened, masks_added
from pytest_bnconsistency.probes.sizes import only_size
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.probes.taps import Instrument, Observation
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.subjects import Call
from pytest_bnconsistency.subjects.base import RAGGED
from pytest_bnconsistency.words import first_line, listed

NAME = "batch_invariance"


def check(case: Case) -> CheckResult:
    reason = case.settings.transductive
    if isinstance(reason, str):
        summary = f"the model is declared transductive: {reason}"
        return CheckResult(NAME, Verdict.NOT_APPLICABLE, summary=summary)
    if refusal := only_size(case.subject):
        return CheckResult(NAME, Verdict.NOT_APPLICABLE, summary=refusal)
    x = case.sample()
    with preserve_state(case.subject):
        if not reason:
            return examples.of_rows(case, x, lambda: _decide(case, x))
        declared = _declared(case, x, reason)
        apart = [id(call.layer) for call in declared]
        result = examples.of_rows(case, x, lambda: _decide(case, x, apart), apart)
    if result.verdict is not Verdict.PASSED:
        return result
    reasons = "; ".join(f"{call.path}: {why}" for call, why in declared.items())
    summary = f"rows are meant to meet in {reasons}; apart from that, {result.summary}"
    return replace(result, verdict=Verdict.NOT_APPLICABLE, summary=summary)


def _declared(case: Case, x: Nest, reasons: Mapping[str, str]) -> dict[Call, str]:
    """The layers that are declared transductive, and why."""
    calls = observed(case, x, False).calls
    found = {}
    for pattern, reason in reasons.items():
        matching = [call for call in calls if fnmatch.fnmatchcase(call.path, pattern)]
        if not matching:
            known = ", ".join(list(dict.fromkeys(call.path for call in calls))[:4])
            raise OptionError(
                f"transductive={{{pattern!r}: ...}} matches no layer; expected a pattern of paths "
                f"such as {known}"
            )
        found.update(dict.fromkeys(matching, reason))
    return found


def _decide(case: Case, x: Nest, apart: Collection[int] = ()) -> CheckResult:
    joint, notes = joint_exchanges(x, case.settings.seed), list[str]()
    groups = _entry_points(case, x, joint, apart)
    noise = measured_noise(case, x, apart)
    for entry, judged in groups:
        _compare_exchanges(entry, judged, case, x, joint, noise, notes)
        if not judged.differences and not judged.random:
            _compare_sizes(entry, judged, x, noise)
        judged.has_rows = any(has_rows([output], x) for output in entry.run(WHOLE, x).outputs)
        if judged.observed is not None and judged.observed.still:
            notes.append(f"layers that draw random numbers are held still in {entry.name}")
    if not apart:
        groups += _untraced(case, x, groups, noise)
    all_judged = [judged for _, judged in groups]
    known = [judged for judged in all_judged if not judged.random]
    holding = [judged for judged in known if judged.word == "holds"]
    rowless = [name for judged in known if not judged.has_rows for name in judged.names]
    if rowless and any(judged.has_rows for judged in known):
        notes.append(f"no output of {listed(rowless)} has the rows first: not judged")
    sizes = sorted({stop - start for start, stop in _chunks(rows_of(x))})
    evidence = {
        "rows": rows_of(x),
        "entry_points": {name: judged.word for judged in all_judged for name in judged.names},
        "exchanges": [exchange.name for exchange in joint],
        "sizes": sizes,
        "margin": max((judged.margin for judged in known), default=0.0),
    }
    if evidence["margin"]:
        evidence["outputs"] = [
            {"floor": f.floor, "bound": f.bound, "lower": f.lower, "scale": f.scale}
            for f in noise.floors
        ]
    findings = tuple(mixing.findings(case.subject, x, all_judged))
    if not findings and known:
        findings = tuple(_padding(case, x, apart, noise, notes))
    if findings:
        return CheckResult(NAME, Verdict.FAILED, findings, notes=tuple(notes), evidence=evidence)

    def unseen(summary: str, hint: str) -> CheckResult:
        return CheckResult(NAME, Verdict.VACUOUS, (), summary, hint, tuple(notes), None, evidence)

    if not known:
        return unseen(
            "inference is random: the same batch gives other bits in a second run",
            "remove the randomness from inference; inference_purity says where it is",
        )
    if not all(all_finite(entry.run(WHOLE, x).outputs) for entry, _ in groups):
        return unseen(
            "the outputs are NaN or Inf, whatever the batch",
            "statistics_health says whether stored statistics are at fault",
        )
    if not holding:
        whole = [entry.run(WHOLE, x).outputs for entry, judged in groups if not judged.random]
        shapes = listed(
            dict.fromkeys(str(output.shape) for outputs in whole for output in outputs)
        )
        return unseen(
            f"no output has the {rows_of(x)} rows of the batch first: {shapes}",
            "give a model, or a function around it, whose outputs have the rows first",
        )
    seen = resolution(case, x, apart)
    evidence["resolution"] = {place: share for place, share in seen.items() if share is not None}
    if all(share is None for share in seen.values()):
        return unseen(
            "not even a row moved by 0.1 of its batch's mean would have been seen",
            "give rows that differ, and a model whose layers are not all zero",
        )
    leaks = "; ".join(f"{share:.0e} at {place}" for place, share in seen.items() if share)
    through = listed(mixing.names_of(holding))
    within = (
        f"batch sizes {listed(sizes)} stay within {evidence['margin']:.2f} of the noise bound"
        if not any(judged.drowned for judged in known)
        else "batch sizes were not judged, because rounding alone moves the outputs by more than "
        f"{DROWNED:g} of their scale"
    )
    summary = (
        f"each of {rows_of(x)} rows keeps its bits in {len(joint)} other batches through "
        f"{through}; {within}; a leak of the batch mean into a row would have been seen from "
        f"{leaks}"
    )
    return CheckResult(
        NAME, Verdict.PASSED, summary=summary, notes=tuple(notes), evidence=evidence
    )


def _entry_points(
    case: Case, x: Nest, joint: Sequence[Exchange], apart: Collection[int]
) -> list[tuple[Entry, Judged]]:
    """The entry points that compute something else, each with the names that it stands for.

    What gives the same bits in every layer, or in the outputs of whole, changed and single-row
    batches, computes the same: what holds for the one holds for the other. `predict` cannot run
    layers `apart`.
    """
    subject = case.subject
    inference = ways.traced_entry(case, x, False, apart)
    judged = Judged([subject.spelled(False)], inference.observed)
    groups = [(inference, judged)]
    witnesses = [(WHOLE, x), (ONE, first_rows(x, 1)), (joint[0].name, joint[0].x)]
    for name in itertools.islice(subject.entries(), 0 if apart else 1):
        production = ways.entry(case, x, name)
        if _agree(production, inference, witnesses):
            judged.names.insert(0, name)
        else:
            again = functools.partial(ways.anew, case, name=name)
            groups.insert(0, (production, Judged([name], anew=again)))
    left_out = subject.spelled(None)
    if left_out == subject.spelled(False):
        return groups
    if not apart and ways.same_on_two_rows(case, x):
        judged.names.insert(-1, left_out)
        return groups
    default = ways.traced_entry(case, x, None, apart)
    assert inference.observed is not None
    assert default.observed is not None
    if default.observed.same_computation(inference.observed):
        judged.names.insert(-1, left_out)
    else:
        groups.append((default, Judged([left_out], default.observed)))
    return groups


def _agree(mine: Entry, its: Entry, witnesses: Sequence[tuple[str, Nest]]) -> bool:
    for batch, rows in witnesses:
        try:
            a, b = mine.run(batch, rows), its.run(batch, rows)
        except Exception:
            return False  # what it refuses, it is judged on
        if a.moved or b.moved or not same_outputs(a.outputs, b.outputs):
            return False
    return True


def _compare_exchanges(
    entry: Entry,
    judged: Judged,
    case: Case,
    x: Nest,
    joint: Sequence[Exchange],
    noise: Noise,
    notes: list[str],
) -> None:
    base = entry.run(WHOLE, x)
    seen = [_difference(entry, base, exchange, noise, []) for exchange in joint]
    if all(found == "same" for found in seen):
        return
    first, second = entry.twice(WHOLE, x, ways.state_of_layers(case, x, entry))
    judged.random = not same_outputs(first.outputs, second.outputs)
    judged.stable = repeating(first, second)
    if judged.random:
        notes.append(
            f"the same batch gives other outputs through {entry.name}: only layers that "
            "repeat themselves are judged there"
        )
    # One by one, the changes tell what it is that rows depend on.
    singly = [
        _difference(entry, base, exchange, noise, notes)
        for exchange in exchanges(x, case.settings.seed)
    ]
    changing = [found for found in singly if isinstance(found, Difference)]
    changing = changing or [found for found in seen if isinstance(found, Difference)]
    counted = [_counting(case, found, entry, judged, x, noise) for found in changing]
    judged.differences = [found for found in counted if found is not None]


def _difference(
    entry: Entry, base: Observation, exchange: Exchange, noise: Noise, notes: list[str]
) -> Difference | Literal["same", "refused"]:
    """What an exchange does to kept rows."""
    try:
        other = entry.run(exchange.name, exchange.x)
    except Exception as error:
        # A model may refuse some rows, NaN above all; that is no dependence.
        first = first_line(error)[:80]
        notes.append(f"{entry.name} refuses a batch with {exchange.name}: {first}")
        return "refused"
    if exchange.moves:
        change = _beyond_noise(base, other, exchange, noise)
        return Difference(exchange, (), change) if change else "same"
    moved = max(
        (
            _largest_change(mine, its, exchange)
            for mine, its in zip(base.outputs, other.outputs, strict=True)
            if mine.ndim and len(mine) == len(its) == exchange.rows
        ),
        default=0.0,
    )
    places = localise.differing_calls(base, other, exchange)
    return Difference(exchange, tuple(places), moved) if moved or places else "same"


def _largest_change(mine: Array, its: Array, exchange: Exchange) -> float:
    """The largest change of a kept row; more than zero if only its bits changed."""
    different = localise.row_bits_differ(mine, its, exchange)
    if not different.any():
        return 0.0
    change = distance(its[exchange.now][different], mine[exchange.kept][different])
    return max(float(change.max()), 1e-300)


def _counting(
    case: Case, found: Difference, entry: Entry, judged: Judged, x: Nest, noise: Noise
) -> Difference | None:
    """The part of a difference that is a dependence on the batch, if there is any."""
    if judged.observed is None:
        # Its kernels are not those of the pass, and may compute a row's place in another way.
        base, other = entry.run(WHOLE, x), entry.run(found.exchange.name, found.exchange.x)
        beyond = _beyond_noise(base, other, found.exchange, noise)
        return found if beyond and not judged.random else None
    among = judged.observed.reaching_outputs() & judged.stable
    places = tuple(place for place in found.places if place in among)
    moved = 0.0 if judged.random else found.moved
    if not found.moved:
        places = hidden(case, judged.observed, x, found.exchange, places)
        judged.stable -= laid_out(case, judged.observed)
    return replace(found, places=places, moved=moved) if moved or places else None


def _beyond_noise(
    base: Observation, other: Observation, exchange: Exchange, noise: Noise
) -> float:
    """The largest change of a kept row of the outputs that noise does not explain."""
    kept, now = exchange.kept, exchange.now
    moves = [
        noise.compare(index, mine[kept], its[now], kept)
        for index, (mine, its) in enumerate(zip(base.outputs, other.outputs, strict=True))
        if mine.ndim and len(mine) == len(its) == exchange.rows
    ]
    # In the same place next to no noise is to be expected, however much the network has.
    beyond = [m for m in moves if m is not None and (m.beyond if exchange.moves else m.large)]
    return max((moved.change for moved in beyond), default=0.0)


def _compare_sizes(entry: Entry, judged: Judged, x: Nest, noise: Noise) -> None:
    whole = entry.run(WHOLE, x).outputs
    for start, stop in _chunks(rows_of(x)):
        _compare_size(entry, judged, x, noise, start, stop, whole, whole)
        if judged.shapes:
            return


def _untraced(
    case: Case, x: Nest, groups: Sequence[tuple[Entry, Judged]], noise: Noise
) -> list[tuple[Entry, Judged]]:
    """The call outside of a trace, if a single row fails there alone.

    Code that asks for the number of rows finds none in a trace for any number.
    """
    name, calls = case.subject.spelled(False), ways.calls_of(case)
    traced, judged = next(group for group in groups if name in group[1].names)
    seen = traced.observed
    if seen is None or not seen.deterministic or judged.fails or judged.random:
        return []
    called, alone = ways.entry(case, x, name), Judged([], seen, untraced=True)
    pair = _outputs(called, alone, x, 0, 2)
    if pair is not None:
        _compare_size(called, alone, x, noise, 0, 1, pair, traced.run(WHOLE, x).outputs)
    if not alone.fails or (pair is not None and not _repeats(called, x)):
        return []
    alone.names = [name for name in judged.names if name in calls]
    judged.names = [name for name in judged.names if name not in calls] + [traced.name]
    return [(called, alone)]


def _repeats(entry: Entry, x: Nest) -> bool:
    first, second = entry.twice(PAIR, first_rows(x, 2))
    return same_outputs(first.outputs, second.outputs)


def _outputs(entry: Entry, judged: Judged, x: Nest, start: int, stop: int) -> list[Array] | None:
    """What it gives for some of the rows; that it refuses them is a failure."""
    judged.tried.append(stop - start)
    try:
        return entry.run(*rows_between(x, start, stop)).outputs
    except UnsupportedSubjectError:
        raise
    except Exception as error:
        judged.shapes.append(f"a batch of {stop - start} raises: {first_line(error)[:120]}")
        judged.raises = True
        judged.failing_rows = judged.failing_rows or (start, stop)
        return None


def _compare_size(
    entry: Entry,
    judged: Judged,
    x: Nest,
    noise: Noise,
    start: int,
    stop: int,
    among: list[Array],
    whole: list[Array],
) -> None:
    """Some rows alone against the same `among` others; outputs count that have rows in `whole`."""
    size, failing = stop - start, judged.failing_rows or (start, stop)
    outputs = _outputs(entry, judged, x, start, stop)
    if outputs is None:
        return
    if len(outputs) != len(among):
        judged.shapes.append(f"a batch of {size} gives {len(outputs)} outputs, not {len(among)}")
        judged.failing_rows = failing
        return
    for index, (output, base, seen) in enumerate(zip(outputs, among, whole, strict=False)):
        if not (has_rows([seen], x) and base.ndim):
            continue
        if output.shape != (size, *base.shape[1:]):
            judged.shapes.append(
                f"a batch of {size} gives shape {output.shape}; the batch of {len(base)} "
                f"gives {base.shape}"
            )
            judged.failing_rows = failing
            return
        moved = noise.compare(index, base[start:stop], output, np.arange(start, stop))
        if moved is None:
            continue
        if moved.drowned:
            judged.drowned = True
            continue
        judged.margin = max(judged.margin, moved.margin)
        if moved.beyond:
            judged.failing_rows = failing
            judged.noise = max(judged.noise, moved.bound)
            judged.sizes.append(
                f"row {moved.row} moves by {moved.change:.3g} in a batch of {size}; "
                f"noise explains {moved.bound:.3g}"
            )


def _padding(
    case: Case,
    x: Nest,
    apart: Collection[int],
    noise: Noise,
    notes: list[str],
) -> list[Finding]:
    """Whether rows keep their results when a longer companion has the batch padded further."""
    declared = case.settings.padding
    longer = lengthened(x, case.subject.inputs(), declared or 0.0)
    if longer is None:
        return []
    # Traces are for sequences of the length given.
    seen = observed(case, x, False, apart)
    try:
        if declared is None and not masks_added(seen, longer):
            return []
        short, long = (
            seen.again(rows, Instrument(), traced=False).run(rows) for rows in (x, longer)
        )
    except Exception as error:
        first = first_line(error)[:80]
        notes.append(f"sequences of another length are refused: {first}")
        return []
    moves = [
        noise.compare(index, mine, padding.same_steps(its, mine), np.arange(rows_of(x)))
        for index, (mine, its) in enumerate(zip(short.outputs, long.outputs, strict=True))
        if mine.ndim and len(mine) == rows_of(x)
    ]
    beyond = [moved for moved in moves if moved is not None and moved.beyond]
    return [padding.finding(seen, x, longer, moved) for moved in beyond[:1]]


def _chunks(rows: int) -> list[tuple[int, int]]:
    """Batches of 1, 2 and 3 rows, and of those of a data set, which take in every row."""
    ragged = min(RAGGED, max(rows - 1, 1))
    chunks = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)]
    chunks += [(start, min(start + ragged, rows)) for start in range(0, rows, ragged)]
    return [(a, b) for a, b in dict.fromkeys(chunks) if b <= rows and b - a < rows]
