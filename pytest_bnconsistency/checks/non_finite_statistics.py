"""Where NaN, Inf and negative variances come from, as far as data and the optimizer can show it.

Which batch of the past it was cannot be read off: what is found is what would do it again. Whoever
asks restores the subject's state.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.checks import unusable_statistics
from pytest_bnconsistency.checks.budget import MORE_TIME, Tries
from pytest_bnconsistency.checks.unusable_statistics import Numbers, Why, tried
from pytest_bnconsistency.data.arrays import Array, all_finite
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.batch_statistics import batch_statistics, run_from
from pytest_bnconsistency.measurement.input_moments import pass_with_moments, variances_in
from pytest_bnconsistency.measurement.normalization_layers import find_tracked
from pytest_bnconsistency.measurement.observed_updates import skipped_overflow
from pytest_bnconsistency.measurement.population import Estimate
from pytest_bnconsistency.measurement.stored_statistics import NormalizationLayer
from pytest_bnconsistency.measurement.swapped_statistics import REMEDY, swapped
from pytest_bnconsistency.measurement.tracked_variables import Tracked, write_statistics
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.words import counted, listed

USUAL = "one batch with NaN or Inf, or an overflow, stays in a moving average for ever"
SHOWN = 5
SEARCHED = 8
"""Rows are looked for one by one in so many batches at most."""


def not_finite(subject: Subject, data: Data | None, size: int) -> Why:
    """Why statistics are NaN or Inf: rows or empty batches of the data, or a skipped step."""

    @tried(USUAL)
    def why(n: NormalizationLayer) -> Explanation:
        tested, tries, reasons = [], Tries(), _not_finite(subject, data, size, n)
        while tries.may("rows, batches and steps that make NaN or Inf"):
            reason = next(reasons, None)
            if reason is None:
                break
            if reason.established:
                return reason
            tested.append(reason.tested)
        if tries.cut:
            tested.append(MORE_TIME)
        return Explanation(cause=USUAL, tested="; ".join(tested))

    return why


def negative_variance(subject: Subject, data: Data | None, size: int) -> Why:
    """Why a variance is negative: the momentum, or values in each other's place."""

    @tried(unusable_statistics.MIXED_UP)
    def why(n: NormalizationLayer) -> Explanation | None:
        reason = unusable_statistics.negative_variance(n)
        if data is None or reason is None or reason.established:
            return reason
        given = _Given(subject, data, size, n)
        more = given.swapped() or given.only_what_is_stored()
        return (
            more
            if more.established
            else Explanation(cause=reason.cause, tested=f"{reason.tested}; {more.tested}")
        )

    return why


def empty_batches(
    training: Pass, data: Data, variables: Sequence[Any], place: str
) -> Explanation | None:
    """Whether the data holds batches of zero rows, and these make the statistics NaN."""
    if not data.empty_batches:
        return None
    try:
        after, _, _ = run_from(training, data.take([]).x, variables, 0.0)
    except Exception:  # a model that refuses an empty batch is not poisoned by one
        return None
    if all_finite(after):
        return None
    return Explanation(
        cause=f"the data holds batches of zero rows ({data.empty_batches}), and the mean of "
        f"nothing is NaN: it stays in the statistics of {place} for ever",
        tested="one training pass over zero rows makes the statistics NaN",
        established=True,
        remedy="filter empty batches out, then recalibrate(model, x)",
    )


def _not_finite(
    subject: Subject, data: Data | None, size: int, n: NormalizationLayer
) -> Iterator[Explanation]:
    skipped = _skipped(subject, n)
    given = None if data is None else _Given(subject, data, size, n)
    if given is not None:
        empty = empty_batches(given.training, given.data, given.variables, n.path)
        if empty is not None:
            yield empty
        yield given.bad_rows()
        if (beyond := given.beyond_dtype()) is not None:
            yield beyond
    if skipped is not None:
        yield skipped
    if given is not None:
        yield given.only_what_is_stored()
    else:
        yield Explanation(cause=USUAL, tested=unusable_statistics.never_forgets(n))


def _skipped(subject: Subject, n: NormalizationLayer) -> Explanation | None:
    """Whether the optimizer skips a step that overflows, has done so, and the layer does not."""
    scale = skipped_overflow(subject)
    if scale is None:
        return None
    first, now = scale
    if not now < first:
        return Explanation(
            cause=USUAL,
            tested=f"the optimizer scales the loss, and skipped no step (scale {now:g})",
        )
    taken, said = unusable_statistics.takes_overflow(n)
    return Explanation(
        cause="a batch overflowed or held NaN: the optimizer, which scales the loss, skips such a "
        f"step, and {n.path} does not",
        tested=f"the scale of the loss fell from {first:g} to {now:g} and the weights are finite; "
        f"infinite gradients leave them as they are; {said}",
        established=taken,
        remedy="find what overflows (activations beyond 65504 in float16), then "
        "recalibrate(model, x) or load earlier weights",
    )


