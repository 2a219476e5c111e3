"""The remedy as a function: population statistics instead of moving ones."""

from __future__ import annotations

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import estimated
from pytest_bnconsistency.context import door
from pytest_bnconsistency.errors import BNConsistencyError, DataError
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates, write_statistics
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.words import counted


def recalibrate(context: CheckContext, frozen: bool) -> list[str]:
    """Write the population statistics of the given data into the model; the changed paths.

    Args:
        context: a subject with data.
        frozen: whether frozen layers get the statistics, too.

    Raises:
        BNConsistencyError: nothing moves in training mode, frozen layers are in the way, or a
            statistic of the data is NaN or infinite.
    """
    if context.data is None:
        raise DataError("recalibrate needs data and got none; give training data")
    subject = context.subject
    with preserve_state(subject), door.get().progress.of("recalibrate"):
        if frozen:
            for layer in subject.layers():
                subject.unfreeze(layer)
        known = estimated(context)
        tracked, values = known.tracked, known.estimate.population
        blocked = [] if frozen else _frozen(context)
    if not tracked:
        raise _nothing_moves(subject, blocked)
    for t, value in zip(tracked, values, strict=True):
        if not np.isfinite(value).all():
            raise BNConsistencyError(
                f"the statistics of this data in {t.path} are NaN or Inf, so nothing was "
                "written; expected data and weights that run in training mode with finite numbers"
            )
    before = [t.variable.numpy() for t in tracked]
    write_statistics(tracked, values)
    changed = [
        t.path
        for t, value in zip(tracked, before, strict=True)
        if not np.array_equal(t.variable.numpy(), value)
    ]
    return list(dict.fromkeys(changed))


def _nothing_moves(subject: Subject, blocked: list[str]) -> BNConsistencyError:
    why = "expected a normalization layer"
    if blocked:
        why = (
            f"{counted(len(blocked), 'layer')} ({blocked[0]} first) must not be changed since "
            "they are frozen: write recalibrate(model, data, frozen=True) to change them"
        )
    return BNConsistencyError(
        f"no layer of model {subject.name!r} has statistics that move in training mode; {why}"
    )


def _frozen(context: CheckContext) -> list[str]:
    """Layers that hold statistics and that a flag keeps from moving."""
    subject = context.subject
    return [
        subject.path(layer)
        for layer in subject.layers()
        if not subject.trainable(layer)
        and hasattr(layer, "epsilon")
        and tracked_candidates(subject, layer)
    ]
