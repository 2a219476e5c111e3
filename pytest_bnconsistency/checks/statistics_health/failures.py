"""Stored statistics that cannot be used: each a failure, and only then is its cause tried."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from pytest_bnconsistency.checks import non_finite_statistics
from pytest_bnconsistency.checks import unusable_statistics as causes
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import batch_size
from pytest_bnconsistency.checks.statistics_health.channels import IMAGES, channels_lie_along
from pytest_bnconsistency.checks.unusable_statistics import Why
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import Recorded
from pytest_bnconsistency.execution.state import Variables, preserve_state, same_bits
from pytest_bnconsistency.measurement.stored_statistics import NormalizationLayer
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.results import Finding
from pytest_bnconsistency.rules.catalogue import (
    MOMENTUM,
    NARROW,
    NEGATIVE_VARIANCE,
    NOT_ADAPTED,
    NOT_FINITE,
    WRONG_AXIS,
    Rule,
)
from pytest_bnconsistency.words import counted

Place = tuple[NormalizationLayer, str]
LARGE_MOMENTUM = 0.5
"""Above it, an update moves a statistic by less than half of the distance."""


def unusable(
    context: CheckContext, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Finding]:
    """What is certainly wrong. Nothing runs unless something is."""
    size = (
        batch_size(context, context.data)
        if context.data is not None
        else context.settings.batch_size
    )
    data, axis = context.data, channel_axis(context.subject)
    for rule, places, why, remedy in (
        (
            NOT_FINITE,
            _not_finite(normalization_layers),
            non_finite_statistics.not_finite(context.subject, data, size),
            "find the batch (NaN in the data, or loss scaling that skips the optimizer but not "
            "the statistics), then recalibrate(model, x) or load earlier weights",
        ),
        (
            NEGATIVE_VARIANCE,
            _negative(normalization_layers),
            non_finite_statistics.negative_variance(context.subject, data, size),
            "check the order of ported weights, and that momentum lies in [0, 1]; then "
            "recalibrate(model, x)",
        ),
        (
            MOMENTUM,
            _momentum(normalization_layers),
            causes.degenerate_momentum,
            "momentum 0.9 to 0.99",
        ),
        (
            NARROW,
            _narrow(normalization_layers),
            causes.rounded_away,
            "use a mixed policy (mixed_bfloat16, mixed_float16), which keeps variables in float32",
        ),
        (
            WRONG_AXIS,
            _wrong_axis(normalization_layers, axis),
            causes.wrong_axis(axis or -1, functools.partial(_fits, context, axis or -1)),
            "axis=-1 for channels-last data, axis=1 for channels-first",
        ),
        (
            NOT_ADAPTED,
            _not_adapted(context, normalization_layers),
            causes.not_adapted,
            "call adapt(training data) before the model is trained, or give mean and variance",
        ),
        (
            NOT_ADAPTED,
            _not_in_use(context.subject, normalization_layers),
            causes.not_in_use,
            "call finalize_state() of the layer after set_weights; or load by load_weights, which "
            "does",
        ),
    ):
        yield from _finding(context.subject, rule, list(places), why, remedy)


def channel_axis(subject: Subject) -> int | None:
    """The axis of the model's channels, where the data formats of its layers are one."""
    formats = {getattr(layer, "data_format", None) for layer in subject.layers()} - {None}
    if len(formats) != 1:
        return None
    return -1 if formats == {"channels_last"} else 1


def _fits(context: CheckContext, channels: int, n: NormalizationLayer) -> bool:
    """Whether the statistics are those of channels, where a run of the model tells it."""
    own, rank = n.axis or (channels, 0)
    try:
        found = channels_lie_along(context.subject, n.layer, context.sample(), channels)
    except Exception:  # no rows can be made, or the model refuses them: what is read must do
        found = set()
    return own in found if found else rank < IMAGES


def _not_finite(normalization_layers: Sequence[NormalizationLayer]) -> Iterator[Place]:
    for n in normalization_layers:
        for name, variable in n.vectors.items():
            bad = int((~np.isfinite(np.asarray(variable.numpy(), float))).sum())
            if bad:
                channels = variable.shape.num_elements()
                yield n, f"{name} has NaN or Inf in {bad} of {channels} channels"