class _Given:
    """The model on the data that was given, as far as one of its normalization layers goes."""

    def __init__(self, subject: Subject, data: Data, size: int, n: NormalizationLayer) -> None:
        for layer in subject.layers():
            subject.unfreeze(layer)  # otherwise no batch would reach its statistics
        self.subject, self.data, self.size, self.n = subject, data, size, n
        self.variables = list(n.vectors.values())
        self.training = pass_with_moments(subject, data.take(slice(0, size)).x)

    def bad_rows(self) -> Explanation:
        """Whether rows of the data make the statistics NaN or Inf, and the others do not."""
        path, broken = self.n.path, self.broken
        if not broken:
            return Explanation(
                cause=USUAL,
                tested=f"no batch of this data makes the statistics of {path} NaN or Inf",
            )
        one_by_one = [self._broken_one_by_one(rows) for rows in broken[:SEARCHED]]
        exact = len(broken) <= SEARCHED and all(one_by_one)
        bad = [int(row) for rows in (one_by_one if exact else broken) for row in rows]
        rest = self._batches(np.setdiff1d(np.arange(self.data.rows), bad))
        rows = f"{counted(len(bad), 'row')} of the data ({listed(bad, most=SHOWN)})"
        them = "it" if len(bad) == 1 else "them"
        mended = bool(rest) and all(self._finite(rows) for rows in rest)
        return Explanation(
            cause=f"{rows if exact else f'batches of {rows}'}: NaN or Inf on the way to {path}, "
            "and a moving average never forgets it",
            tested="training passes over this data make the statistics NaN or Inf, without "
            f"{them} {'they stay finite' if mended else 'as well'}",
            established=mended,
            remedy="leave these rows out or scale them, then recalibrate(model, x)",
        )

    def beyond_dtype(self) -> Explanation | None:
        """Whether the variance of what the layer is given is beyond the dtype that keeps it."""
        largest = self._largest_variance()
        for name, variable in self.n.vectors.items():
            limit = float(variable.dtype.max)
            if largest > limit and not all_finite([variable.numpy()]):
                return Explanation(
                    cause=f"an overflow: {name} is kept in {variable.dtype.name}, which holds no "
                    f"number beyond {limit:g}, and a moving average never forgets Inf",
                    tested=f"the inputs of {self.n.path} have a variance of up to {largest:.3g} "
                    "in this data",
                    established=True,
                    remedy="keep statistics in float32 (the dtype policy mixed_float16 does), or "
                    "scale what the layer is given; then train again, or recalibrate(model, x)",
                )
        return None

    def _largest_variance(self) -> float:
        """That of the layer's inputs in a batch; 0 where it is not recorded, or not finite."""
        run = self.training.run(self.data.take(slice(0, self.size)).x)
        calls = zip(self.training.calls, run.records, strict=True)
        variances = [
            variance
            for call, record in calls
            if call.layer is self.n.layer
            for variance in variances_in(record)
        ]
        known = bool(variances) and all_finite(variances)
        return max(float(variance.max()) for variance in variances) if known else 0.0

    def only_what_is_stored(self) -> Explanation:
        """Whether evaluation is NaN, and finite with the population statistics of the data."""
        if self.broken:
            return Explanation(cause=USUAL, tested="so this data tells no population statistics")
        inference = Pass(self.subject, self.data.take([0]).x, training=False)
        before = self._says(inference)
        tracked, values = self._population()
        write_statistics(tracked, values)
        after = self._says(inference)
        return Explanation(
            cause="only what is stored: under statistics of this data all is finite; what made it "
            "so can't be told from the model",
            tested=f"with the stored statistics, evaluation of this data is {before.described}; "
            f"with its population statistics {after.described}",
            established=not before.finite and bool(after.finite),
        )

    def swapped(self) -> Explanation | None:
        """Whether the layer's vectors are nearer to those of the data in other places."""
        tracked, values = self._population()
        stored = [t.stored for t in tracked]
        found = swapped(tracked, stored, values)
        if found is None or all(t.layer is not self.n.layer for t in found.places):
            return None
        return Explanation(cause=found.cause, tested=found.tested, established=True, remedy=REMEDY)

    @functools.cached_property
    def broken(self) -> list[Array]:
        """The rows of the batches that make the statistics NaN or Inf."""
        everything = np.arange(self.data.rows)
        return [rows for rows in self._batches(everything) if not self._finite(rows)]

    def _broken_one_by_one(self, rows: Array) -> list[int]:
        return [int(row) for row in rows if not self._finite(np.array([row]))]

    def _batches(self, rows: Array) -> list[Array]:
        return [rows[start : start + self.size] for start in range(0, len(rows), self.size)]

    def _finite(self, rows: Array) -> bool:
        some = self.data.take(rows).x
        return all_finite(run_from(self.training, some, self.variables, 0.0)[0])

    def _says(self, inference: Pass) -> Numbers:
        outputs = (inference.run(batch.x).outputs for batch in self.data.batches(self.size))
        return Numbers(all(map(all_finite, outputs)))

    def _population(self) -> tuple[list[Tracked], list[Array]]:
        tracked = find_tracked(self.training, self.data.take(slice(0, self.size)).x)
        batches = self.data.batches(self.size)
        seen = batch_statistics(self.training, tracked, batches)
        return tracked, Estimate(tracked, seen).population
