"""The entry points of a model, each compared with itself in other batches and in other sizes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_bnconsistency.checks import entry_points
from pytest_bnconsistency.checks.batch_invariance import pictured
from pytest_bnconsistency.checks.batch_invariance.judged import Judged, names_of
from pytest_bnconsistency.checks.batch_invariance.output_noise import noise_of
from pytest_bnconsistency.checks.batch_invariance.sizes import chunks_of, compare_sizes
from pytest_bnconsistency.checks.batch_invariance.untraced import untraced
from pytest_bnconsistency.checks.batch_invariance.variants import (
    Comparing,
    compare_otherwise,
    compare_variants,
)
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import WHOLE, Entry, measured_noise, rows_between
from pytest_bnconsistency.data.arrays import Array, Nest, all_finite, rows_of
from pytest_bnconsistency.errors import RefusedError
from pytest_bnconsistency.execution.batch_variants import (
    BatchVariant,
    batch_variants,
    joint_batch_variants,
)
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.words import counted, listed


@dataclass(frozen=True)
class Compared:
    """What was found of each entry point on the rows `x`, some layers `row_by_row`."""

    context: CheckContext
    x: Nest
    row_by_row: Collection[int]
    joint: Sequence[BatchVariant]
    groups: Sequence[tuple[Entry, Judged]]
    noise: Noise
    notes: Sequence[str]

    @property
    def known(self) -> list[Judged]:
        """Those that give the same bits twice: of others nothing can be told."""
        return [judged for _, judged in self.groups if not judged.random]

    @property
    def unknown(self) -> list[Judged]:
        """Those that do not repeat themselves."""
        return [judged for _, judged in self.groups if judged.random]

    @property
    def random(self) -> bool:
        """Whether some entry point does not repeat itself."""
        return bool(self.unknown)

    @property
    def sound(self) -> list[Judged]:
        return [judged for judged in self.known if judged.holds]

    @property
    def others(self) -> int:
        """How many batches, in which other rows changed, ran through all that keep their rows."""
        sound = [entry for entry, judged in self.groups if judged.holds and not judged.random]

        def ran(variant: BatchVariant) -> bool:
            return all(entry.took(variant.name) for entry in sound)

        singly = []
        if not all(map(ran, self.joint)):
            known = {variant.name for variant in self.joint}
            singly = batch_variants(self.x, self.context.settings.seed)
            singly = [v for v in singly if not v.moves and v.name not in known]
        return sum(map(ran, [*self.joint, *singly]))

    @property
    def sizes(self) -> list[int]:
        return sorted({stop - start for start, stop in chunks_of(self.context, self.x)})

    @property
    def only_size(self) -> str:
        """Why no other sizes were tried, "" where they were."""
        return self.context.only_size

    @property
    def margin(self) -> float:
        """The largest change between batch sizes, in bounds."""
        return max((judged.margin for judged in self.known), default=0.0)

    @property
    def row_routing(self) -> bool:
        return any(judged.row_routing for judged in self.known)

    @property
    def dominated(self) -> bool:
        """Whether rounding alone may move outputs by as much as they are large."""
        return any(judged.dominated for judged in self.known)

    def outputs(self, *, repeating: bool = False) -> list[list[Array]]:
        """What entry points give for all rows; with `repeating`, those that repeat themselves."""
        groups = [(e, judged) for e, judged in self.groups if not (repeating and judged.random)]
        return [entry.run(WHOLE, self.x).outputs for entry, _ in groups]

    @property
    def finite(self) -> bool:
        return all(map(all_finite, self.outputs()))

    def evidence(self) -> dict[str, Any]:
        words = {name: judged.word for _, judged in self.groups for name in judged.names}
        evidence = {
            "rows": rows_of(self.x),
            "entry_points": words,
            "exchanges": [variant.name for variant in self.joint],
            "sizes": self.sizes,
            "margin": self.margin,
            "by_size": pictured.by_size(self.known),
        }
        if self.margin:
            evidence["outputs"] = [
                {"floor": f.floor, "bound": f.bound, "lower": f.lower, "scale": f.scale}
                for f in self.noise.floors
            ]
        return evidence


def compare(context: CheckContext, x: Nest, row_by_row: Collection[int]) -> Compared:
    """Each entry point that computes something else, in other batches and in other sizes."""
    found, notes = _entry_points(context, x, row_by_row)
    noise = measured_noise(context, row_by_row)
    groups, joint = [], joint_batch_variants(x, context.settings.seed)
    for entry, judged in found:
        own = noise_of(context, entry, row_by_row)
        c = Comparing(context, entry, judged.observed, own, joint)
        judged = _compared(c, judged)
        groups.append((entry, judged))
        notes += [*judged.among_others.notes, *_rows_first(c), *_stochastic_off(c)]
    if not row_by_row:
        groups = untraced(context, groups, noise, joint)
    notes += [context.only_size] if context.only_size else []
    notes += _rowless([judged for _, judged in groups if not judged.random])
    return Compared(context, x, row_by_row, joint, groups, noise, notes)


def _stochastic_off(c: Comparing) -> list[str]:
    if c.seen is None or not c.seen.stochastic_off:
        return []
    return [f"layers that draw random numbers are held still in {c.entry.name}"]


def _rowless(known: Sequence[Judged]) -> list[str]:
    """A note where no output of some entry points has the rows first, and one of others has."""
    rowless = names_of([judged for judged in known if not judged.has_rows])
    if not rowless or not any(judged.has_rows for judged in known):
        return []
    return [f"no output of {listed(rowless)} has the rows first: not judged"]


def _compared(c: Comparing, judged: Judged) -> Judged:
    judged = replace(
        judged,
        among_others=compare_variants(c),
        has_rows=any(c.by_row),
    )
    if judged.differences or judged.random:
        return judged
    judged = replace(judged, in_sizes=compare_sizes(c))
    if not judged.sizes or judged.failing_rows is None:
        return judged
    otherwise = compare_otherwise(c, judged.failing_rows, judged.among_others)
    if otherwise.differences or otherwise.random:
        # What seemed to hang on the size hangs on other rows.
        shapes = [replace(size, moves=[]) for size in judged.in_sizes]
        return replace(judged, among_others=otherwise, in_sizes=shapes)
    return replace(judged, among_others=otherwise)


def _rows_first(c: Comparing) -> list[str]:
    """A note where one output has the rows first and another has not."""
    if not any(c.by_row) or all(c.by_row):
        return []
    without = c.by_row.count(False)
    return [
        f"{without} of the {counted(len(c.by_row), 'output')} of {c.entry.name} "
        f"{'has' if without == 1 else 'have'} not the rows first: not judged"
    ]


def _entry_points(
    context: CheckContext, x: Nest, row_by_row: Collection[int]
) -> tuple[list[tuple[Entry, Judged]], list[str]]:
    """The entry points that compute something else, each with the names that it stands for.

    What gives the same bits in every layer, or in the outputs of the whole batch and of a single
    row, computes the same: what holds for the one holds for the other. `predict` cannot run
    layers `row_by_row`. Notes say what is not judged.
    """
    subject, notes = context.subject, list[str]()
    inference = entry_points.traced_entry(context, False, row_by_row)
    names, others = [subject.call_text(False)], list[tuple[Entry, Judged]]()
    every = [*itertools.islice(subject.entries(), 1), *subject.endpoints()]
    for name in [] if row_by_row else dict.fromkeys(every):
        production = entry_points.entry(context, name)
        if refusal := _refusal(production, inference, x):
            notes.append(f"not judged: {refusal}")
        elif _agree(context, production, inference, x):
            names.insert(0, name)
        else:
            again = functools.partial(entry_points.retraced, context, name)
            others.append((production, Judged([name], retraced=again)))
    default = _with_training_left_out(context, inference, row_by_row)
    if default is None and subject.call_text(None) != subject.call_text(False):
        names.insert(-1, subject.call_text(None))
    groups = [*others, (inference, Judged(names, inference.observed))]
    if default is not None:
        groups.append((default, Judged([subject.call_text(None)], default.observed)))
    return groups, notes


def _with_training_left_out(
    context: CheckContext, inference: Entry, row_by_row: Collection[int]
) -> Entry | None:
    """The call that says nothing of training, if it computes something else than inference."""
    if context.subject.call_text(None) == context.subject.call_text(False):
        return None
    if not row_by_row and entry_points.same_in_every_layer(context):
        return None
    default = entry_points.traced_entry(context, None, row_by_row)
    assert inference.observed is not None
    assert default.observed is not None
    return None if default.observed.same_computation(inference.observed) else default


def _refusal(production: Entry, inference: Entry, x: Nest) -> str:
    """What an entry point raises on rows that inference takes, "" if it takes them."""
    inference.run(WHOLE, x)
    try:
        production.run(WHOLE, x)
    except RefusedError as error:
        return str(error)
    return ""


def _agree(context: CheckContext, mine: Entry, its: Entry, x: Nest) -> bool:
    single = [] if context.fixed_rows else [rows_between(x, 0, 1)]
    for batch, rows in ((WHOLE, x), *single):
        try:
            both = its.run(batch, rows), mine.run(batch, rows)
        except Exception:
            return False  # what it refuses, it is judged on
        moved = any(entry_points.moves_layers(context, seen) for seen in both)
        if moved or not same_outputs(*(seen.outputs for seen in both)):
            return False
    return True
