"""What is said of a model that agrees, and the numbers that a verdict rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import Excess
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.compared_outputs import Side, gap, number, numbers
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.words import counted, listed

WHATEVER_BATCHES = ", whatever the batches"


def disagreement(stored: Side, reference: Side, data: Data, by: str = "") -> str:
    """What evaluation says against what it should, and `by` which rows."""
    said = numbers(stored, reference, data)
    return f"evaluate disagrees with train: {said} ({data.rows} rows{by})"


def passed_summary(m: Measured, found: list[Excess]) -> str:
    said = numbers(m.stored, m.population, m.data)
    loss = m.trained.loss
    trained = "" if loss is None else f"; in training mode, loss {number(loss)}"
    limits = listed(list(filter(None, (excess.limit for excess in found))), "or")
    return (
        f"{said} on {m.data.rows} rows, under moving against population statistics of "
        f"{layers_of(m.tracked)}{trained}" + f"; {limits} would fail" * bool(limits)
    )


def evidence_of(m: Measured, known: Estimated, found: list[Excess]) -> dict[str, Any]:
    difference = gap(m.stored, m.population, m.data)
    return {
        "rows": m.data.rows,
        "statistics_rows": known.estimate.rows,
        "batch_size": known.size,
        "normalization_layers": len({id(t.layer) for t in m.tracked}),
        "updates": m.updates,
        "moving": m.stored.scores,
        "population": m.population.scores,
        "training": m.trained.scores,
        "output_gap": difference.outputs,
        "decisions_changed": difference.decisions,
        "excess": [excess.plain() for excess in found],
        "initial_share_measured": m.initial_share,
    }


def scores_of(side: Side) -> str:
    """Its loss and metrics; without any, that it is as in training."""
    if side.scores:
        return " and ".join(f"{name} {number(value)}" for name, value in side.scores.items())
    return "the outputs of training come back"


def layers_of(tracked: Sequence[Tracked]) -> str:
    return counted(len({id(t.layer) for t in tracked}), "normalization layer")
