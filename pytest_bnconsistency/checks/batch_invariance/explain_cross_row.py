"""Where the rows of a batch meet, tried by keeping them apart there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_bnconsistency.checks.batch_invariance import localise
from pytest_bnconsistency.checks.batch_invariance.explain_state import by_state
from pytest_bnconsistency.checks.batch_invariance.localise import Origin
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.models import Call
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.words import counted, listed

SHOWN = 3
"""Operations, or layers, that a cause names at most."""
AS_IN_TRAINING = (
    "state moves as well, as where a normalization layer runs in training mode: if that is so, "
    "run it with training=False, and export again what was saved so"
)
"""The remedy where nothing can be told in which mode to run."""


def across_rows(
    seen: Pass, x: Nest, variant: BatchVariant, origin: Origin, tries: Tries
) -> Explanation:
    """Why a kept row changes in `origin`, where no mode is to blame."""
    moved = seen.run(x).moved
    if (in_state := by_state(seen, x, variant, moved, origin, tries)) is not None:
        return in_state
    meeting = dict[str, str]()
    if tries.may("the operations in which rows meet"):
        meeting = localise.meeting_operations(seen, x, variant)
    operation = next(iter(meeting.values()), "")
    call = origin.call if origin.replayed else None
    one_by_one = None
    if call is not None and tries.may(f"{origin.label} given one row at a time"):
        one_by_one = localise.intervened(seen, x, row_by_row=[id(call.layer)])
    declarable = call is not None and localise.runs_row_by_row(one_by_one, x)
    remedy = _over_features([call] if call and declarable else [], moves_state=bool(moved))
    if localise.independent(one_by_one, x, variant):
        what = f": {operation} is the first operation that differs" if operation else ""
        return Explanation(
            cause=f"{origin.label} computes across the rows of its batch{what}",
            tested="given one row at a time, it leaves every kept row with the same bits in every "
            "layer and output",
            remedy=remedy,
            established=True,
        )
    proven = _patched(seen, x, variant, origin, meeting, tries)
    if proven is not None:
        cause, tested = proven
        return Explanation(cause=cause, tested=tested, remedy=remedy, established=True)
    if call is not None and (several := _several(seen, x, variant, call, tries, bool(moved))):
        return several
    by = f"; the first operation that differs is {operation}" if operation else ""
    complete = f"not established; the rows mix here: {_how_known(origin)}"
    tried = "inference mode forced on every layer that takes one: the row still moves"
    return Explanation(
        cause=f"{tries.without_cause(complete)}{by}",
        tested="" if tries.cut else tried,
        remedy=remedy,
    )


def _shown_of(names: Sequence[str], noun: str) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - SHOWN
    return listed([*names[:SHOWN], *([counted(more, f"more {noun}")] if more > 0 else [])])


def _several(
    seen: Pass, x: Nest, variant: BatchVariant, first: Call, tries: Tries, moves_state: bool
) -> Explanation | None:
    """The layers that mix rows, and no longer do if each gets one row at a time."""
    if not tries.may("further layers given one row at a time"):
        return None
    crossing = localise.cross_row_layers(seen, x, variant, first, seen.reaching_outputs())
    if not crossing:
        return None
    return Explanation(
        cause=f"{_shown_of([c.label for c in crossing], 'layer')} compute across the rows of "
        "their batch",
        tested="given one row at a time, they leave every kept row with the same bits in every "
        "layer and output",
        remedy=_over_features(crossing if len(crossing) <= SHOWN else [], moves_state=moves_state),
        established=True,
    )


def _patched(
    seen: Pass,
    x: Nest,
    variant: BatchVariant,
    origin: Origin,
    meeting: Mapping[str, str],
    tries: Tries,
) -> tuple[str, str] | None:
    """The cause, and how it was tested, if rows stay once what joins them is held."""
    if tries.may("what the layers give that reduce the batch away, held"):
        patched = localise.reduced(seen, x, variant)
        forced = localise.intervened(seen, x, patched=patched) if patched else None
        if localise.independent(forced, x, variant):
            return (
                f"{listed(patched)} {'reduce' if len(patched) > 1 else 'reduces'} the batch axis "
                f"away, and {origin.label} brings the result back into the rows",
                f"with {listed(patched)} held at what {'they' if len(patched) > 1 else 'it'} gave "
                "for the first batch, every kept row has the same bits in every layer and output",
            )
    if meeting and tries.may("the operations in which rows meet, held"):
        operations = localise.tested_operations(seen, x, variant, meeting)
        if operations:
            at_first = "at first " * (len(operations) > 1)
            return (
                f"the rows meet in {_shown_of(operations, 'operation')}, {at_first}{origin.where}",
                "with the results held at what they were for the kept rows of the first batch, "
                "every kept row has the same bits in every layer and output",
            )
    return None


def _over_features(declarable: Sequence[Call], *, moves_state: bool) -> str:
    """The remedy; `declarable` are calls of layers that can be declared by themselves."""
    first = f"{AS_IN_TRAINING}; else " if moves_state else ""
    reasons = dict.fromkeys((call.path for call in declarable), "reason")
    declared = repr(reasons or "reason")
    return (
        f"{first}compute over the feature axes, not over axis 0; give statistics of the batch to "
        "training mode only; if rows are meant to meet here, declare it: "
        f"transductive={declared}"
    )


def _how_known(origin: Origin) -> str:
    if origin.replayed:
        return "its input row is the same to the bit and its output row is not"
    return "what comes before is the same to the bit"
