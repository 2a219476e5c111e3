"""Evaluation far below training because the state that training moves has not come to rest."""

from __future__ import annotations

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated, inference_pass
from pytest_bnconsistency.checks.train_eval_agreement.measure import evaluated
from pytest_bnconsistency.checks.train_eval_agreement.summary import (
    disagreement,
    scores_of,
)
from pytest_bnconsistency.checks.train_eval_agreement.training_reference import HALF, Comparison
from pytest_bnconsistency.execution.state import restored
from pytest_bnconsistency.measurement.compared_outputs import Side, gap
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

UPDATES = (32, 128, 512)
"""After so many batches in training mode, with the weights untouched, evaluation is looked at."""
SHOWN = 3


def explained(
    context: CheckContext, known: Estimated, far: Comparison, bound: str
) -> Finding | None:
    """The finding; None where evaluation stays as far off, however often the state is moved on."""
    if not far.blamed:
        return None
    tries, training, done, finding = Tries(), known.training, 0, None
    with restored(training.written):
        for updates in UPDATES:
            if not tries.may("the state that training moves, moved on until it rests"):
                break
            while done < updates:
                for batch in known.batches:
                    training.run(batch.x, keep=True)
                done += len(known.batches)
            said = evaluated(context, context.given, inference_pass(context), known.size)
            if _is_mended(context, far, said):
                finding = _finding(context, far, said, done, bound)
    return finding


def _is_mended(context: CheckContext, far: Comparison, said: Side) -> bool:
    """Whether most of the distance from training is gone."""
    losses = said.loss, far.stored.loss, far.trained.loss
    now, before, aim = losses
    if now is not None and before is not None and aim is not None:
        return now - aim < HALF * (before - aim)
    data = context.given
    return gap(said, far.trained, data).outputs < HALF * gap(far.stored, far.trained, data).outputs


def _finding(
    context: CheckContext, far: Comparison, said: Side, updates: int, bound: str
) -> Finding:
    paths = [holder.path for holder in far.blamed]
    where = listed(paths, most=SHOWN)
    return rules.DISAGREES.finding(
        layer=paths[0],
        layers=paths,
        message=disagreement(far.stored, far.trained, context.given, by=far.by),
        explanation=Explanation(
            cause=f"what training moves in {where} is not where it comes to rest under these "
            "weights: too few updates for how slowly it moves, or it was set, loaded or left out "
            "otherwise",
            tested=f"after {updates} batches in training mode, with the weights untouched, "
            f"{scores_of(said)}",
            remedy="train for longer, or let it move faster (a smaller momentum); or run training "
            "data through model(x, training=True) until it rests",
            established=True,
        ),
        bound=bound,
        evidence={
            "layers": paths,
            "evaluation": far.stored.scores,
            "training": far.trained.scores,
            "settled": said.scores,
        },
    )
