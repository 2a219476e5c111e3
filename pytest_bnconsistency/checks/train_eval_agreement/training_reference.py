"""Training mode itself as the reference, whether or not a layer is recognised as a normalization
layer.

Its rows see batches, so the rows are compared in several orders: what evaluation loses against
all of them is not the batches' doing. And training mode may differ by design (more outputs, the
targets as inputs): what is blamed is state that it moves, and rows that depend on one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated, inference_pass
from pytest_bnconsistency.checks.train_eval_agreement.measure import (
    evaluated,
    in_training,
    other_batchings,
    same_shapes,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.sampling_error import Alternatives
from pytest_bnconsistency.checks.train_eval_agreement.summary import WHATEVER_BATCHES
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import (
    Excess,
    by_targets,
    excesses,
    proven,
)
from pytest_bnconsistency.data.arrays import all_finite, is_float
from pytest_bnconsistency.execution.batches import in_batches
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.measurement.batch_statistics import batch_statistics
from pytest_bnconsistency.measurement.compared_outputs import Side, gap
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models.base import holders
from pytest_bnconsistency.models.calls import Part

UNEXPLAINED, UNMENDED = 3, 2
"""Where no population statistics are known, the gap must be this many tolerances wide, and where
they leave it as it is, this many.
"""
HALF = 0.5
KEPT_ROWS = 4
LARGE = 512
"""Rows of a batch whose statistics are all but those of the population."""
ROUNDING = 1e-3
"""What moves outputs by less of their standard deviation, other rows of the batch do not."""


@dataclass(frozen=True)
class Holder:
    """A layer that holds state which a pass in training mode moves."""

    path: str
    layer: object


@dataclass(frozen=True)
class Comparison:
    """What evaluation and training mode said of the same rows, and by how much it is worse.

    `blamed` are layers whose state training mode moves; none where rows mix without any. `undone`
    says that these, run in inference mode, make training mode say what evaluation says; it is None
    where they can't be told. `needed` is how many tolerances wide the gap must be, `by` says in
    which batches training mode ran.
    """

    stored: Side
    trained: Side
    found: list[Excess]
    targets_tell: bool = False
    needed: float = UNEXPLAINED
    blamed: Sequence[Holder] = ()
    undone: bool | None = None
    by: str = WHATEVER_BATCHES

    @property
    def far(self) -> bool:
        """Whether evaluation is far worse in one thing that tells, and in none is it better."""
        amounts = [e.amount for e in self.found]
        return bool(amounts) and max(amounts) > self.needed and min(amounts) > -1

    @property
    def proven(self) -> bool:
        sure = proven(self.found, by_targets=self.targets_tell, tolerances=self.needed)
        return self.far and bool(sure)

    @property
    def worst(self) -> Excess:
        return max(self.found, key=lambda excess: excess.amount)


def far_without_normalization(context: CheckContext, known: Estimated) -> Comparison | None:
    """Evaluation worse than training, where no normalization layer is recognised: far worse, or
    by more than the tolerance where training mode moves state.
    """
    blamed = moved(known)
    if context.updates() == 0 or not (blamed or _rows_mix(context, known)):
        return None
    found = _compared(context, known, *both_modes(context, known))
    if blamed and found.targets_tell and not found.far and replace(found, needed=1).far:
        return replace(found, blamed=blamed)
    return _with_blame(context, known, blamed, found)


def both_modes(context: CheckContext, known: Estimated) -> tuple[Side, Side]:
    """What the model says as it is now: in evaluation, and in training mode."""
    stored = evaluated(context, context.given, inference_pass(context), known.size)
    seen = list(batch_statistics(known.training, known.tracked, known.batches))
    return stored, in_training(context, context.given, seen, known.batches)


def far_though_recalibrated(
    context: CheckContext, m: Measured, known: Estimated
) -> Comparison | None:
    """Evaluation far worse than training, where population statistics don't mend it."""
    stored = _compared(context, known, m.stored, m.trained, UNMENDED)
    if not replace(stored, needed=0).far:  # population statistics are no worse than a batch's
        return None
    far = _far_in_large_batches(context, m, known) if not stored.proven else None
    if far is None and stored.far:
        population = _compared(context, known, m.population, m.trained, UNMENDED)
        far = stored if population.far else None
    return None if far is None else _with_blame(context, known, moved(known), far)


def _far_in_large_batches(
    context: CheckContext, m: Measured, known: Estimated
) -> Comparison | None:
    """The same against training mode whose statistics are no sample.

    In small batches training mode loses a part of what another formula would cost evaluation.
    """
    if known.size >= min(LARGE, m.data.rows):  # the usual ones are as large
        return None
    batches = in_batches(m.data, known.batches.order, LARGE)
    seen = list(batch_statistics(known.training, known.tracked, batches))
    large = in_training(context, m.data, seen, batches)
    if not same_shapes(m.stored, large) or _says_nothing(large, m.stored):
        return None
    population, stored = (
        _against(context, side, large, [], UNMENDED) for side in (m.population, m.stored)
    )
    by = f", in training mode in batches of {len(batches.rows[0])}"
    return replace(stored, by=by) if population.far and stored.far else None


