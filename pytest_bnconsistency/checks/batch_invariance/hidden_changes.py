"""Layers whose rows change with their other rows though no output shows it: which of them count.

Saturation hides a dependence, and it is one all the same. But a model may also lay its rows out by
the batch, sorted, padded to the longest or sent to experts, and put them back: then a layer gives
other rows, and the same is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import measured_noise
from pytest_bnconsistency.data.arrays import Array, Nest, distance, is_float
from pytest_bnconsistency.execution.activation_patching import of_kept_rows
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import differ, outputs_with, values_of
from pytest_bnconsistency.execution.state import same_bits

TRIED = 16
"""Layers that are tried, one by one, at most."""


def laid_out(seen: Pass) -> set[int]:
    """The indices of the calls of which it is known that they lay rows out by the batch."""
    return seen.once("laid out", set[int])


def hidden(
    context: CheckContext,
    seen: Pass,
    x: Nest,
    variant: BatchVariant,
    places: Sequence[int],
    row_routing: bool,
) -> tuple[int, ...]:
    """Of the calls at `places`, whose kept rows change while no output's do, those that count.

    What a call's kept rows change by is put alone into the first batch. If the outputs stay as
    they are, but for noise, they hide it; if they change, the rest of the model had undone it. So
    it has where rows only get another length. Where the model `row_routing` rows, a call whose
    values move by no more than rounding is left out, too.
    """
    known = laid_out(seen)
    hiding = seen.once("hiding", set[int])
    unknown = [place for place in places if place not in known]
    labels = {seen.calls[place].label for place in unknown[:TRIED]}
    if not labels:
        return ()
    if unknown[0] in hiding:
        return tuple(unknown)
    base, other = (values_of(seen, rows, labels) for rows in (x, variant.x))

    def is_hidden(label: str) -> bool:
        """Whether the outputs stay with the call's changed rows in the first batch."""
        mine, its = base.get(label, []), other.get(label, [])
        if [a.shape for a in mine] != [b.shape for b in its]:
            return False
        changed = [_with_rows_of(b, a, variant) for a, b in zip(mine, its, strict=True)]
        if row_routing and not any(map(differ, mine, changed)):
            return False
        before, moved = (outputs_with(seen, x, {label: patched}) for patched in (mine, changed))
        return before is None or moved is None or not _answers(context, before, moved)

    for place in unknown[:TRIED]:
        if is_hidden(seen.calls[place].label):
            hiding.add(place)
            break
        known.add(place)
    else:
        known.update(unknown)
    return tuple(place for place in places if place not in known)


def _answers(context: CheckContext, before: list[Array], moved: list[Array]) -> bool:
    """Whether some output moves by more than noise."""
    floors = measured_noise(context).floors
    return any(
        distance(a, b).max(initial=0.0) > floor.bound if is_float(a) else not same_bits(a, b)
        for a, b, floor in zip(before, moved, floors, strict=True)
    )


def _with_rows_of(its: Array, mine: Array, variant: BatchVariant) -> Array:
    """`mine` with the kept rows of `its`."""
    if not mine.ndim or len(mine) == 0 or len(mine) % variant.rows:
        return mine
    changed: Array = mine.copy()
    entries = of_kept_rows(len(mine), variant.kept, variant.rows)
    changed[entries] = its[entries]
    return changed
