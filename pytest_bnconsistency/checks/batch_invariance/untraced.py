"""Calls outside of a trace, where a trace holds: code may look which of the two it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_bnconsistency.checks import entry_points
from pytest_bnconsistency.checks.batch_invariance.judged import InSize, Judged
from pytest_bnconsistency.checks.batch_invariance.sizes import in_size, refused
from pytest_bnconsistency.checks.batch_invariance.variants import Comparing, compare_variants
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import WHOLE, Entry
from pytest_bnconsistency.data.arrays import rows_of
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.measurement.rounding_noise import Noise


def untraced(
    context: CheckContext,
    groups: Sequence[tuple[Entry, Judged]],
    noise: Noise,
    joint: Sequence[BatchVariant],
) -> list[tuple[Entry, Judged]]:
    """The groups with the call outside of a trace, if it fails there alone.

    Code that asks for the number of rows, or for a value, finds none in a trace for any rows.
    """
    name = context.subject.call_text(False)
    place = next(i for i, (_, judged) in enumerate(groups) if name in judged.names)
    traced, judged = groups[place]
    found = None
    if _may_differ(context, judged):
        found = _failing_outside(context, name, judged, noise, joint)
    if found is None:
        return list(groups)
    called, eager = found
    # What the library runs without a trace is what was tried here.
    calls = entry_points.calls_of(context)
    outside = [n for n in judged.names if n in calls or context.subject.runs_eagerly]
    remaining = replace(judged, names=[n for n in judged.names if n not in outside])
    remaining = replace(remaining, names=[*remaining.names, traced.name])
    eager = replace(eager, names=outside)
    return [*groups[:place], (traced, remaining), *groups[place + 1 :], (called, eager)]


def _may_differ(context: CheckContext, judged: Judged) -> bool:
    """Whether code of the user's own passed in a trace."""
    traced = judged.observed is not None and judged.observed.deterministic
    passed = not judged.fails and not judged.random
    return traced and passed and entry_points.runs_own_code(context)


def _failing_outside(
    context: CheckContext,
    name: str,
    judged: Judged,
    noise: Noise,
    joint: Sequence[BatchVariant],
) -> tuple[Entry, Judged] | None:
    called = entry_points.entry(context, name)
    c = Comparing(context, called, None, noise)
    whole = refused(c, 0, rows_of(c.x))
    if whole is None and (among_others := _moved_by_others(context, noise, joint)):
        return among_others
    in_sizes = [whole] if whole is not None else _failing_in_small_batches(c)
    if not in_sizes:
        return None
    return called, Judged([], judged.observed, untraced=True, in_sizes=in_sizes)


def _failing_in_small_batches(c: Comparing) -> list[InSize]:
    """What all rows give, one and two, up to the first that fails; none where none does."""
    rows = rows_of(c.x)
    found = [InSize((0, rows), rows)]
    for size in (1, 2):
        found.append(in_size(c, 0, size))
        if found[-1].fails:
            first, second = c.entry.twice(WHOLE, c.x)
            return found if same_outputs(first.outputs, second.outputs) else []
    return []


def _moved_by_others(
    context: CheckContext, noise: Noise, joint: Sequence[BatchVariant]
) -> tuple[Entry, Judged] | None:
    """The call, and what other rows do to kept ones, if they move any; with its layers if seen."""
    plain = Comparing(context, entry_points.plain_call(context), None, noise, joint)
    found = compare_variants(plain)
    if found.random or not found.differences:
        return None
    hooked = entry_points.untraced_entry(context)
    in_layers = compare_variants(Comparing(context, hooked, hooked.observed, noise, joint))
    if in_layers.random or not in_layers.differences:
        return plain.entry, Judged([], among_others=found)
    return hooked, Judged([], hooked.observed, untraced=True, among_others=in_layers)
