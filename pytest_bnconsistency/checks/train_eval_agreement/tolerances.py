"""How much worse evaluation is than a reference, in practical tolerances, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.train_eval_agreement.measure import losses_of
from pytest_bnconsistency.checks.train_eval_agreement.sampling_error import Alternatives
from pytest_bnconsistency.data.arrays import Array, all_finite, take_rows
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.compared_outputs import (
    Side,
    changed_rows,
    gap,
    handed_on,
    number,
    right_rows,
    squared_distances,
    uninformed,
)
from pytest_bnconsistency.measurement.perfect_outputs import perfect

DEVIATIONS = 2
"""What is as many standard errors of chance is not chance: all that may be chance is in them."""
ONE_SIDED = 1.64
"""An excess lies above its upper bound once in 20 times."""
OF_FEW, OF_SEVERAL = 1.5, 1.1
"""Another converged average lies within 2 deviations of few ones less often than of many: five
draws tell as much with 1.5 times the deviation, and 16 with 1.1 times (Student's t for a single
further draw)."""
WOULD_SHOW = 1.5
"""A pass says that there is no excess of so many tolerances."""
PARTS = 16
"""The loss is compared on so many parts of the rows, to tell how much it varies among them."""
UNMOVED = 0.8
"""A loss speaks for the decisions too few rows leave open if it surely moves by less, in
tolerances, up or down: one that moves more may gain on some rows what it loses on others."""
CLEAR = 3
"""Without targets, changed decisions are harm if the outputs move by so many tolerances, too."""
UNMISTAKABLE = 8
"""Outputs of a model that has a loss are judged without targets if they move by as many standard
errors of chance: nets have been seen to bear 7 without harm."""
ANOTHER_ROW = 2.0
"""Outputs that move by so many standard deviations are farther from the reference than another
row's are (the root of 2): that is harm without targets, too, if it is not chance."""
UNLIKE = 2
"""Where single rows can't be compared, they are taken to differ by this many times the mean."""


@dataclass(frozen=True)
class Quantity:
    """Something of which evaluation can have more than the reference, and which harms.

    `of` gives it for a side, `parts` for each of several parts of the rows, None where that can't
    be told; these are single rows where it is `counted`. More than `tolerance` above the reference
    may be harm, and more than `sure` tolerances is, if it is `deviations` standard errors; of more
    than `certain` tolerances the usual number of them will do. `limit` words that
    more than so much fails, "" where there can't be more.
    """

    name: str
    tolerance: float
    of: Callable[[Side], float]
    parts: Callable[[Side], Array | None]
    limit: Callable[[float], str]
    counted: bool = True
    sure: float = 1
    deviations: float = DEVIATIONS
    certain: float = math.inf
    negligible: float = -math.inf


@dataclass(frozen=True)
class Excess:
    """How much more of a quantity evaluation has than the reference, in tolerances.

    `reference` is what evaluation is compared with, in the quantity's own unit: the median of
    converged averages, where such were drawn and have more than the reference itself.
    `counting` is the standard error of counting so few rows, `sampling_error` of taking statistics
    of so few, `jitter` the deviation of converged moving averages.
    """

    quantity: Quantity
    amount: float
    counting: float
    sampling_error: float = 0.0
    jitter: float = 0.0
    reference: float = 0.0

    @property
    def limit(self) -> str:
        return self.quantity.limit(self.reference + self.quantity.tolerance)

    @property
    def exceeds_tolerance(self) -> bool:
        return not self.amount <= 1

    @property
    def noise(self) -> float:
        return math.hypot(self.counting, self.sampling_error, self.jitter)

    def surely(self, tolerances: float = 1) -> bool:
        """Whether it is more than so many tolerances, however the rows are counted."""
        return not self._least <= max(tolerances, self.quantity.sure)

    @property
    def real(self) -> bool:
        """Whether chance does not explain it."""
        if not math.isfinite(self.amount):
            return self.exceeds_tolerance
        certain = self._least > self.quantity.certain
        deviations = DEVIATIONS if certain else self.quantity.deviations
        return not self.amount <= deviations * self.noise

    def plain(self) -> dict[str, Any]:
        """In the quantity's own unit."""
        own = self.quantity.tolerance
        return {
            "of": self.quantity.name,
            "excess": self.amount * own,
            "tolerance": own,
            "counting": self.counting * own,
            "sampling": self.sampling_error * own,
            "jitter": self.jitter * own,
        }

    @property
    def excluded(self) -> bool:
        """Whether harm would have shown.

        Statistics of other rows would be no better for these on average: they count in a failure.
        """
        return not self.exceeds_tolerance and self._most < WOULD_SHOW

    @property
    def unknown(self) -> bool:
        """Whether statistics of other rows change as many decisions as a pass says there are not.

        A loss tells by itself how well it is known.
        """
        return self.quantity.counted and self.sampling_error >= WOULD_SHOW

    @property
    def unmoved(self) -> bool:
        """Whether it hardly moves, up or down, under statistics of other rows as well."""
        chance = ONE_SIDED * math.hypot(self.counting, self.sampling_error)
        return abs(self.amount) + chance < UNMOVED

    @property
    def negligible(self) -> bool:
        return self._most < self.quantity.negligible

    @property
    def _least(self) -> float:
        return self.amount - (self.counting if math.isfinite(self.amount) else 0.0)

    @property
    def _most(self) -> float:
        return self.amount + ONE_SIDED * self.counting


