"""What of a gap is worth a person's time, by the tolerances of the settings."""

from __future__ import annotations

import math

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.measuring import loss_of
from pytest_bnconsistency.checks.sampling import DEVIATIONS
from pytest_bnconsistency.data import Data
from pytest_bnconsistency.diagnosis.measured import Measured
from pytest_bnconsistency.diagnosis.sides import Gap, Side, gap, number, right

UNEXPLAINED = 3
"""Where population statistics don't explain the gap, it must be this many tolerances wide."""


def harm(case: Case, m: Measured, apart: Gap, restless: float = 0.0) -> str:
    """What of the gap is worth a person's time; empty where nothing is.

    `restless` is the share of decisions that other statistics, as good as the reference, change.
    """
    data, stored, reference = m.data, m.stored, m.population
    if not math.isfinite(apart.outputs):
        return "the outputs are NaN or Inf"
    if stored.loss is not None and reference.loss is not None:
        if stored.loss <= reference.loss:
            return ""
        if not stored.loss <= loss_limit(case, data, reference):
            return f"loss {stored.loss:.3g} against {reference.loss:.3g}"
        now, before = right(stored, data), right(reference, data)
        if now is not None and before is not None:
            lost = before - now
            if lost > _limit_of_decisions(case, data):
                return f"{lost:.1%} fewer decisions are right"
        return ""
    if apart.decisions is not None:
        changed = apart.decisions > max(_limit_of_decisions(case, data), 2 * restless)
        return f"{apart.decisions:.1%} of the decisions change" if changed else ""
    if apart.outputs > case.settings.output_tolerance:
        return f"the outputs move by {apart.outputs:.2g} standard deviations"
    return ""


def unlike_training(case: Case, m: Measured) -> bool:
    """Whether evaluation is far worse than training, and population statistics don't mend it.

    What a row gets in training depends on its batch: the same rows in other batches tell how much.
    """
    if m.trained.loss is None or m.stored.loss is None or m.population.loss is None:
        return False
    limit = loss_limit(case, m.data, m.trained, UNEXPLAINED)
    if m.stored.loss <= limit or m.population.loss <= limit:
        return False
    now, before = right(m.stored, m.data), right(m.trained, m.data)
    if now is not None and before is not None:
        lost = before - now
        if lost <= UNEXPLAINED * case.settings.decisions_tolerance:
            return False
    by_batch = gap(m.again(), m.trained, m.data).outputs
    return gap(m.stored, m.trained, m.data).outputs > DEVIATIONS * by_batch


def limits(case: Case, m: Measured) -> str:
    """What would have been harm."""
    if m.population.loss is not None:
        return f"a loss above {number(loss_limit(case, m.data, m.population))}"
    if gap(m.population, m.population, m.data).decisions is not None:
        return f"more than {_limit_of_decisions(case, m.data):.1%} changed decisions"
    return f"a gap of more than {case.settings.output_tolerance:g} standard deviations"


def loss_limit(case: Case, data: Data, reference: Side, tolerances: int = 1) -> float:
    """The loss from which on it is worth a person's time.

    A relative change of a vanishing loss harms nobody: a tenth of the loss of a model that says
    the same for every row is the least that a change is compared with.
    """
    loss = reference.loss or 0.0
    constant = Side([np.broadcast_to(o.mean(axis=0), o.shape).copy() for o in reference.outputs])
    uninformed = loss_of(case, data, constant)
    floor = 0.1 * uninformed if uninformed is not None and math.isfinite(uninformed) else 0.0
    return loss + tolerances * case.settings.loss_tolerance * max(abs(loss), floor)


def _limit_of_decisions(case: Case, data: Data) -> float:
    """The tolerated share of decisions and two standard deviations of counting so many rows."""
    tolerated = case.settings.decisions_tolerance
    return tolerated + 2 * math.sqrt(tolerated * (1 - min(tolerated, 1.0)) / data.rows)
