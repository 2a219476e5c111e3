"""Layers whose state stays, and that give in training mode something else than in inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_bnconsistency.checks.frozen_stability.cause import Cause, time_for
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen, Measured
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.execution.training_steps import ModeGap, Modes, mode_gaps
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.rules import catalogue as rules

OF_NOTE = 0.05
"""So much of what a mode changes must come from the other rows to be called the batch's."""


def by_mode(m: Measured, layers: Sequence[Frozen]) -> Iterator[Cause]:
    """Layers that give in training mode something else on the identical input."""
    meeting = _meeting(m, layers) if layers else None
    by_batch = [f for f in layers if meeting is None or f in meeting]
    tested = "on the identical input, inference mode gives another output"
    if by_batch:
        one_by_one = ", and so do rows that training mode gets one by one"
        explanation = Explanation(
            cause="frozen or not, the layer normalises by the batch in training mode; its "
            "statistics stay",
            tested=tested + one_by_one * (meeting is not None),
            remedy="use a BatchNormalization of V2 behaviour (tf.keras 2.2 or later, keras 3), or "
            "call the frozen part with training=False",
            established=meeting is not None,
        )
        yield Cause(rules.FROZEN_BY_BATCH, by_batch, explanation)
    if by_row := [f for f in layers if f not in by_batch]:
        explanation = Explanation(
            cause="frozen or not, the layer computes otherwise in training mode than in "
            "inference, each row by itself; its state stays",
            tested=f"{tested}; rows that training mode gets one by one come out as together",
            remedy="call the frozen part with training=False; or, where both modes are meant, "
            "accept that by the option ignore",
            established=True,
        )
        yield Cause(rules.FROZEN_BY_BATCH, by_row, explanation)


def _meeting(m: Measured, layers: Sequence[Frozen]) -> list[Frozen] | None:
    """Those in which rows meet in training mode; None where they take no rows one by one."""
    called = {id(f.call.layer) for f in layers}
    if not time_for("rows one by one"):
        return None
    try:
        with preserve_state(m.subject):
            again = Pass(
                m.subject,
                m.x,
                training=True,
                instrument=Modes(m.subject, lambda call: id(call.layer) in called, mode=True),
                row_by_row=called,
            )
            gaps = mode_gaps(again.calls, again.run(m.x).records)
    except BNConsistencyError:
        return None
    nothing = ModeGap()
    return [
        f
        for f in layers
        if gaps.get(id(f.call.layer), nothing).distance > OF_NOTE * m.gap(f).distance
    ]
