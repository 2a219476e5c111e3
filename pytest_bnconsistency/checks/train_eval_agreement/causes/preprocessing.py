"""Data that is preprocessed otherwise than in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import RIVALS, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.input_changes import (
    FAR_LESS,
    Change,
    by_channel,
    by_feature,
    one_for_all,
    usual_changes,
)
from pytest_bnconsistency.checks.train_eval_agreement.causes.preprocessing_layers import misfits
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import (
    Candidate,
    InputTrial,
    best,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import flatten, is_float
from pytest_bnconsistency.rules import catalogue as rules


def preprocessed(m: Measured) -> Iterator[Cause]:
    """The data under other preprocessing: what of it gives the stored statistics?

    Usual changes are tried first, then layers of preprocessing, then what fits best.
    """
    leaves = [i for i, leaf in enumerate(flatten(m.data.x)) if is_float(leaf)]
    every = [InputTrial(m, i) for i in ([None, *leaves] if len(leaves) > 1 else leaves)]
    inputs = [trial for trial in every if not trial.contradicted]
    found: list[Candidate] = []
    for more in (
        _changed(inputs, usual_changes),
        misfits(m),
        _changed(inputs, by_feature),
        _changed(inputs, one_for_all),
        _changed(inputs, by_channel),
    ):
        found += more
        if any(candidate.tried.decides for candidate in found):
            break
    cause = best(found)
    if cause is not None:
        yield cause


def _changed(
    inputs: Sequence[InputTrial], changes: Callable[[InputTrial], Iterator[Change]]
) -> Iterator[Candidate]:
    for trial in inputs:
        for change in changes(trial):
            yield from _explaining(trial, change)


def _explaining(trial: InputTrial, change: Change) -> Iterator[Candidate]:
    tried = trial.tried(change.apply)
    if tried is None or not tried.explains:
        return
    # Standardised features have the statistics that a normalization layer begins with, and some
    # change of the data brings any statistics nearer.
    # Numbers that are free to fit must leave far less unexplained.
    rival = 1 - (1 - tried.initial) / FAR_LESS if change.free else tried.initial - RIVALS
    if tried.share > rival:
        known, stored = (
            "the model knows its data",
            "the statistics of this data are what is stored",
        )
        cause = Cause.tested(
            rules.SHIFT,
            cause=f"the statistics are those of {change.name}: this data is preprocessed "
            f"otherwise than the training data{change.rival and ', or '}{change.rival}",
            tested=f"with {change.name} {known if tried.mends else stored}; {tried.said}",
            remedy=f"the model was trained on {change.name}: give evaluation the preprocessing of "
            "training (best inside the model)",
            share=tried.share,
            sure=tried.mends,
        )
        yield Candidate(cause, tried, change.weight, change.name)
