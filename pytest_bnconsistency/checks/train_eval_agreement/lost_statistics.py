"""Weights that were trained with other statistics than are stored: they fit those of the batch."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import estimated, inference_pass
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.batch_statistics import said_in
from pytest_bnconsistency.measurement.compared_outputs import Side, uninformed
from pytest_bnconsistency.results import Explanation

INITIAL = "initial"
CLEARLY_WORSE, TWICE = 1.1, 2.0
"""Weights that were trained with other statistics lose at least so much by their loss. After a few
steps in inference mode it may, by luck, be a little less in training mode. Where the statistics of
other layers moved, there were no such steps."""
HARMFUL, SEEN = 0.1, 0.02
"""Shares of the loss of a mean answer: they lose at least the first, or twice as much and the
second. Weights that were trained in both modes, one after the other, know their targets in either.
"""
LOST = (
    "the weights were trained with other statistics, which were not copied, saved, loaded or kept"
)
OR_RECALIBRATE = ", or recalibrate(model, x)"


def lost(losses: Losses, otherwise: str, of: str = INITIAL) -> Explanation:
    """The explanation where the weights fit the batch."""
    return Explanation(
        cause=LOST,
        tested=f"the weights fit the statistics of the batch: {losses.text(of)}",
        remedy="copy, save and load the weights that do not train along with those that do"
        + otherwise,
        established=True,
    )


@dataclass(frozen=True)
class Losses:
    """The loss under the stored statistics, in training mode, and of one answer for all rows."""

    stored: float
    trained: float
    uninformed: float

    def text(self, of: str = INITIAL) -> str:
        return (
            f"loss {self.stored:.2g} with the {of} statistics, {self.trained:.2g} in training mode"
        )

    @property
    def fit_the_batch(self) -> bool:
        """Whether the weights were surely trained with the statistics of the batch."""
        share = (self.stored - self.trained) / max(abs(self.uninformed), 1e-12)
        times = CLEARLY_WORSE if share > HARMFUL else TWICE
        return share > SEEN and self.stored > times * self.trained


def in_both_modes(
    context: CheckContext, tries: Tries, by_batch: Pass | None = None
) -> Losses | None:
    """The losses of the given rows, where there is a loss: of inference, and of training mode, or
    of the pass `by_batch`, whose layers standardise by the batch.
    """
    subject, known = context.subject, estimated(context)
    if context.given.y is None or not subject.evaluates or not (by_batch or known.seen):
        return None
    if not tries.may("the loss in either mode"):
        return None
    ordered = context.given.take(known.batches.order)
    trained = said_in(known.seen) if by_batch is None else by_batch.over(known.batches)
    sides = [Side(inference_pass(context).over(known.batches)), Side(trained)]
    losses = [subject.loss(ordered, s.predicted) for s in (*sides, uninformed(sides[-1]))]
    found = [loss for loss in losses if loss is not None]
    return Losses(*found) if len(found) == len(losses) else None
