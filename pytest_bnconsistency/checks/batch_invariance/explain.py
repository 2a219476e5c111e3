"""What it means that rows depend on their batch: where, why, and what mends it."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pytest_bnconsistency.checks import compiled_before, size_dependence
from pytest_bnconsistency.checks.batch_invariance import explain_padding as padding
from pytest_bnconsistency.checks.batch_invariance import localise, pictured
from pytest_bnconsistency.checks.batch_invariance.explain_state import by_state
from pytest_bnconsistency.checks.batch_invariance.judged import Judged, names_of
from pytest_bnconsistency.checks.batch_invariance.kept_rows import Difference, largest_move
from pytest_bnconsistency.checks.batch_invariance.localise import Origin
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.size_dependence import Place
from pytest_bnconsistency.checks.training_mode_callers import (
    in_inference,
    own_code_trains,
    pass_training_on,
    to_blame,
    who_tells,
)
from pytest_bnconsistency.data.arrays import Nest, distance, map_nest, rows_of
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement import rounding_noise
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import counted, listed

SHOWN = 3
"""Operations, or layers, that a cause names at most."""
NAMED_AXIS = "name the axis: tf.squeeze(x, axis=-1) instead of tf.squeeze(x); reshape to (-1, ...)"
"""The remedy for a batch that is given back without its axis."""
AS_IN_TRAINING = (
    "state moves as well, as where a normalization layer runs in training mode: if that is so, "
    "run it with training=False, and export again what was saved so"
)
"""The remedy where nothing can be told in which mode to run."""
WIDENS = "gives each row as many values as the longest row of its batch needs"
ONE_WIDTH = (
    "give all batches one width: output_sequence_length=..., to_tensor(shape=[None, width]), "
    "pad_sequences(maxlen=...)"
)
"""What makes an output as wide as its batch needs, and the remedy."""


def findings(subject: Subject, x: Nest, judged: Sequence[Judged]) -> list[Finding]:
    """One finding for each way in which rows depend on their batch."""
    sound = names_of(_those(judged, "holds"))
    found = []
    if cross_row := _those(judged, "crossing"):
        found.append(_cross_row(subject, x, cross_row, sound))
    elif placed := _those(judged, "differences"):
        found.append(_placed(x, placed, sound))
    if losing := _those(judged, "shapes"):
        found.append(_losing(x, losing, sound))
    if sized := _those(judged, "sizes"):
        found.append(_sized(x, sized, sound))
    return found


def _those(judged: Sequence[Judged], property_: str) -> list[Judged]:
    return list(filter(operator.attrgetter(property_), judged))


def _cross_row(subject: Subject, x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    # The entry whose layers can be seen; with several, the one that says least to the model.
    entry = next((e for e in reversed(failing) if e.observed is not None), failing[-1])
    variant = _largest(entry.crossing).variant
    message, moved = _symptom(failing, sound, variant, "only the other rows change")
    evidence = {
        "fails": names_of(failing),
        "holds": sound,
        "exchanges": {
            listed(e.names): [found.variant.name for found in e.differences] for e in failing
        },
        "largest_change": moved,
        "batch": pictured.of_batch(x, pictured.mildest(entry.crossing).variant),
    }
    if entry.observed is not None:
        return _in_layers(subject, x, entry, entry.observed, message, evidence)
    rule, place, explanation = _own_code(subject, x, variant, entry)
    return rule.finding(
        layer=place,
        message=message,
        explanation=explanation,
        bound="no tolerance: bitwise, at one batch shape",
        evidence=evidence,
    )


def _largest(differences: Sequence[Difference]) -> Difference:
    return max(differences, key=lambda found: np.nan_to_num(found.moved, posinf=0.0))


def _in_layers(
    subject: Subject, x: Nest, entry: Judged, seen: Pass, message: str, evidence: dict[str, Any]
) -> Finding:
    """The finding where the pass behind the entry shows its layers."""
    difference, shown = _largest(entry.crossing), pictured.mildest(entry.crossing)
    variant, tries = difference.variant, Tries()
    cured = _in_inference(subject, seen, x, variant, tries)
    if not cured and tries.may("the reader of what the model pads"):
        found = padding.finding_inside(seen, x, variant, message, evidence)
        if found is not None:
            return found
    if tries.may("the first layer whose rows change"):
        among = seen.reaching_outputs() & entry.among_others.stable
        watched = localise.with_inputs(seen, x, shown.row)
        origin = localise.first_origin(watched, x, variant, among)
        along = localise.moved_along(watched, x, shown.variant, among)
        evidence["divergence"] = pictured.along_layers(along, shown.row)
    else:
        origin = localise.first_known(seen, difference.places)
    evidence = {**evidence, "layer": origin.label}
    more = _also_in_training_mode(subject, seen, x, origin) if cured else []
    if cured:
        rule = rules.TRAINING_MODE
        holds = subject.call_text(False) in evidence["holds"]
        explanation = _training_mode(subject, seen, x, variant, origin, more, holds, tries)
    else:
        rule, explanation = rules.ROWS_MIX, _across_rows(seen, x, variant, origin, tries)
    return rule.finding(
        layer=origin.label,
        layers=[origin.label, *more],
        message=message,
        explanation=explanation,
        bound="no tolerance: bitwise, at one batch shape; the same batch twice gives the same "
        "bits",
        evidence=evidence,
    )


def _own_code(
    subject: Subject, x: Nest, variant: BatchVariant, entry: Judged
) -> tuple[Rule, str, Explanation]:
    """The rule, the place and the explanation, where no layer is seen."""

    def independent(within: contextlib.AbstractContextManager[Any]) -> bool:
        if entry.retraced is None:
            return False
        try:
            with within:
                mine, its = entry.retraced(x), entry.retraced(variant.x)
        except Exception:
            return False
        return not largest_move(mine, its, variant)[0]

    own = to_blame(subject.own_inference(), lambda names: independent(subject.as_library(names)))
    if not own:
        unknown = Explanation(
            cause="not established; tried: the same rows through model(x) and model(x, "
            "training=False), where they are independent",
            remedy="look at the model's own predict, predict_step and make_predict_function",
        )
        return rules.ROWS_MIX, f"not located: only {listed(entry.names)} mixes the rows", unknown
    place, who = listed(own), f"the model's own {listed([subject.qualified(n) for n in own])}"
    same = "every kept row has the same bits in every output"
    if independent(in_inference(subject)):
        return rules.TRAINING_MODE, place, own_code_trains(who, place, same)
    cross_row = Explanation(
        cause=f"{who} mixes the rows",
        tested=f"with the library's own in its place, {same}",
        remedy=f"in {place}, compute over the feature axes, not over axis 0; if rows are meant to "
        "meet there, declare it: transductive='reason'",
        established=True,
    )
    return rules.ROWS_MIX, place, cross_row


def _symptom(
    failing: Sequence[Judged], sound: list[str], variant: BatchVariant, what: str
) -> tuple[str, float]:
    """The verdict in a sentence, and the largest change of an output."""
    moves = [found.moved for entry in failing for found in entry.differences]
    moved = max([m for m in moves if m and np.isfinite(m)], default=max(moves))
    where = _where(failing, sound)
    how = (
        f"a row moves by {moved:.3g}"
        if moved and np.isfinite(moved)
        else "a row becomes NaN"
        if moved
        else "a row's hidden values move, though saturation hides it in the outputs,"
    )
    return f"{how} when {what} (batches of {variant.rows} rows), {where}", moved


def _where(failing: Sequence[Judged], sound: list[str]) -> str:
    where = f", not through {listed(sound, 'or')}" if sound else ""
    return f"through {listed(names_of(failing))}{where}"


def _in_inference(
    subject: Subject, seen: Pass, x: Nest, variant: BatchVariant, tries: Tries
) -> bool:
    """Whether rows are independent with every layer in inference mode."""
    takes = {id(c.layer) for c in seen.calls if subject.takes_training(c.layer)}
    if not takes or not tries.may("inference mode forced on every layer that takes one"):
        return False
    return localise.independent_with(seen, x, variant, modes=dict.fromkeys(takes, False))


def _also_in_training_mode(subject: Subject, seen: Pass, x: Nest, origin: Origin) -> list[str]:
    """The other layers that move their state."""
    takes = {id(c.layer): c for c in origin.calls if subject.takes_training(c.layer)}
    moving = {id(v) for v in seen.run(x).moved}
    return [
        call.path
        for call in takes.values()
        if (origin.call is None or call.layer is not origin.call.layer)
        and any(id(v) in moving for v in subject.own_variables(call.layer))
    ]


def _training_mode(
    subject: Subject,
    seen: Pass,
    x: Nest,
    variant: BatchVariant,
    origin: Origin,
    more: Sequence[str],
    holds: bool,
    tries: Tries,
) -> Explanation:
    who = f"{origin.label} normalises by the batch: it runs"
    if more:
        others = counted(len(more), "more layer")
        who = f"{origin.label} and {others} normalise by the batch: they run"

    def undone(modes: Mapping[int, bool]) -> bool:
        if not tries.may("inference mode for a layer alone"):
            return False
        return localise.independent_with(seen, x, variant, modes=modes)

    called = [*seen.passing_calls, *seen.calls]
    teller = who_tells(subject, origin.call, called, undone, inference_holds=holds)
    return Explanation(
        cause=f"{who} in training mode" + (f", because {teller.because}" if teller else ""),
        tested="forced into inference mode, every kept row has the same bits in every layer and "
        "output",
        remedy=f"{teller.remedy if teller else pass_training_on(holds)}; where the "
        "batch size of production is fixed or rows must not meet at all, use GroupNormalization",
        established=True,
    )


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


def _across_rows(
    seen: Pass, x: Nest, variant: BatchVariant, origin: Origin, tries: Tries
) -> Explanation:
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
    if call is not None and (mixing := _given_single_rows(seen, x, variant, call, tries)):
        return Explanation(
            cause=f"{_shown_of([c.label for c in mixing], 'layer')} compute across the rows of "
            "their batch",
            tested="given one row at a time, they leave every kept row with the same bits in "
            "every layer and output",
            remedy=_over_features(mixing if len(mixing) <= SHOWN else [], moves_state=bool(moved)),
            established=True,
        )
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


def _given_single_rows(
    seen: Pass, x: Nest, variant: BatchVariant, first: Call, tries: Tries
) -> Sequence[Call]:
    """The layers, several, that mix rows and no longer do if each gets one row at a time."""
    if not tries.may("further layers given one row at a time"):
        return []
    return localise.mixing_layers(seen, x, variant, first, seen.reaching_outputs())


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


def _shown(failing: Sequence[Judged]) -> Judged:
    """The first whose layers can be seen, if those of any can."""
    return next((entry for entry in failing if entry.observed is not None), failing[0])


def _placed(x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    entry = _shown(failing)
    variant = entry.differences[0].variant
    place, tries = None, Tries()
    if entry.observed is not None and tries.may("what each layer gives rows in other places"):
        place = size_dependence.depends_on_place(entry.observed, x, variant)
    message, moved = _symptom(failing, sound, variant, "its position changes")
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


def _of_place(
    place: Place | None, tries: Tries, *, does: str, tested: str, tried: str, remedy: str
) -> Explanation:
    """That a place does something, if undoing it mends the outputs; else that it is not known."""
    if place is not None and place.tested:
        return Explanation(cause=place.that(does), tested=tested, remedy=remedy, established=True)
    cause = tries.without_cause(f"not established; tried: {tried}")
    return Explanation(cause=cause, remedy=remedy)


def _losing(x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    entry = _shown(failing)
    place, tries = None, Tries()
    if smaller := _smaller_batch(entry, tries):
        place = size_dependence.loses_axis(smaller.observed, x, *smaller.rows)
    width = place is not None and place.width
    mended = "its result padded to one width" if width else "the axis put back behind it"
    explanation = _of_place(
        place,
        tries,
        does=WIDENS if width else "drops the batch axis of a small batch",
        tested=f"with {mended}, the outputs have their shapes",
        tried=f"batches of {listed(entry.tried)}",
        remedy=_shape_remedy(entry, width),
    )
    return rules.BATCH_AXIS_LOST.finding(
        layer="the model's output" if place is None else place.label,
        message=f"{entry.shapes[0]}, {_where(failing, sound)}",
        explanation=explanation,
        evidence={"fails": names_of(failing), "holds": sound},
    )


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


def _sized(x: Nest, failing: Sequence[Judged], sound: list[str]) -> Finding:
    entry = _shown(failing)
    place, tries = None, Tries()
    if smaller := _smaller_batch(entry, tries):
        place = size_dependence.depends_on_size(smaller.observed, x, *smaller.rows, entry.noise)
    message = f"{entry.sizes[0]}, {_where(failing, sound)}"
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
        whole, some = entry.retraced(x), entry.retraced(map_nest(lambda leaf: leaf[start:stop], x))
        return all(
            distance(a[start:stop], b).max(initial=0.0) <= entry.noise
            for a, b in zip(whole, some, strict=True)
            if a.ndim and len(a) == rows_of(x)
        )
    except Exception:
        return False
