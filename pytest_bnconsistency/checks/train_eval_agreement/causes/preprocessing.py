"""Data that is preprocessed otherwise than in training."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import MOST, RIVALS, Cause
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
    EachInputTrial,
    How,
    InputTrial,
    Transform,
    Trial,
    best,
    float_inputs,
)
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.arrays import flatten, sorted_keys
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

Changes = Callable[[InputTrial], Iterator[Change[Transform]]]
FITTED_CHANGES: tuple[Changes, ...] = (by_feature, one_for_all, by_channel)
CHANGES: tuple[Changes, ...] = (usual_changes, *FITTED_CHANGES)
SETTLED = 0.05
"""Where a change leaves less of an input's own statistics unexplained, no other is tried."""
MOST_EACH, MOST_TOGETHER = 2, 8
"""So many changes of each input are tried, and so many of all at once."""


def preprocessed(m: Measured) -> Iterator[Cause]:
    """The data under other preprocessing: what of it gives the stored statistics?

    Of several inputs each may be changed in its own way, which the statistics that it alone moves
    tell. Else usual changes are tried first, then layers of preprocessing, then what fits best.
    """
    floats = float_inputs(m)
    each = [InputTrial(m, [index]) for index in floats]
    alone = _alone(each) if len(each) > 1 else []
    others = [trial for trial in each if trial.at not in [own.at for own in alone]]
    every = [InputTrial(m, floats), *others] if len(each) > 1 else each
    inputs = [trial for trial in every if not trial.contradicted]
    found: list[Candidate] = []
    for more in (
        _each_changed(m, alone),
        _changed(inputs, usual_changes),
        misfits(m),
        *(_changed(inputs, changes) for changes in FITTED_CHANGES),
    ):
        found += more
        if any(candidate.tried.decides for candidate in found):
            break
    cause = best(found)
    if cause is not None:
        yield cause


def _alone(each: Sequence[InputTrial]) -> list[InputTrial]:
    """The inputs that move statistics which no other input moves, to be judged by these."""
    found = []
    for trial in each:
        others = {place for other in each if other is not trial for place in other.moves}
        if own := [place for place in trial.moves if place not in others]:
            found.append(trial.judged_by(own))
    return found


def _each_changed(m: Measured, alone: Sequence[InputTrial]) -> Iterator[Candidate]:
    """What fits each input best, all of it at once."""
    fitting = {t.at[0]: found for t in alone if not t.contradicted and (found := _fitting(t))}
    for chosen in itertools.islice(itertools.product(*fitting.values()), MOST_TOGETHER):
        if not chosen:
            return
        rivals = {change.rival for change in chosen}
        together = Change[Mapping[int, Transform]](
            _of_inputs(dict(zip(fitting, chosen, strict=True)), m),
            {index: change.apply for index, change in zip(fitting, chosen, strict=True)},
            max(change.weight for change in chosen),
            free=any(change.free for change in chosen),
            rival=rivals.pop() if len(rivals) == 1 else "",
            doubted=any(change.doubted for change in chosen),
        )
        for candidate in _explaining(EachInputTrial(m), together):
            yield candidate
            if candidate.tried.decides:
                return


def _fitting(trial: InputTrial) -> list[Change[Transform]]:
    """The changes that leave least of what is stored unexplained, of those that explain most."""
    fitting, doubted = list[tuple[float, Change[Transform]]](), list[Change[Transform]]()
    for changes in CHANGES:
        if not Tries().may("other preprocessing"):
            break
        for change in changes(trial):
            left = 1 - trial.explained_by(change.apply)
            if left < 1 - MOST and change.doubted:
                doubted.append(change)
            elif left < 1 - MOST:
                fitting.append((change.weight * left, change))
        fitting.sort(key=lambda found: found[0])
        if fitting and fitting[0][0] < SETTLED:
            break
    return [change for _, change in fitting[:MOST_EACH]] or doubted


def _changed(inputs: Sequence[InputTrial], changes: Changes) -> Iterator[Candidate]:
    for trial in inputs:
        for change in changes(trial):
            name = _of_inputs(dict.fromkeys(trial.at, change), trial.m)
            yield from _explaining(trial, dataclasses.replace(change, name=name))


def _of_inputs(changes: Mapping[int, Change[Transform]], m: Measured) -> str:
    """The names of what is done to inputs, and to which, where a model has several."""
    x = m.data.x
    count = len(flatten(x))
    known = sorted_keys(x) if isinstance(x, Mapping) else m.subject.input_names()
    names = known if len(known) == count else range(count)
    inputs: dict[str, list[str]] = {}
    for index, change in changes.items():
        inputs.setdefault(change.name, []).append(f"{names[index]!r}")
    if len(changes) == len(float_inputs(m)) and len(inputs) == 1:
        return next(iter(inputs))
    return listed(
        f"{name} for input{'s' * (len(of) > 1)} {listed(of)}" for name, of in inputs.items()
    )


def _explaining(trial: Trial[How], change: Change[How]) -> Iterator[Candidate]:
    tried = trial.tried(change.apply)
    if tried is None or not tried.explains or (change.doubted and not tried.restores):
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
        yield Candidate(cause, tried, change.weight, change.name, change.doubted)
