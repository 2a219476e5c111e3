"""The rows as training gives them to the model: steps of the model's own may prepare them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.data.arrays import Nest, flatten, map_nest, take_rows
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.state import preserve_state

FEW = 4
NOTE = (
    "the model's own {step} prepares the rows: statistics and scores are of what it gives the "
    "model"
)


@dataclass(frozen=True)
class Prepared:
    """A context with the rows that the model is given in training, scored by what it says of them.

    It is the context itself where no step prepares them, and where that can't be told. Where
    training can't be told alone, it is taken to do what evaluation does. `alike` says that both
    steps give the model the same, `by_batch` that what training gives it of a row hangs on the
    other rows of its batch.
    """

    context: CheckContext
    by_training: bool = False
    by_evaluation: bool = False
    alike: bool = True
    by_batch: bool = False


def as_trained(context: CheckContext) -> Prepared:
    return context.once("as trained", lambda: _as_trained(context))


def _as_trained(context: CheckContext) -> Prepared:
    subject = context.subject
    trains = subject.own_training and context.updates() != 0
    found = None
    if trains or "test_step" in subject.own_evaluation():
        with preserve_state(subject):
            found = _prepared(context, trains)
    return found or Prepared(context)


def _prepared(context: CheckContext, trains: bool) -> Prepared | None:
    """What the steps make of the rows; None for nothing, and where that can't be told."""
    subject, data = context.subject, context.given
    few = data.take(slice(0, FEW))
    evaluated = _given(subject.rows_in_evaluation, few)
    if evaluated is None:
        return None
    rows, name, steps = evaluated, "test_step", subject.rows_in_evaluation
    if (trained := _given(subject.rows_in_training, few) if trains else few.x) is not None:
        rows, name, steps = trained, "train_step", subject.rows_in_training
    alike, by_training = _same(rows, evaluated), not _same(rows, few.x)
    scored = subject.evaluates and data.y is not None
    if not (by_training if alike else scored):
        return None  # nothing is prepared, or no loss tells what it does to evaluation
    if by_training:
        x = _all_given(steps, context)
        if x is None:
            return None
        notes = (*data.notes, NOTE.format(step=name))
        data = replace(data, x=x, notes=notes, rest=None, form=None)
    prepared = copy.copy(subject)
    prepared.prepared = True
    return Prepared(
        CheckContext(prepared, data, context.settings, context.asked),
        by_training,
        by_evaluation=not _same(evaluated, few.x),
        alike=alike,
        by_batch=not alike and _by_batch(steps, few),
    )


def _all_given(steps: Callable[[Data], Nest | None], context: CheckContext) -> Nest | None:
    parts = [_given(steps, part) for part in context.given.batches(context.settings.batch_size)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    leaves = zip(*(flatten(part) for part in known), strict=True)
    joined = iter([np.concatenate(leaf) for leaf in leaves])
    return map_nest(lambda _: next(joined), known[0])


def _by_batch(steps: Callable[[Data], Nest | None], few: Data) -> bool:
    half = slice(0, few.rows // 2)
    among, between = _given(steps, few), _given(steps, few.take(half))
    return among is not None and between is not None and not _same(take_rows(among, half), between)


def _given(steps: Callable[[Data], Nest | None], part: Data) -> Nest | None:
    """What a step gives the model for some rows; None if it draws, gives other shapes, or gives
    the targets as well.
    """
    y = None if part.y is None else take_rows(part.y, slice(None, None, -1))
    first, again = steps(part), steps(replace(part, y=y))
    if first is None or again is None:
        return None
    shapes = [[leaf.shape for leaf in flatten(rows)] for rows in (part.x, first)]
    return first if shapes[0] == shapes[1] and _same(first, again) else None


def _same(rows: Nest, its: Nest) -> bool:
    return all(map(np.array_equal, flatten(rows), flatten(its)))