def proven(found: Sequence[Excess], *, by_targets: bool, tolerances: float = 1) -> list[Excess]:
    """What harms and is no chance, if one is surely harm: few rows may count too few decisions to
    be no chance, where the loss tells that. Without targets, all must be both.
    """
    real = [excess for excess in found if excess.exceeds_tolerance and excess.real]
    sure = [excess for excess in found if excess.surely(tolerances)]
    if not by_targets and not len(real) == len(sure) == len(found):
        return []
    return real if sure else []


def by_targets(data: Data, reference: Side) -> bool:
    """Whether targets tell what is worse."""
    right = None if data.y is None else right_rows(reference, data)
    return reference.loss is not None or right is not None


def doubted(found: Sequence[Excess]) -> list[Excess]:
    """What may be harm: all that looks like it, or what tells most, if that is open.

    A loss that hardly moves tells more than the few decisions that differ, and where outputs
    hardly move, the decisions that change were close calls. That holds if the statistics are
    known: where those of so few rows may as well be others, under which as many decisions change,
    they clear nothing.
    """
    unknown = [excess for excess in found if excess.unknown]
    if _negligible(found) and not unknown:
        return []
    harmful = [excess for excess in found if excess.exceeds_tolerance]
    return harmful or [excess for excess in _telling(found) if not excess.excluded] or unknown


def _telling(found: Sequence[Excess]) -> list[Excess]:
    """What must show that there is no harm: losses may speak for decisions, and no more else."""
    leading = [excess for excess in found if excess.quantity.counted == found[0].quantity.counted]
    return leading if leading[0].quantity.counted or all(e.unmoved for e in leading) else [*found]


def settled(found: Sequence[Excess]) -> bool:
    """Whether nothing may be harm, so that what chance does need not be known."""
    return _negligible(found) or all(excess.excluded for excess in found)


def _negligible(found: Sequence[Excess]) -> bool:
    return any(excess.negligible for excess in found)


def excesses(
    context: CheckContext, data: Data, stored: Side, reference: Side, others: Alternatives
) -> list[Excess]:
    """By how much `stored` is worse than the reference, and than what converges under it."""
    found, finite = [], all_finite(stored.outputs)
    difference = gap(stored, reference, data).outputs
    moved = min(1.0, difference / (context.settings.output_tolerance or 1e-12))
    for quantity in quantities(context, data, stored, reference):
        least, unit = quantity.of(reference), quantity.tolerance or 1e-12
        converged, ended, sampled = (
            [value for side in sides if math.isfinite(value := quantity.of(side) / unit)]
            for sides in (others.converged, others.ended, others.samples)
        )
        center = float(np.median(converged)) if converged else least / unit
        most = max(least / unit, center)
        amount = quantity.of(stored) / unit - most
        found.append(
            Excess(
                quantity,
                amount if math.isfinite(amount) and finite else math.inf,
                _counting(quantity, stored, reference, amount, data.rows, moved) / unit,
                _root_mean_square(sampled, least / unit),
                max(OF_FEW * _deviation(converged), OF_SEVERAL * _root_mean_square(ended, center)),
                most * unit,
            )
        )
    return found


