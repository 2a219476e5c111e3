"""Which normalisers are frozen, half-frozen or trainable, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.execution.training_steps import Apart
from pytest_bnconsistency.models import Call
from pytest_bnconsistency.results import Finding, Table
from pytest_bnconsistency.rules import catalogue as rules

COLUMNS = ("normaliser", "is", "because", "statistics", "weights", "training mode uses")
REASONS = {
    rules.FROZEN_MOVES.id: "something moves its state all the same",
    rules.FROZEN_BY_BATCH.id: "it normalises by the batch all the same",
    rules.INFERENCE_OVERRIDDEN.id: "training overrides it",
    rules.RECOMPILE_MISSING.id: "compiled or traced before that",
    rules.CHILD_TRAINABLE.id: "but its own flag is True",
    rules.NOT_FROZEN.id: "but its own flag is True",
}


@dataclass(frozen=True, eq=False)
class Normaliser:
    """A layer with statistics: what declares it frozen (or nothing), and its variables."""

    call: Call
    by: str
    statistics: Sequence[Any]
    weights: Sequence[Any]


def table(
    normalisers: Sequence[Normaliser],
    moved: frozenset[int],
    apart: Mapping[int, Apart],
    findings: Sequence[Finding],
    *,
    trained: bool,
) -> Table | None:
    """One row a normaliser, the half-frozen ones first.

    Args:
        moved: the variables that training moved.
        apart: how far a layer's modes are from one another, by its identity.
        trained: whether real steps ran; otherwise what weights do is not known.
    """
    reasons = {
        path: REASONS[finding.rule]
        for finding in reversed(findings)
        for path in finding.evidence["layers"]
    }
    order = {"half-frozen": 0, "frozen": 1, "trainable": 2}
    rows = [_row(n, moved, apart, reasons, trained) for n in normalisers]
    rows.sort(key=lambda row: order[row[1]])
    return Table(COLUMNS, tuple(rows)) if rows else None


def _row(
    n: Normaliser,
    moved: frozenset[int],
    apart: Mapping[int, Apart],
    reasons: Mapping[str, str],
    trained: bool,
) -> tuple[str, ...]:
    tracks = any(id(v) in moved for v in n.statistics)
    learns = any(id(v) in moved for v in n.weights)
    batch = apart.get(id(n.call.layer), Apart()).differs
    if not tracks and not learns and not batch:
        status = "frozen"
    elif tracks and (learns or not n.weights or not trained) and not n.by:
        status = "trainable"
    else:
        status = "half-frozen"
    because = n.by or "nothing declares it frozen"
    if n.call.path in reasons:
        because += f"; {reasons[n.call.path]}"
    elif status == "half-frozen" and n.by and learns and not tracks:
        because += ": its mode, not its weights"
    weights = "move" if learns else "none" if not n.weights else "stay" if trained else "?"
    return (
        n.call.path,
        status,
        because,
        "move" if tracks else "stay",
        weights,
        "the batch" if batch else "what is stored",
    )