def _with_blame(
    context: CheckContext, known: Estimated, blamed: Sequence[Holder], found: Comparison
) -> Comparison | None:
    """The comparison with the layers that bring it about; None where that is by design."""
    undone = _undone(context, known, blamed, found) if found.far else False
    return None if undone is False else replace(found, blamed=blamed, undone=undone)


def _compared(
    context: CheckContext,
    known: Estimated,
    stored: Side,
    trained: Side,
    needed: float = UNEXPLAINED,
) -> Comparison:
    """Evaluation against training mode, whatever the batches."""
    if not same_shapes(stored, trained) or _says_nothing(trained, stored):
        return Comparison(stored, trained, [])

    def against(batchings: Sequence[Side]) -> Comparison:
        compared = _against(context, stored, trained, batchings, needed)
        strict = replace(compared, needed=1)
        if compared.far or not (strict.targets_tell and strict.far):
            return compared
        # Where rows don't mix, batches do nothing to what training mode says.
        return strict if _rows_mix(context, known) is False else compared

    first = against([])
    if not first.far:  # as a rule: no other batches need to run
        return first
    batchings = [other.side for other in other_batchings(context)]
    if not all(same_shapes(side, trained) for side in batchings):
        return Comparison(stored, trained, [])
    return against(batchings)


def _against(
    context: CheckContext,
    stored: Side,
    trained: Side,
    batchings: Sequence[Side],
    needed: float,
) -> Comparison:
    data, others = context.given, Alternatives([], [trained, *batchings], [])
    found = excesses(context, data, stored, trained, others)
    return Comparison(stored, trained, found, by_targets(data, trained), needed)


def _says_nothing(trained: Side, stored: Side) -> bool:
    """Whether training mode says the same for every row, as batches of one row may make it."""

    def spread(side: Side) -> float:
        return max(
            (float(o.astype(np.float64).std(axis=0).max()) for o in side.outputs if is_float(o)),
            default=0.0,
        )

    return spread(trained) < ROUNDING * spread(stored)


def moved(known: Estimated) -> list[Holder]:
    """Layers with float variables of their own that do not train and that training mode moves."""
    training = known.training
    variables = {id(variable) for variable in training.run(known.batches[0].x).moved}
    found: dict[int, Holder] = {}
    for call in training.state_calls() if variables else []:
        for path, layer in holders(training.subject, call) if call.is_layer else ():
            tracked_here = tracked_candidates(training.subject, layer)
            if any(id(variable) in variables for variable in tracked_here):
                found.setdefault(id(layer), Holder(path, layer))
    return list(found.values())


def _rows_mix(context: CheckContext, known: Estimated) -> bool | None:
    """Whether what training mode says of rows hangs on the other rows of their batch.

    None where it can't be told: of too few rows, or where something draws.
    """
    data = context.given
    count = min(KEPT_ROWS, data.rows // 3)

    def run(others: int) -> Side:
        rows = [*range(count), *range(others * count, (others + 1) * count)]
        return Side([output[:count] for output in known.training.over([data.take(rows)])])

    def mix() -> bool | None:
        first, again, other = run(1), run(1), run(2)
        if not same_outputs(first.outputs, again.outputs):
            return None
        return gap(other, first, data.take(range(count))).outputs > ROUNDING

    return context.once("rows mix in training mode", mix) if count else None


def _taking_a_mode(training: Pass, blamed: Sequence[Holder]) -> list[object]:
    """The layers that take a mode and are called: for one that another runs itself, that."""
    subject, found = training.subject, list[object]()
    called = {id(c.layer): c.layer for c in (*training.calls, *training.inner_calls) if c.is_layer}
    for holder in blamed:
        around = [outer for outer in called.values() if holder.layer in subject.sublayers(outer)]
        for layer in [called[id(holder.layer)]] if id(holder.layer) in called else around[:1]:
            if not isinstance(layer, Part) and subject.takes_training(layer):
                found.append(layer)
    return found


def _undone(
    context: CheckContext, known: Estimated, blamed: Sequence[Holder], far: Comparison
) -> bool | None:
    """Whether training mode says what evaluation says once these layers run in inference mode.

    None where no layer can be told: then the subject as a whole is all that there is.
    """
    data, training = context.given, known.training
    modes = dict.fromkeys(map(id, _taking_a_mode(training, blamed)), False)
    if not modes:
        return None
    run = training.again(known.batches[0].x, training.instrument, modes=modes)
    back = np.argsort(known.batches.order)
    said = Side([output[back] for output in run.over(known.batches)])
    if not all_finite(far.stored.outputs):
        return not all_finite(said.outputs)
    return gap(said, far.stored, data).outputs < HALF * gap(far.trained, far.stored, data).outputs