def quantities(context: CheckContext, data: Data, stored: Side, reference: Side) -> list[Quantity]:
    """What tells harm: loss and wrong decisions; without targets, what changes."""
    found = []
    if reference.loss is not None:
        units = loss_units(context, data, reference)
        both = {name: unit for name, unit in units.items() if name in stored.scores}
        found += _losses(context, data, both, reference)
    if data.y is not None and right_rows(reference, data) is not None:
        found.append(_wrong_decisions(context, data, reference))
    return found or _changes(context, _decided(context, data, reference), reference)


def _losses(
    context: CheckContext, data: Data, units: dict[str, float], reference: Side
) -> list[Quantity]:
    """The loss, and that of each output: in a sum, a large one hides the others."""
    known: dict[int, list[dict[str, float]]] = {}

    def of_parts(side: Side) -> list[dict[str, float]]:
        if id(side) not in known:
            known[id(side)] = _losses_of_parts(context, data, side)
        return known[id(side)]

    def loss(name: str) -> Quantity:
        def of(side: Side) -> float:
            return side.scores.get(name, math.nan)

        def by_parts(side: Side) -> Array | None:
            found = of_parts(side)
            return np.array([part[name] for part in found]) if all(found) else None

        tolerance = context.settings.loss_tolerance * units[name]
        said = "a loss" if name == "loss" else name
        return Quantity(
            name, tolerance, of, by_parts, lambda v: f"{said} above {number(v)}", counted=False
        )

    return [loss(name) for name in units]


def _losses_of_parts(context: CheckContext, data: Data, side: Side) -> list[dict[str, float]]:
    """Each loss of parts of the rows, drawn alike for every side."""
    rng = np.random.default_rng(context.settings.seed)
    parts = np.array_split(rng.permutation(data.rows), min(PARTS, data.rows))
    return [losses_of(context, *_part(data, side, rows)) for rows in parts]


def _part(data: Data, side: Side, rows: Array) -> tuple[Data, Side]:
    """Some rows of a side, and what scores them: what the model was given is not copied."""
    weight = None if data.sample_weight is None else data.sample_weight[rows]
    targets = take_rows(data.y, rows)
    part = Data(rows, targets, weight, boundary=data.boundary)
    return part, Side([output[rows] for output in side.outputs])


def loss_units(context: CheckContext, data: Data, reference: Side) -> dict[str, float]:
    """What a growth of each loss is compared with: as much of it as a model can lose.

    A relative change of a vanishing loss harms nobody: a tenth of the loss without a model is the
    least. A loss below 0 that no answer is known to be the smallest of, as that of a density, has
    no zero: there it is what rows differ by.
    """
    least = _least(context, data, reference)
    units = {"loss": abs((reference.loss or 0.0) - least.get("loss", 0.0))}
    for name, most in _without_model(context, data, reference).items():
        if name in reference.scores:
            lost, most = (v - least.get(name, 0.0) for v in (reference.scores[name], most))
            spread = _spread(context, data, reference, name) if lost < 0 else 0.0
            units[name] = spread or max(abs(lost), 0.1 * most if math.isfinite(most) else 0.0)
    return units


def _without_model(context: CheckContext, data: Data, reference: Side) -> dict[str, float]:
    """Each loss of what says the same for every row, or what it is given: the smaller one, as far
    as the reference has learnt more than that.
    """
    losses = losses_of(context, data, uninformed(reference))
    if (given := handed_on(reference, data)) is not None:
        for name, loss in losses_of(context, data, given).items():
            if loss >= reference.scores.get(name, math.inf):
                losses[name] = min(loss, losses.get(name, loss))
    return losses


def _spread(context: CheckContext, data: Data, side: Side, name: str) -> float:
    """The standard deviation of the losses of rows, as parts of them tell it; 0 where none do."""
    found = [losses.get(name, math.nan) for losses in _losses_of_parts(context, data, side)]
    deviation = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    return deviation * math.sqrt(data.rows / len(found)) if math.isfinite(deviation) else 0.0


def _least(context: CheckContext, data: Data, reference: Side) -> dict[str, float]:
    """Each loss of perfect answers, where the reference has more than that: penalties of weights,
    the entropy of targets. A growth that is small beside it may be large for the model.
    """
    found: dict[str, float] = {}
    for side in perfect(reference, data):
        for name, loss in losses_of(context, data, side).items():
            if loss <= min(reference.scores.get(name, -math.inf), found.get(name, math.inf)):
                found[name] = loss
    return found


