"""Layers whose state stays, and that give in training mode something else than in inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_bnconsistency.checks.frozen_stability.cause import Cause, time_for
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen, Measured
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.rules import catalogue as rules

REPLAYED = "on the identical input, inference mode gives another output"
ONE_BY_ONE = ", and so do rows that training mode gets one by one"
STORED = (
    "frozen or not, the layer normalises by the batch in training mode; its statistics stay",
    "use a BatchNormalization of V2 behaviour (tf.keras 2.2 or later, keras 3), or call the "
    "frozen part with training=False",
)
NOTHING_STORED = (
    "in training mode the layer takes numbers from the batch; it has no variables, so there is "
    "nothing that trainable=False could freeze",
    "call the frozen part with training=False, or let the layer mind self.trainable",
)


def by_mode(m: Measured, layers: Sequence[Frozen]) -> Iterator[Cause]:
    """Layers that give in training mode something else on the identical input."""
    stored = [f for f in layers if f.variables]
    meeting = m.meeting(stored) if stored and time_for("rows one by one") else None
    by_batch = stored if meeting is None else meeting
    yield from _by_batch(by_batch, STORED, one_by_one=meeting is not None)
    # Layers without variables are judged only where their rows were seen to meet.
    nothing_stored = [f for f in layers if not f.variables]
    yield from _by_batch(nothing_stored, NOTHING_STORED, one_by_one=True)
    yield from _by_row([f for f in stored if f not in by_batch])


def _by_batch(
    layers: Sequence[Frozen], said: tuple[str, str], *, one_by_one: bool
) -> Iterator[Cause]:
    """Layers that use their batch, as rows `one_by_one` show if these could be tried."""
    cause, remedy = said
    if layers:
        explanation = Explanation(
            cause=cause,
            tested=REPLAYED + ONE_BY_ONE * one_by_one,
            remedy=remedy,
            established=one_by_one,
        )
        yield Cause(rules.FROZEN_BY_BATCH, layers, explanation)


def _by_row(layers: Sequence[Frozen]) -> Iterator[Cause]:
    """Layers that compute otherwise in training mode, each row by itself."""
    if layers:
        explanation = Explanation(
            cause="frozen or not, the layer computes otherwise in training mode than in "
            "inference, each row by itself; its state stays",
            tested=f"{REPLAYED}; rows that training mode gets one by one come out as together",
            remedy="call the frozen part with training=False; or, where both modes are meant, "
            "accept that by the option ignore",
            established=True,
        )
        yield Cause(rules.FROZEN_BY_BATCH, layers, explanation)
