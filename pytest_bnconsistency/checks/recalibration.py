"""The remedy as a function: population statistics instead of moving ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import Estimated, estimated, inference_pass
from pytest_bnconsistency.context import door
from pytest_bnconsistency.data.arrays import Array, all_finite
from pytest_bnconsistency.errors import BNConsistencyError, DataError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.batch_statistics import run_from
from pytest_bnconsistency.measurement.compared_outputs import Side, gap
from pytest_bnconsistency.measurement.tracked_variables import (
    Tracked,
    as_stored,
    tracked_candidates,
    write_statistics,
)
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import is_of_library
from pytest_bnconsistency.words import counted, digits

NOT_FINITE = "are NaN or Inf"
FARTHER, FAR = 1.25, 0.1
"""Population statistics that take evaluation so many times as far from training mode, and by so
many standard deviations, are none that it reads.
"""


def recalibrate(context: CheckContext, frozen: bool) -> list[str]:
    """Write the population statistics of the given data into the model; the changed paths.

    Args:
        context: a subject with data.
        frozen: whether frozen layers get the statistics, too.

    Raises:
        BNConsistencyError: nothing moves in training mode, frozen layers are in the way, a
            statistic of the data is NaN, infinite or beyond the dtype that holds it, or a layer of
            the user's own reads statistics otherwise.
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
        spoilt = "" if tracked else _not_finite(context, known.training)
        _must_fit(tracked, values)
        misread = _misread(context, known) if tracked else ""
    if spoilt:
        raise _unusable(spoilt, NOT_FINITE)
    if not tracked:
        raise _nothing_moves(subject, blocked)
    if misread:
        raise BNConsistencyError(misread)
    before = [t.variable.numpy() for t in tracked]
    write_statistics(tracked, values)
    changed = [
        t.path
        for t, value in zip(tracked, before, strict=True)
        if not np.array_equal(t.variable.numpy(), value)
    ]
    return list(dict.fromkeys(changed))


def _must_fit(tracked: Sequence[Tracked], values: Sequence[Array]) -> None:
    for t, value in zip(tracked, values, strict=True):
        if not all_finite([as_stored(t, value)]):
            reached = float(np.abs(value).max())
            beyond = f"reach {reached:.3g}, which {t.variable.dtype.name} does not hold"
            raise _unusable(t.path, beyond if math.isfinite(reached) else NOT_FINITE)


def _misread(context: CheckContext, known: Estimated) -> str:
    """Why these statistics are not what evaluation reads, "" where nothing speaks for that.

    Layers of a library's own are known to read them as they are.
    """
    tracked, batch = known.tracked, known.batches[0]
    trained, own = Side(known.seen[0].outputs), [t for t in tracked if not is_of_library(t.layer)]
    if not own or not trained.outputs:
        return ""

    def distance() -> float:
        return gap(Side(inference_pass(context).over([batch])), trained, batch).outputs

    before = distance()
    write_statistics(tracked, known.estimate.population)
    after = distance()
    if not after > max(FARTHER * before, FAR):
        return ""
    return (
        f"with the statistics of this data, evaluation is {digits(after, 2)} standard deviations "
        f"from training mode, and {digits(before, 2)} with the stored ones, so nothing was "
        f"written; expected layers that read statistics as they are: {own[0].path} may divide "
        "them by a count of the updates, or keep them in another form"
    )


def _not_finite(context: CheckContext, training: Pass) -> str:
    """The first layer whose state a pass in training mode makes NaN or Inf, "" if it does none."""
    subject, x = context.subject, context.given.take(slice(0, context.settings.batch_size)).x
    owned = [(layer, v) for layer in subject.layers() for v in tracked_candidates(subject, layer)]
    after, _, _ = run_from(training, x, [variable for _, variable in owned], 0.0)
    spoilt = (
        subject.path(layer)
        for (layer, _), value in zip(owned, after, strict=True)
        if not all_finite([value])
    )
    return next(spoilt, "")


def _unusable(path: str, why: str) -> BNConsistencyError:
    return BNConsistencyError(
        f"the statistics of this data in {path} {why}, so nothing was written; expected data and "
        "weights that run in training mode with finite numbers, and a dtype that holds them "
        "(the dtype policy mixed_float16 keeps statistics in float32)"
    )


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
