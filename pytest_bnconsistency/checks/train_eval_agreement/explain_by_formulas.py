"""Evaluation far below training because a layer reads its statistics as others than it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement.measure import with_population
from pytest_bnconsistency.checks.train_eval_agreement.summary import disagreement
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import (
    HALF,
    Comparison,
    both_modes,
)
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.compared_outputs import gap
from pytest_bnconsistency.measurement.input_moments import place_of
from pytest_bnconsistency.measurement.mode_formulas import Formulas, Use, formulas
from pytest_bnconsistency.measurement.tracked_variables import Tracked, calls_by_layer
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import digits, listed

SHOWN = 3
SAID = {
    "mean": "mean",
    "variance": "variance",
    "deviation": "standard deviation",
    "square": "mean square",
    "root": "root of the mean square",
}


@dataclass(frozen=True)
class Suspect:
    """A layer whose modes use unlike formulas, and its path."""

    path: str
    layer: Any
    formulas: Formulas

    @property
    def wrong(self) -> list[Use]:
        return [use for use in self.formulas.uses if not use.agrees]


def explained(
    context: CheckContext, known: Estimated, far: Comparison, bound: str
) -> Finding | None:
    """The finding; None where no layer's formulas differ, or undoing that does not help."""
    if not Tries().may("each layer by itself, in both modes"):
        return None
    suspects = list(_suspects(known.training))
    if not suspects:
        return None
    said = _by_statistics if suspects[0].wrong else _by_formula
    found = said(context, known, far, suspects)
    if found is None:
        return None
    rule, explanation = found
    paths = [suspect.path for suspect in suspects]
    return rule.finding(
        layer=paths[0],
        layers=paths,
        message=disagreement(far.stored, far.trained, context.given, by=far.by),
        explanation=explanation,
        bound=bound,
        evidence={
            "layers": paths,
            "evaluation": far.stored.scores,
            "training": far.trained.scores,
        },
    )


def _suspects(training: Pass) -> Iterator[Suspect]:
    subject = training.subject
    for calls in calls_by_layer(training).values():
        call = calls[0]
        if not call.is_layer or not subject.takes_training(call.layer):
            continue
        if call.layer is subject.model:  # it runs its layers as well: no formula is its own
            continue
        found = None if subject.stochastic(call.layer) else formulas(subject, call.layer)
        if found is not None and not found.agree:
            yield Suspect(call.path, call.layer, found)


def _by_statistics(
    context: CheckContext, known: Estimated, far: Comparison, suspects: Sequence[Suspect]
) -> tuple[Rule, Explanation] | None:
    """What training keeps in a variable is not what evaluation reads it as."""
    records = known.training.run(known.batches[0].x).records
    expected = [t for suspect in suspects for t in _expected(known.training, records, suspect)]
    if not expected:
        return None
    with preserve_state(context.subject):
        mended = with_population(context, known, known.training, expected)
    before, after = (
        gap(side, far.trained, context.given).outputs for side in (far.stored, mended)
    )
    if not after < HALF * before:
        return None
    wrong = suspects[0].wrong
    never = all(use.kept_as is None for use in wrong)
    where = listed([suspect.path for suspect in suspects], most=SHOWN)
    read = listed([f"the {SAID[use.read_as]} in {use.name}" for use in wrong])
    return rules.NEVER_UPDATED if never else rules.ANOTHER_FORM, Explanation(
        cause=f"in {where}, {listed([_said(use) for use in wrong])}",
        tested=f"with {read}, taken from this data, evaluation is {digits(after, 2)} standard "
        f"deviations from training, as stored {digits(before, 2)}",
        remedy=f"keep {read} in training mode"
        + ("" if never else ", or read what is kept there as what it is"),
        established=True,
    )


def _expected(
    training: Pass, records: Sequence[list[Array] | None], suspect: Suspect
) -> Iterator[Tracked]:
    """The variables of a layer as evaluation reads them, with where the moments are recorded."""
    own = [(i, records[i]) for i, c in enumerate(training.calls) if c.layer is suspect.layer]
    for use in suspect.formulas.uses:
        length = use.variable.shape.num_elements()
        found = [(i, place_of(record, length)) for i, record in own]
        places = [(i, place) for i, place in found if place is not None]
        if places:
            yield Tracked(
                use.variable,
                suspect.layer,
                suspect.path,
                use.read_as,
                retention=HALF ** len(places),
                calls=len(places),
                places=tuple(places),
            )


def _by_formula(
    context: CheckContext, known: Estimated, far: Comparison, suspects: Sequence[Suspect]
) -> tuple[Rule, Explanation] | None:
    """Evaluation computes otherwise than training from the same statistics."""
    where = listed([suspect.path for suspect in suspects], most=SHOWN)
    left_out = [left for suspect in suspects for left in suspect.formulas.left_out]
    if not left_out:
        return rules.OTHER_FORMULA, Explanation(
            cause=f"evaluation in {where} follows another formula than training",
            tested="run by itself on one batch, evaluation says what training says "
            "under no statistics of that batch: means, variances, standard deviations, mean "
            "squares and their roots"
            + ("; told inference mode in training, the gap is gone" if far.undone else ""),
            remedy="use one formula for both modes, with the statistics of the batch in training "
            "and the stored ones in evaluation",
            established=bool(far.undone),
        )
    names = listed(list(dict.fromkeys(left.name for left in left_out)))
    with preserve_state(context.subject):
        for left in left_out:
            left.variable.assign(left.variable * 0 + left.neutral)
        stored, trained = both_modes(context, known)
    before = gap(far.stored, far.trained, context.given).outputs
    after = gap(stored, trained, context.given).outputs
    if not after < HALF * before:
        return None
    return rules.OTHER_FORMULA, Explanation(
        cause=f"evaluation in {where} leaves out {names}, which training applies",
        tested=f"with {names} at {left_out[0].neutral:g} evaluation is {digits(after, 2)} "
        f"standard deviations from training, as it is {digits(before, 2)}",
        remedy=f"apply {names} in both modes",
        established=True,
    )


def _said(use: Use) -> str:
    name, read = use.name, SAID[use.read_as]
    if use.kept_as is None:
        return f"training never updates {name}, which evaluation reads as the {read} of the input"
    if use.kept_as != "other":
        kept = SAID[use.kept_as]
        return f"training keeps the {kept} of the input in {name}, and evaluation reads the {read}"
    if use.times == use.times:
        return f"training keeps {digits(use.times, 2)} times the {read} of the input in {name}"
    return f"training keeps no {read} in {name}, and evaluation reads it as that of the input"
