"""Whether rows keep their results when a longer other row has their batch padded further."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_bnconsistency.checks.batch_invariance import explain_padding as diagnosis
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Array, Nest
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument
from pytest_bnconsistency.execution.padding import (
    Padded,
    Sequences,
    Side,
    by_mask_input,
    by_own_mask,
    by_value,
    first_taken,
    inputs_of_one_length,
    padded,
)
from pytest_bnconsistency.measurement.rounding_noise import Moved, Noise
from pytest_bnconsistency.results import Finding
from pytest_bnconsistency.words import brief_line

GIVE = "give rows that are padded as they are in use, or the value that pads: padding=0"


@dataclass
class Further:
    """What further padding does to rows: a finding, or what was tried and how far they moved.

    `sides` are those on which padding moves none; `notes` say what was not tried, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    sides: list[Side] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> str:
        """A clause for the summary, "" if nothing was tried."""
        if not self.sides:
            return ""
        margin = max((moved.margin for moved in self.moves), default=0.0)
        if any(moved.noise_dominated for moved in self.moves):
            return "; more padding was not judged, because of rounding as well"
        if margin == 0:
            return "; more padding moves none"
        return f"; more padding moves none by more than {margin:.2f} of the noise bound"


def pad_further(context: CheckContext, x: Nest, row_by_row: Collection[int]) -> Further:
    """Pads each group of sequences further, on the side on which the rows have their padding.

    Where none has any, a row must keep its results on one side at least.
    """
    seen, found = observed(context, False, row_by_row), Further()
    specs = context.subject.inputs()
    groups: list[Sequences] = []
    for places in inputs_of_one_length(x, specs):
        try:
            sequences = _sequences(context, seen, x, places)
        except Exception as error:
            found.notes.append(f"padding was not tried: {_refused(error)}")
            continue
        if sequences is not None:
            groups.append(sequences)
        elif specs is not None:
            found.notes.append(
                f"padding was not tried: nothing tells which steps are padding; {GIVE}"
            )
    for sequences in groups:
        _judge(found, seen, x, sequences, [other for other in groups if other is not sequences])
        if found.findings:
            break
    return found


def _sequences(
    context: CheckContext, seen: Pass, x: Nest, places: tuple[int, ...]
) -> Sequences | None:
    if context.settings.padding is not None:
        found: Sequences | None = by_value(x, places, context.settings.padding)
    else:
        found = by_mask_input(x, places) or by_own_mask(seen, x, places)
    if found is None or context.data is not None:
        return found
    return found.anywhere()  # how rows are padded in use is not known from generated ones


def _judge(
    found: Further, seen: Pass, x: Nest, sequences: Sequences, others: Sequence[Sequences]
) -> None:
    failures: list[tuple[Padded, Moved]] = []
    for side in _sides(sequences):
        moves: list[Moved] = []
        try:
            choices = padded(x, sequences, side, others)
            failed = next(_failures(seen, choices, moves), None)
        except Exception as error:
            found.notes.append(f"padding on the {side} was not tried: {_refused(error)}")
            continue
        if failed is not None:
            failures.append(failed)
            continue
        found.sides.append(side)
        found.moves += moves
        if failures:
            found.notes.append(
                f"rows keep their results when they are padded on the {side}, and not on the "
                f"{failures[0][0].side}; the rows do not show where padding stands: {GIVE}"
            )
        return
    if failures:
        found.findings.append(diagnosis.finding(seen, *failures[0]))


def _sides(sequences: Sequences) -> tuple[Side, ...]:
    return ("right", "left") if sequences.side is None else (sequences.side,)


def _failures(
    seen: Pass, choices: Iterable[Iterable[Padded]], moves: list[Moved]
) -> Iterator[tuple[Padded, Moved]]:
    """Batches in which a row moves beyond its noise; `moves` gets the others."""

    def run(batch: Padded) -> list[list[Array]]:
        # Traces are for sequences of the length given.
        return [
            seen.again(rows, Instrument(), traced=False).run(rows).outputs
            for rows in (batch.short, batch.long)
        ]

    for batches in choices:
        batch, (mine, its) = first_taken(batches, run)
        noise, within = Noise(seen, batch.long), np.arange(len(batch.rows))
        for index, (a, b) in enumerate(zip(mine, its, strict=True)):
            pair = batch.of_both(a, b) if a.ndim and len(a) == len(batch.rows) else None
            moved = None if pair is None else noise.compare(index, *pair, within)
            if moved is not None and moved.beyond:
                yield batch, replace(moved, row=int(batch.rows[moved.row]))
            elif moved is not None:
                moves.append(moved)


def _refused(error: Exception) -> str:
    return f"sequences of another length are refused: {brief_line(error)}"