def _wrong_decisions(context: CheckContext, data: Data, reference: Side) -> Quantity:
    def wrong(side: Side) -> Array:
        rows = right_rows(side, data)
        return np.ones(data.rows) if rows is None else 1 - rows

    tolerance = context.settings.decisions_tolerance

    def limit(share: float) -> str:
        return f"more than {share:.1%} of the decisions wrong" if share < 1 else ""

    return Quantity("wrong decisions", tolerance, lambda s: float(wrong(s).mean()), wrong, limit)


def _changes(context: CheckContext, data: Data, reference: Side) -> list[Quantity]:
    """Decisions that are others than the reference's, and the outputs' distance from it.

    Decisions of a model that knows little change by chance, so the outputs must tell as well. And
    whether outputs that move harm a model that has a loss, only its targets tell.
    """
    if changed_rows(reference, reference, data) is None:
        tolerance = context.settings.output_tolerance
        if not context.subject.evaluates:
            return [_distance(tolerance, data, reference)]
        return [_distance(tolerance, data, reference, CLEAR, UNMISTAKABLE)]

    def changed(side: Side) -> Array:
        rows = changed_rows(side, reference, data)
        return np.zeros(data.rows) if rows is None else rows

    tolerance = context.settings.decisions_tolerance
    decisions = Quantity(
        "changed decisions",
        tolerance,
        lambda side: float(changed(side).mean()),
        changed,
        lambda _: f"more than {tolerance:.1%} of the decisions changed",
        deviations=1,
    )
    distance = _distance(CLEAR * context.settings.output_tolerance, data, reference)
    return [decisions, replace(distance, negligible=1 / CLEAR)]


def _distance(
    tolerance: float, data: Data, reference: Side, sure: float = 1, deviations: float = DEVIATIONS
) -> Quantity:
    def by_rows(side: Side) -> Array:
        squares = squared_distances(side, reference)
        whole = math.sqrt(squares.mean())
        return (squares / whole + whole) / 2 if whole else squares  # to the first order of a root

    return Quantity(
        "distance of the outputs",
        tolerance,
        lambda side: gap(side, reference, data).outputs,
        by_rows,
        lambda _: f"a gap of more than {tolerance:g} standard deviations",
        counted=False,
        sure=sure,
        deviations=deviations,
        certain=ANOTHER_ROW / tolerance if tolerance else 0.0,
    )


def _decided(context: CheckContext, data: Data, reference: Side) -> Data:
    """The rows with what the reference decides as targets, where its outputs are scores.

    They are if the compiled loss takes numbers of classes or one-hot rows as targets, and does
    not see that all scores of a row grow by the same.
    """
    if data.y is not None or not context.subject.evaluates or len(reference.outputs) != 1:
        return data
    output = reference.outputs[0]
    if output.ndim < 2 or output.shape[-1] < 2:
        return data
    classes = output.argmax(-1)
    for targets in (classes, np.eye(output.shape[-1], dtype=output.dtype)[classes]):
        relabelled = replace(data, y=targets)
        sides = (Side([output + more]) for more in (0, 1, 10))
        losses = [losses_of(context, relabelled, side).get("loss", math.nan) for side in sides]
        if np.isfinite(losses).all() and np.allclose(losses, losses[0], rtol=1e-3, atol=1e-6):
            return relabelled
    return data


def _counting(
    quantity: Quantity, stored: Side, reference: Side, amount: float, rows: int, moved: float
) -> float:
    """The standard error of the excess, since other rows would have another.

    Where none of few decisions differs, one of twice as many may: half a one is added, and less
    where the outputs hardly moved.
    """
    mine, its = quantity.parts(stored), quantity.parts(reference)
    if mine is None or its is None:
        return UNLIKE * abs(amount) * quantity.tolerance / math.sqrt(rows)
    differences = mine - its
    error = float(np.std(differences, ddof=1)) if len(differences) > 1 else math.inf
    if quantity.counted:
        share = (np.square(differences).sum() + 0.5 * moved) / (len(differences) + 1)
        error = max(error, math.sqrt(share))
    return error / math.sqrt(len(differences))


def _root_mean_square(values: Sequence[float], center: float) -> float:
    return math.sqrt(float(np.mean(np.square(np.array(values) - center)))) if values else 0.0


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