def _negative(normalization_layers: Sequence[NormalizationLayer]) -> Iterator[Place]:
    for n in normalization_layers:
        for name, value in n.variances():
            bad = int((value < 0).sum())
            if bad:
                lowest = np.nanmin(value)
                yield (
                    n,
                    f"{name} is negative in {bad} of {value.size} channels, down to {lowest:.3g}",
                )


def _momentum(normalization_layers: Sequence[NormalizationLayer]) -> Iterator[Place]:
    for n in normalization_layers:
        if n.trainable and n.momentum is not None and not 0 < n.momentum < 1:
            yield n, f"momentum is {n.momentum:g}"


def _narrow(normalization_layers: Sequence[NormalizationLayer]) -> Iterator[Place]:
    for n in normalization_layers:
        if n.trainable and n.momentum is not None and LARGE_MOMENTUM < n.momentum < 1:
            for name, variable in n.vectors.items():
                if variable.dtype.size == 2:
                    yield n, f"{name} is kept in {variable.dtype.name}"


def _wrong_axis(
    normalization_layers: Sequence[NormalizationLayer], channels: int | None
) -> Iterator[Place]:
    for n in normalization_layers if channels is not None else ():
        if n.axis is None or n.axis[1] < 3 or n.adapts:
            continue
        axis, rank = n.axis
        if axis != (channels or 0) % rank:
            size = next(iter(n.vectors.values())).shape.num_elements()
            yield (
                n,
                f"axis {axis} of a channels-{'last' if channels == -1 else 'first'} model: {size} "
                "statistics, one for each place and not for each channel",
            )


def _not_adapted(
    context: CheckContext, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Place]:
    for n in normalization_layers:
        if n.adapts and n.fresh and not _is_fresh_when_adapted(context, n):
            yield n, "mean 0 and variance 1, as built: the layer changes nothing"


def _is_fresh_when_adapted(context: CheckContext, n: NormalizationLayer) -> bool:
    """Whether the data is such that `adapt` would leave the layer as it was built."""
    if context.data is None:
        return False
    x, recorded = context.data.x, Recorded()
    try:
        with preserve_state(context.subject):
            seen = Pass(context.subject, x, training=False, instrument=recorded, traced=False)
            seen.run(x)
            calls = [c for c in (*seen.passing_calls, *seen.calls) if c.layer is n.layer]
            before = Variables(list(n.vectors.values()))
            n.layer.adapt(recorded.given[calls[0].label][0])
            return not before.moved()
    except Exception:  # the model refuses the data, or the layer does not run by itself
        return False


def _not_in_use(
    subject: Subject, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Place]:
    for n in normalization_layers:
        if n.adapts and not n.fresh and not _is_in_use(subject, n):
            yield n, "the stored mean and variance are not those that the layer normalises by"


def _is_in_use(subject: Subject, n: NormalizationLayer) -> bool:
    """Whether the layer does the same when it is told to use what it stores."""
    try:
        with preserve_state(subject):
            _, before, after = causes.by_what_is_stored(n)
        return same_bits(before, after)
    except Exception:  # it can't run by itself
        return True


def _finding(
    subject: Subject, rule: Rule, places: list[Place], why: Why, remedy: str
) -> Iterator[Finding]:
    """The finding about the first place that does not turn out to be sound when it is tried."""
    while places:
        n, what = places[0]
        with preserve_state(subject):
            reason = why(n)
        if reason is not None:
            break
        places = [(other, said) for other, said in places if other is not n]
    else:
        return
    more = len({other.path for other, _ in places}) - 1
    others = f"; so in {counted(more, 'more layer')}" if more else ""
    yield rule.finding(
        layer=n.path,
        layers=dict.fromkeys(other.path for other, _ in places),
        message=f"{what}, in {n.path}{others}",
        explanation=causes.described(reason, remedy),
        bound="no tolerance: read off the stored values",
        evidence={"places": [f"{other.path}: {said}" for other, said in places]},
    )
