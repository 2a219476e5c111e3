"""Rows that depend on their place in the batch, or on its number of rows: which layer, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_bnconsistency.checks import compiled_before, size_dependence
from pytest_bnconsistency.checks.batch_invariance.judged import Judged, names_of
from pytest_bnconsistency.checks.batch_invariance.symptom import symptom, through
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.size_dependence import Place
from pytest_bnconsistency.data.arrays import Nest, distance, rows_of, take_rows
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement import rounding_noise
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

NAMED_AXIS = "name the axis: tf.squeeze(x, axis=-1) instead of tf.squeeze(x); reshape to (-1, ...)"
"""The remedy for a batch that is given back without its axis."""
WIDENS = "gives each row as many values as the longest row of its batch needs"
ONE_WIDTH = (
    "give all batches one width: output_sequence_length=..., to_tensor(shape=[None, width]), "
    "pad_sequences(maxlen=...)"
)
"""What makes an output as wide as its batch needs, and the remedy."""


def by_place(x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    """Rows change with their place."""
    entry = _shown(failing)
    variant = entry.differences[0].variant
    place, tries = None, Tries()
    if entry.observed is not None and tries.may("what each layer gives rows in other places"):
        place = size_dependence.depends_on_place(entry.observed, x, variant)
    message, moved = symptom(failing, sound, variant, "its position changes")
    explanation = _of_place(
        place,
        tries,
        does="computes with a row's place in the batch",
        tested="given what it gives the row at its first place, the outputs are as they are there",
        tried="other rows beside it in the same places, where the rows are the same to the bit",
        remedy="take positions along the time or feature axis, not along axis 0",
    )
    return rules.POSITION_MATTERS.finding(
        layer="not located" if place is None else place.label,
        message=message,
        explanation=explanation,
        bound=f"{rounding_noise.MULTIPLE:g} times the noise floor, measured on this model",
        evidence={"fails": names_of(failing), "holds": sound, "largest_change": moved},
    )


def without_batch_axis(x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    """Some batch gives outputs of other shapes, or nothing but an exception."""
    entry = _shown(failing)
    place, tries = None, Tries()
    if smaller := _smaller_batch(entry, tries):
        place = size_dependence.loses_axis(smaller.observed, x, *smaller.rows)
    width = entry.widens if place is None else place.width
    mended = "its result padded to one width" if width else "the axis put back behind it"
    explanation = _of_place(
        place,
        tries,
        does=WIDENS if width else "drops the batch axis of a small batch",
        tested=f"with {mended}, the outputs have their shapes",
        tried=f"batches of {listed(entry.tried)}",
        remedy=_shape_remedy(entry, width or entry.widens),
    )
    return rules.BATCH_AXIS_LOST.finding(
        layer="the model's output" if place is None else place.label,
        message=f"{entry.shapes[0]}, {through(failing, sound)}",
        explanation=explanation,
        evidence={"fails": names_of(failing), "holds": sound},
    )


def _shape_remedy(entry: Judged, width: bool) -> str:
    if width:
        return ONE_WIDTH
    return (
        size_dependence.BRANCHING
        if entry.untraced
        else size_dependence.ANY_NUMBER
        if entry.raises
        else NAMED_AXIS
    )


def by_number(x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    """Rows change with the size of the batch."""
    entry = _shown(failing)
    place, tries = None, Tries()
    if smaller := _smaller_batch(entry, tries):
        place = size_dependence.depends_on_size(smaller.observed, x, *smaller.rows, entry.noise)
    message = f"{entry.sizes[0]}, {through(failing, sound)}"
    if _was_compiled_before(x, entry):
        return compiled_before.size_matters(message, {"fails": names_of(failing), "holds": sound})
    explanation = _of_place(
        place,
        tries,
        does="computes with the number of rows",
        tested="given back what it gives among all rows, the outputs are as they are there",
        tried="other rows beside it at one batch size, where the rows are the same to the bit",
        remedy=size_dependence.BRANCHING
        if entry.untraced
        else "look for code that reads the batch size, or that sums over the rows",
    )
    return rules.SIZE_MATTERS.finding(
        layer="not located" if place is None else place.label,
        message=message,
        explanation=explanation,
        bound=f"{rounding_noise.MULTIPLE:g} times the noise floor, measured on this model",
        evidence={"fails": {listed(e.names): e.sizes for e in failing}, "holds": sound},
    )


def _was_compiled_before(x: Nest, entry: Judged) -> bool:
    """Whether the rows of the batch that failed are as among all once the code is traced again."""
    if entry.retraced is None or entry.failing_rows is None:
        return False
    start, stop = entry.failing_rows
    try:
        whole, some = entry.retraced(x), entry.retraced(take_rows(x, slice(start, stop)))
        return all(
            distance(a[start:stop], b).max(initial=0.0) <= entry.noise
            for a, b in zip(whole, some, strict=True)
            if a.ndim and len(a) == rows_of(x)
        )
    except Exception:
        return False


class _Smaller(NamedTuple):
    """A pass, and from which row to which a batch failed for its size."""

    observed: Pass
    rows: tuple[int, int]


def _smaller_batch(entry: Judged, tries: Tries) -> _Smaller | None:
    """What is looked into layer by layer; None where no layer is seen or no time is left."""
    if entry.observed is None or entry.failing_rows is None:
        return None
    if not tries.may("what each layer gives in the smaller batch"):
        return None
    return _Smaller(entry.observed, entry.failing_rows)


def _shown(failing: Sequence[Judged]) -> Judged:
    """The first whose layers can be seen, if those of any can."""
    return next((entry for entry in failing if entry.observed is not None), failing[0])


def _of_place(
    place: Place | None, tries: Tries, *, does: str, tested: str, tried: str, remedy: str
) -> Explanation:
    """That a place does something, if undoing it mends the outputs; else that it is not known."""
    if place is not None and place.tested:
        return Explanation(cause=place.that(does), tested=tested, remedy=remedy, established=True)
    cause = tries.without_cause(f"not established; tried: {tried}")
    return Explanation(cause=cause, remedy=remedy)
