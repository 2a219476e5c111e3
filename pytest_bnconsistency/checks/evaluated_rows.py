"""The rows as evaluation gives them to the model: a `test_step` of its own may prepare them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.data.arrays import Nest, flatten, map_nest
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.models import Subject

FEW = 2
NOTE = (
    "the model's own test_step prepares the rows: statistics and scores are of what it gives the "
    "model"
)


def as_evaluated(context: CheckContext) -> CheckContext:
    """The context with the rows that `test_step` gives the model, scored by what the model says of
    them; with those that are given, if training has them so.

    The same context where evaluation gives the model x as it is, or where that can't be told.
    """
    return context.once("as evaluated", lambda: _as_evaluated(context))


def prepared_by_evaluation_only(context: CheckContext) -> bool:
    """Whether evaluation gives the model other rows, and training those that are given."""
    evaluated = as_evaluated(context)
    return evaluated is not context and evaluated.given is context.given


def _as_evaluated(context: CheckContext) -> CheckContext:
    subject, data = context.subject, context.given
    if "test_step" not in subject.own_evaluation():
        return context
    few = data.take(slice(0, FEW))
    prepared = copy.copy(subject)
    prepared.prepared = True
    with preserve_state(subject):
        seen = _given(subject, few)
        if seen is None or not _changed(seen, few):
            return context
        trained = subject.rows_in_training(few)
        if trained is not None and not _changed(trained, few):
            return CheckContext(prepared, data, context.settings, context.asked)
        batches = data.batches(context.settings.batch_size)
        parts = [_given(subject, part) for part in batches]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return context
    leaves = zip(*(flatten(part) for part in known), strict=True)
    joined = iter([np.concatenate(leaf) for leaf in leaves])
    x = map_nest(lambda _: next(joined), known[0])
    given = replace(data, x=x, notes=(*data.notes, NOTE), rest=None, form=None)
    return CheckContext(prepared, given, context.settings, context.asked)


def _given(subject: Subject, part: Data) -> Nest | None:
    """What evaluation gives the model for some rows; None if it draws, or gives other shapes."""
    first, again = (subject.rows_in_evaluation(part) for _ in range(2))
    if first is None or again is None:
        return None
    x, mine, its = flatten(part.x), flatten(first), flatten(again)
    alike = [leaf.shape for leaf in x] == [leaf.shape for leaf in mine]
    return first if alike and all(map(np.array_equal, mine, its)) else None


def _changed(rows: Nest, part: Data) -> bool:
    return not all(map(np.array_equal, flatten(rows), flatten(part.x)))
