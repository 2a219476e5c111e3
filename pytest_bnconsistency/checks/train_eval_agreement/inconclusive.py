"""What an excess is measured against, and what is missing where it can't be told, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.population_reference import FEW_ROWS
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import (
    DEVIATIONS,
    ONE_SIDED,
    WOULD_SHOW,
    Excess,
    by_targets,
    doubted,
)
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import Comparison
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.compared_outputs import Side, number, numbers

MOST = 0.9
"""A part of what chance explains that may stand for the whole of it."""
MOST_ROWS = 20_000
"""More rows are not asked for: something else must settle it."""


def bound(excess: Excess) -> str:
    """What fails, what chance explains, and how much was found."""
    if not math.isfinite(excess.amount):
        return f"fails with {excess.limit}; NaN or infinity is never chance"
    chance = DEVIATIONS * excess.noise
    said = (
        f"fails with {excess.limit} that chance does not explain; chance explains "
        f"{_amount(excess, chance)} ({DEVIATIONS} standard errors), the excess is "
        f"{_amount(excess, excess.amount)}"
    )
    if excess.amount > chance:
        return said
    return f"{said}; so few rows can't tell, but the initial values left in the statistics do"


def question(m: Measured, found: Sequence[Excess], far: Comparison | None) -> Unanswered | None:
    """Why it can't be told whether a model agrees, and what to give; None where it does."""
    under = "under population statistics"
    if open_questions := doubted(found):
        return _said(m.stored, m.population, under, m.data, open_questions)
    if far is not None:
        return by_training(far, m.data)
    if m.data.rows < FEW_ROWS and m.wrong:
        words = numbers(m.stored, m.population, m.data)
        why = f"{words} {under}: {m.data.rows} rows can't clear statistics that are not theirs"
        return Unanswered(why, f"give at least {FEW_ROWS} rows, better a few hundred")
    return None


def by_training(far: Comparison, data: Data) -> Unanswered:
    """The same, where evaluation is worse than training mode."""
    if not far.far:
        worst, words = far.worst, numbers(far.stored, far.trained, data)
        return Unanswered(
            f"{words} in training mode, on {data.rows} rows: beyond the tolerance "
            f"({worst.limit}), and not by so much that it is sure where the statistics "
            "that training mode moves are not known",
            "known are means, variances, deviations and mean squares; look at other statistics in "
            "a test of their own",
        )
    return _said(far.stored, far.trained, "in training mode", data, far.found)


def _said(
    stored: Side, reference: Side, under: str, data: Data, open_questions: Sequence[Excess]
) -> Unanswered:
    """Why it can't be told, and what to give."""
    worst = max(open_questions, key=lambda excess: excess.amount)
    words = numbers(stored, reference, data)
    found = f"{words} {under}, on {data.rows} rows"
    telling = by_targets(data, reference) or not (
        worst.quantity.counted or worst.quantity.sure > 1
    )
    if worst.exceeds_tolerance and not telling:
        why = f"evaluation differs, and only targets tell whether it is worse: {found}"
        return Unanswered(why, "give y")
    share, by = max(
        (worst.counting, "counting so few rows"),
        (worst.sampling_error, "statistics of so few rows"),
        (worst.jitter, "the moving average's jitter"),
    )
    where = (
        f"beyond the tolerance ({worst.limit}), but not surely"
        if worst.exceeds_tolerance
        else f"within the tolerance ({worst.limit} would fail), but not surely"
    )
    part = by if share > MOST * worst.noise else f"most of it {by}: {_amount(worst, share)}"
    chance = f"{_amount(worst, worst.noise)} ({part})"
    why = f"{found}: {where}, as chance alone explains {chance}"
    return Unanswered(why, _hint(worst, data))


def _hint(worst: Excess, data: Data) -> str:
    needed = rows_needed(worst, data.rows)
    if needed is None:
        return (
            "a larger momentum makes the statistics steadier, and so does recalibrate(model, x); "
            "or raise the tolerance"
        )
    if data.rest is not None:
        return f"max_rows={needed} looks at more of the rows that were given"
    return f"give about {needed} rows, of the training data where you can; or raise the tolerance"


def rows_needed(excess: Excess, rows: int) -> int | None:
    """The rows that would tell, if what was found stays so; None where rows would not."""
    few = math.hypot(excess.counting, excess.sampling_error)
    if excess.exceeds_tolerance:
        left = (excess.amount / DEVIATIONS) ** 2 - excess.jitter**2
        times = max(few**2 / left, (excess.counting / (excess.amount - 1)) ** 2) if left > 0 else 0
    else:
        counting = ONE_SIDED * excess.counting / (WOULD_SHOW - excess.amount)
        times = max(counting, excess.sampling_error / WOULD_SHOW) ** 2
    needed = rows * times * 1.2
    if not 0 < needed <= MOST_ROWS:
        return None
    digits = int(10 ** max(math.floor(math.log10(needed)), 1))
    return max(math.ceil(needed / digits) * digits, 2 * rows)


def _amount(excess: Excess, tolerances: float) -> str:
    amount = tolerances * excess.quantity.tolerance
    return f"{amount:.1%}" if excess.quantity.counted else number(amount)
