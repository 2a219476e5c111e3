"""Which normalization layers are frozen, half-frozen or trainable, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.checks.frozen_stability.measured import Measured
from pytest_bnconsistency.execution.training_steps import ModeGap
from pytest_bnconsistency.models import Call
from pytest_bnconsistency.results import Finding, Table
from pytest_bnconsistency.rules import catalogue as rules

COLUMNS = ("normalization layer", "is", "because", "statistics", "weights", "training mode uses")
REASONS = {
    rules.FROZEN_MOVES.id: "something moves its state all the same",
    rules.FROZEN_BY_BATCH.id: "it normalises by the batch all the same",
    rules.INFERENCE_OVERRIDDEN.id: "training overrides it",
    rules.RECOMPILE_MISSING.id: "compiled or traced before that",
    rules.CHILD_TRAINABLE.id: "but its own flag is True",
    rules.NOT_FROZEN.id: "but its own flag is True",
}


@dataclass(frozen=True, eq=False)
class NormalizationLayer:
    """A layer with statistics: what declares it frozen (or nothing), and its variables."""

    call: Call
    by: str
    statistics: Sequence[Any]
    weights: Sequence[Any]


HALF_FROZEN, FROZEN, TRAINABLE = "half-frozen", "frozen", "trainable"
ORDER = (HALF_FROZEN, FROZEN, TRAINABLE)


@dataclass(frozen=True)
class Status:
    """Whether a normalization layer is frozen, why, and what training does to it.

    `learns` is None where no real step ran: then it is not known what weights do.
    """

    path: str
    kind: str
    because: str
    tracks: bool
    has_weights: bool
    learns: bool | None
    by_batch: bool

    @property
    def cells(self) -> tuple[str, ...]:
        weights = "?" if self.learns is None else "move" if self.learns else "stay"
        return (
            self.path,
            self.kind,
            self.because,
            "move" if self.tracks else "stay",
            weights if self.has_weights else "none",
            "the batch" if self.by_batch else "what is stored",
        )

    def plain(self) -> dict[str, str]:
        return dict(zip(COLUMNS, self.cells, strict=True))


def table(normalization_layers: Sequence[Status]) -> Table | None:
    rows = tuple(n.cells for n in normalization_layers)
    return Table(COLUMNS, rows) if rows else None


def status_of(
    normalization_layers: Sequence[NormalizationLayer], m: Measured, findings: Sequence[Finding]
) -> list[Status]:
    """One for each normalization layer, the half-frozen ones first."""
    reasons = {
        path: REASONS[finding.rule]
        for finding in reversed(findings)
        for path in finding.evidence["layers"]
    }
    found = [_status(n, m, reasons.get(n.call.path, "")) for n in normalization_layers]
    return sorted(found, key=lambda status: ORDER.index(status.kind))


def _status(n: NormalizationLayer, m: Measured, reason: str) -> Status:
    moved = m.by_forward | m.by_steps
    tracks = any(id(v) in moved for v in n.statistics)
    learns = any(id(v) in moved for v in n.weights)
    batch = m.gaps.get(id(n.call.layer), ModeGap()).differs
    kind = _kind(n, tracks, learns, batch, trained=m.steps.possible)
    because = n.by or "nothing declares it frozen"
    if reason:
        because += f"; {reason}"
    elif kind == HALF_FROZEN and n.by and learns and not tracks:
        because += ": its mode, not its weights"
    known = learns if learns or m.steps.possible else None
    return Status(n.call.path, kind, because, tracks, bool(n.weights), known, batch)


def _kind(n: NormalizationLayer, tracks: bool, learns: bool, batch: bool, *, trained: bool) -> str:
    if not tracks and not learns and not batch:
        return FROZEN
    complete = learns or not n.weights or not trained
    return TRAINABLE if tracks and complete and not n.by else HALF_FROZEN
