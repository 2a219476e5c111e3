"""Rows that depend on the other rows of their batch: which layer or code, in which mode."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.batch_invariance import explain_padding as padding
from pytest_bnconsistency.checks.batch_invariance import localise, pictured
from pytest_bnconsistency.checks.batch_invariance.explain_cross_row import across_rows
from pytest_bnconsistency.checks.batch_invariance.judged import Judged, names_of
from pytest_bnconsistency.checks.batch_invariance.kept_rows import Difference, largest_move
from pytest_bnconsistency.checks.batch_invariance.localise import Origin
from pytest_bnconsistency.checks.batch_invariance.symptom import symptom
from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.training_mode_callers import (
    in_inference,
    own_code_trains,
    pass_training_on,
    to_blame,
    who_tells,
)
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import counted, listed


def by_other_rows(
    subject: Subject, x: Nest, failing: Sequence[Judged], sound: list[str]
) -> Finding:
    """Rows change with what stands beside them."""
    # The entry whose layers can be seen; with several, the one that says least to the model.
    entry = next((e for e in reversed(failing) if e.observed is not None), failing[-1])
    variant = _largest(entry.crossing).variant
    message, moved = symptom(failing, sound, variant, "only the other rows change")
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
        inference_holds = subject.call_text(False) in sound
        return _in_layers(subject, x, entry, entry.observed, message, evidence, inference_holds)
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
    subject: Subject,
    x: Nest,
    entry: Judged,
    seen: Pass,
    message: str,
    evidence: dict[str, Any],
    inference_holds: bool,
) -> Finding:
    """The finding where the pass behind the entry shows its layers."""
    difference, shown = _largest(entry.crossing), pictured.mildest(entry.crossing)
    variant, tries = difference.variant, Tries()
    cured = _in_inference(subject, seen, x, variant, tries)
    if cured is None and tries.may("the reader of what the model pads"):
        variants = [variant, *(d.variant for d in entry.crossing if d is not difference)]
        found = padding.finding_inside(seen, x, variants, message, evidence)
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
    more = [] if cured is None else _also_in_training_mode(subject, seen, x, origin, cured)
    if cured is not None:
        rule = rules.TRAINING_MODE
        explanation = _training_mode(
            subject, seen, x, variant, origin, more, inference_holds, tries
        )
    else:
        rule, explanation = rules.ROWS_MIX, across_rows(seen, x, variant, origin, tries)
    return rule.finding(
        layer=origin.label,
        layers=[origin.label, *more],
        message=message,
        explanation=explanation,
        bound="no tolerance: bitwise, at one batch shape; the same batch twice gives the same "
        "bits",
        evidence=evidence,
    )


def _in_inference(
    subject: Subject, seen: Pass, x: Nest, variant: BatchVariant, tries: Tries
) -> Pass | None:
    """The pass with every layer in inference mode, if rows are independent in it."""
    takes = {id(c.layer) for c in seen.calls if subject.takes_training(c.layer)}
    if not takes or not tries.may("inference mode forced on every layer that takes one"):
        return None
    forced = localise.intervened(seen, x, modes=dict.fromkeys(takes, False))
    return forced if localise.independent(forced, x, variant) else None


def _also_in_training_mode(
    subject: Subject, seen: Pass, x: Nest, origin: Origin, forced: Pass
) -> list[str]:
    """The other layers that move their state, and don't in a pass `forced` into inference."""
    takes = {id(c.layer): c for c in origin.calls if subject.takes_training(c.layer)}
    moving = {id(v) for v in seen.run(x).moved} - {id(v) for v in forced.run(x).moved}
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
        endpoint = set(entry.names) <= set(subject.endpoints())
        unknown = Explanation(
            cause="not established; tried: the same rows through "
            f"{subject.call_text(False)}, where they are independent",
            remedy=f"compute over the feature axes, not over axis 0, in {listed(entry.names)}"
            if endpoint
            else "look at the model's own predict, predict_step and make_predict_function",
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
