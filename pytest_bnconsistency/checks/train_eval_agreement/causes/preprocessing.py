"""Data that is preprocessed otherwise than in training."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
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
from pytest_bnconsistency.data.arrays import paths
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

Changes = Callable[[InputTrial], Iterator[Change[Transform]]]
FITTED_CHANGES: tuple[Changes, ...] = (by_feature, one_for_all, by_channel)
CHANGES: tuple[Changes, ...] = (usual_changes, *FITTED_CHANGES)
SETTLED = 0.05
"""Where a change leaves less of an input's own statistics unexplained, no other is tried."""
PREPARE = "give evaluation the preprocessing of training (best inside the model)"
LIKENESS = (
    PREPARE
    + ", which does much as {} does; or, if it was trained on the data as given, other rows "
    "passed it in training mode since (a validation with training=True): recalibrate(model, x)"
)
MOST_EACH, MOST_TOGETHER = 2, 8
"""So many changes of each input are tried, and so many of all at once."""


def preprocessed(m: Measured) -> Iterator[Cause]:
    """The data under other preprocessing: what of it gives the stored statistics?

    Of several inputs each may be changed in its own way, which the statistics that it alone moves
    tell. Else usual changes are tried first, then layers of preprocessing, then what fits best.
    """
    separate = _separate(m)
    inputs = _all_and_others(m, separate)
    found: list[Candidate] = []
    for more in (
        _each_changed(m, separate),
        _changed(inputs, usual_changes),
        misfits(m),
        *(_changed(inputs, changes) for changes in FITTED_CHANGES),
    ):
        found += more
        if any(candidate.decides for candidate in found):
            break
    cause = best(found)
    if cause is not None:
        yield cause


def _separate(m: Measured) -> list[InputTrial]:
    """Of several inputs each, to be judged by the statistics that no other input moves."""
    floats = float_inputs(m)
    each = [InputTrial(m, [index]) for index in floats] if len(floats) > 1 else []
    owners = Counter(place for trial in each for place in trial.moves)
    judged = [trial.judged_by([i for i in trial.moves if owners[i] == 1]) for trial in each]
    return [trial for trial in judged if trial.among]


def _all_and_others(m: Measured, separate: Sequence[InputTrial]) -> list[InputTrial]:
    """All inputs in one, where there are several, and each that is not `separate`."""
    floats = float_inputs(m)
    others = [[index] for index in floats if [index] not in [trial.at for trial in separate]]
    every = [floats, *others] if len(floats) > 1 else others
    return _possible([InputTrial(m, at) for at in every])


def _each_changed(m: Measured, separate: Sequence[InputTrial]) -> Iterator[Candidate]:
    """What fits each input best, all of it at once."""
    fitting = [(t.at[0], changes) for t in _possible(separate) if (changes := _fitting(t))]
    choices = [[(index, change) for change in changes] for index, changes in fitting]
    if not choices:
        return
    trial = EachInputTrial(m)
    for chosen in itertools.islice(itertools.product(*choices), MOST_TOGETHER):
        for candidate in _explaining(trial, _together(m, dict(chosen))):
            yield candidate
            if candidate.decides:
                return


def _possible(inputs: Sequence[InputTrial]) -> list[InputTrial]:
    return [trial for trial in inputs if not trial.contradicted]


def _together(
    m: Measured, changes: Mapping[int, Change[Transform]]
) -> Change[Mapping[int, Transform]]:
    rivals = {change.rival for change in changes.values()}
    return Change(
        _of_inputs(changes, m),
        {index: change.apply for index, change in changes.items()},
        max(change.weight for change in changes.values()),
        free=any(change.free for change in changes.values()),
        rival=rivals.pop() if len(rivals) == 1 else "",
        doubted=tuple(sign for change in changes.values() for sign in change.doubted),
    )


def _fitting(trial: InputTrial) -> list[Change[Transform]]:
    """The changes that leave least of what is stored unexplained, of those that explain most.

    Doubted ones count where there are no others.
    """
    fitting: list[tuple[bool, float, Change[Transform]]] = []
    for changes in CHANGES:
        if not Tries().may("other preprocessing"):
            break
        left = [(1 - trial.explained_by(change.apply), change) for change in changes(trial)]
        fitting += [(bool(c.doubted), c.weight * by, c) for by, c in left if by < 1 - MOST]
        fitting.sort(key=lambda found: found[:2])
        if fitting and fitting[0][:2] < (False, SETTLED):
            break
    return [change for doubted, _, change in fitting if doubted == fitting[0][0]][:MOST_EACH]


def _changed(inputs: Sequence[InputTrial], changes: Changes) -> Iterator[Candidate]:
    for trial in inputs:
        for change in changes(trial):
            name = _of_inputs(dict.fromkeys(trial.at, change), trial.m)
            yield from _explaining(trial, dataclasses.replace(change, name=name))


def _of_inputs(changes: Mapping[int, Change[Transform]], m: Measured) -> str:
    """The names of what is done to inputs, and to which, where a model has several."""
    names = paths(m.data.x)
    if not isinstance(m.data.x, Mapping) and len(known := m.subject.input_names()) == len(names):
        names = known
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
    # Numbers that are free to fit must leave far less unexplained; and few updates leave what
    # nobody knows.
    if change.free and trial.m.few_updates and not (tried.mends or tried.decides):
        return
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
            remedy=LIKENESS.format(change.name)
            if change.free and not tried.mends
            else f"the model was trained on {change.name}: {PREPARE}",
            share=tried.share,
            sure=tried.mends,
        )
        yield Candidate(cause, tried, change.weight, change.name, change.doubted)
