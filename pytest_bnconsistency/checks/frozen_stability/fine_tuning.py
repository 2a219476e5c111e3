"""What training and evaluation say of the same rows as fine-tuning begins, and why they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.compared_outputs import (
    Side,
    gap,
    number,
    right,
    uninformed,
)
from pytest_bnconsistency.models import Subject

BATCHES = 4
FAR = 2.0
"""A loss this many times that of a constant answer is worse than knowing nothing."""


@dataclass(frozen=True)
class Start:
    """One set of rows, random layers off: in training mode, in evaluation, and in training mode
    with the frozen layers told inference (None where that is what they do by themselves).

    `uninformed` is the loss of a model that says the same for every row.
    """

    training: Side
    evaluation: Side
    frozen_in_inference: Side | None
    rows: int
    outputs_gap: float
    uninformed: float | None

    @property
    def frozen_share(self) -> float:
        """The share of the gap that goes when the frozen layers run in inference mode, 0 to 1."""
        if self.frozen_in_inference is None:
            return 0.0
        for name in ("loss", "accuracy"):
            t, e, f = (
                side.scores.get(name)
                for side in (self.training, self.evaluation, self.frozen_in_inference)
            )
            if t is not None and e is not None and f is not None and abs(t - e) > 1e-12:
                return min(1.0, max(0.0, (t - f) / (t - e)))
        return 1.0 if self.outputs_gap else 0.0

    @property
    def _said(self) -> list[tuple[str, str, str]]:
        """Each score in training mode and in evaluation, as they are printed."""
        theirs = self.evaluation.scores
        mine = self.training.scores
        return [(n, number(v), number(theirs[n])) for n, v in mine.items() if n in theirs]

    @property
    def scored(self) -> bool:
        return bool(self._said)

    @property
    def differs(self) -> bool:
        """Whether some score differs, as it is printed."""
        return any(mine != its for _, mine, its in self._said)

    @property
    def sentence(self) -> str:
        """`loss 13.6 in training mode and 0.04 in evaluation, ...`, or that they are alike."""
        if not self.differs:
            same = ", ".join(f"{name} {mine}" for name, mine, _ in self._said)
            return f"{same}, in training mode as in evaluation"
        said = [
            f"{n} {mine} in training mode and {its} in evaluation" for n, mine, its in self._said
        ]
        return f"{', '.join(said)}; the frozen layers cause {self.frozen_share:.0%} of the gap"

    @property
    def wrong_in_both(self) -> str:
        """Why this is no fault of normalisation, where evaluation knows less than nothing."""
        loss = self.evaluation.loss
        if loss is None or self.uninformed is None or not loss > FAR * self.uninformed:
            return ""
        return (
            f"evaluation itself is wrong (loss {number(loss)}; the same answer for every row has "
            f"{number(self.uninformed)}), which no normalization layer causes: look at the labels "
            "(their order, sparse or one-hot) and at the preprocessing"
        )

    def numbers(self) -> dict[str, object]:
        """What goes into the evidence."""
        return {
            "rows": self.rows,
            "training": dict(self.training.scores),
            "evaluation": dict(self.evaluation.scores),
            "frozen_told_inference": dict((self.frozen_in_inference or self.training).scores),
            "frozen_share": self.frozen_share,
        }


def start(
    subject: Subject,
    data: Data,
    batch_size: int,
    inference: Pass,
    training: Pass,
    differing: Sequence[int],
) -> Start:
    """Both modes on the first rows of `data`, and the frozen layers that differ told inference.

    Args:
        inference: a pass in inference.
        training: a pass in training mode.
        differing: the frozen layers, by identity, whose modes are not alike.
    """
    rows = min(data.rows, BATCHES * batch_size)
    given = data.take(slice(0, rows))

    def side(seen: Pass) -> Side:
        return _scored(subject, given, Side(seen.over(given.batches(batch_size))))

    evaluation = side(inference)
    trained = side(training)
    frozen_in_inference = None
    if differing:
        modes = dict.fromkeys(differing, False)
        frozen_in_inference = side(
            Pass(
                subject,
                given.x,
                training=True,
                modes=modes,
                stochastic_off=training.stochastic_off,
            )
        )
    constant = _scored(subject, given, uninformed(evaluation)).loss
    outputs_gap = gap(trained, evaluation, given).outputs
    return Start(trained, evaluation, frozen_in_inference, rows, outputs_gap, constant)


def _scored(subject: Subject, data: Data, side: Side) -> Side:
    scores: dict[str, float] = {}
    loss = subject.loss(data, side.predicted) if data.y is not None and subject.evaluates else None
    if loss is not None and math.isfinite(loss):
        scores["loss"] = loss
    accuracy = right(side, data) if data.y is not None else None
    if accuracy is not None:
        scores["accuracy"] = accuracy
    return Side(side.outputs, scores)
