"""The rows as evaluation gives them to the model: a `test_step` of its own may prepare them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.data.arrays import Nest, flatten, map_nest
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.state import preserve_state

FEW = 2
NOTE = (
    "the model's own test_step prepares the rows: statistics and scores are of what it gives the "
    "model"
)


def as_evaluated(context: CheckContext) -> CheckContext:
    """The context with the rows, and targets, that `test_step` gives the model; the same one where
    it gives it x as it is, or where that can't be told.
    """
    return context.once("as evaluated", lambda: _as_evaluated(context))


def _as_evaluated(context: CheckContext) -> CheckContext:
    subject, data = context.subject, context.given
    with preserve_state(subject):
        if _prepared(context, data.take(slice(0, FEW))) is None:
            return context
        parts = [_prepared(context, part) for part in data.batches(context.settings.batch_size)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return context
    leaves = zip(*(flatten(part) for part in known), strict=True)
    joined = iter([np.concatenate(leaf) for leaf in leaves])
    prepared = copy.copy(subject)
    prepared.prepared = True
    x = map_nest(lambda _: next(joined), known[0])
    given = replace(data, x=x, notes=(*data.notes, NOTE), rest=None, form=None)
    return CheckContext(prepared, given, context.settings, context.asked)


def _prepared(context: CheckContext, part: Data) -> Nest | None:
    """What evaluation gives the model for some rows; None if that is x, or draws, or is of other
    shapes.
    """
    first, again = (context.subject.rows_in_evaluation(part) for _ in range(2))
    if first is None or again is None:
        return None
    x, mine, its = flatten(part.x), flatten(first), flatten(again)
    if [leaf.shape for leaf in x] != [leaf.shape for leaf in mine]:
        return None
    drawn = not all(map(np.array_equal, mine, its))
    return None if drawn or all(map(np.array_equal, mine, x)) else first
