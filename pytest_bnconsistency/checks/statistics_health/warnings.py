"""Stored statistics that are unusual: each a warning, since it may be meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.checks import unusable_statistics
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.unusable_statistics import Why
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.stored_statistics import NormalizationLayer
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import name_of, widens
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import counted, listed

SMALLEST_MOMENTUM = 0.5
USUAL_EPSILON = (1e-6, 1e-2)
OTHER_EPSILON = 1e-5
"""What other frameworks add to a variance."""
HARMLESS_GAIN = 1.0
"""What reaches a channel without variance is not enlarged: gamma took back what epsilon allows."""
FACTOR, SHARE = 2.0, 0.1
"""Another epsilon matters if it moves a share of the channels by this factor."""


def unusual(
    subject: Subject, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Finding]:
    moving = [n for n in normalization_layers if not n.adapts]
    odd = [n for n in moving if n.epsilon is not None and not _is_usual(n.epsilon)]
    yield from _small_momentum(moving)
    yield from _odd_epsilon(odd)
    yield from _other_epsilon(subject, [n for n in moving if n not in odd])
    yield from _dead(subject, normalization_layers)
    yield from _untrained(subject, moving)
    yield from _axis(subject, moving)
    yield from _graph(subject, moving)


def _small_momentum(moving: Sequence[NormalizationLayer]) -> Iterator[Finding]:
    small = [n for n in moving if n.momentum is not None and 0 < n.momentum < SMALLEST_MOMENTUM]
    if small:
        momentum, measured = small[0].momentum or 0.0, small[0].measured is not None
        kept = f"an update keeps {momentum:.0%} of what is stored"
        yield _warning(
            rules.SMALL_MOMENTUM,
            small,
            f"{kept if measured else f'momentum {momentum:g}'} in {_named(small)}: the statistics "
            "are about the last batches only",
            f"other frameworks count momentum the other way round: {momentum:g} there is "
            f"{1 - momentum:g} here",
            "a momentum by which an update keeps 90% to 99%"
            if measured
            else f"momentum {1 - momentum:g}, or 0.9 to 0.99",
        )


def _is_usual(epsilon: float) -> bool:
    low, high = USUAL_EPSILON
    return low <= epsilon <= high


def _odd_epsilon(odd: Sequence[NormalizationLayer]) -> Iterator[Finding]:
    low, high = USUAL_EPSILON
    if odd:
        yield _warning(
            rules.EPSILON,
            odd,
            f"epsilon {odd[0].epsilon:g} in {_named(odd)} is unusual",
            f"outside of {low:g} to {high:g}",
            "epsilon 1e-3, or that of the framework that the weights come from",
        )


def _untrained(subject: Subject, moving: Sequence[NormalizationLayer]) -> Iterator[Finding]:
    fresh = [n for n in moving if n.fresh]
    if fresh and _trained(subject, moving):
        yield _warning(
            rules.UNTRAINED,
            fresh,
            f"the statistics of {_named(fresh)} are exactly their initial values",
            "the model was trained, and no step has moved them",
            "train, load weights, or recalibrate(model, x)",
        )


def _trained(subject: Subject, normalization_layers: Sequence[NormalizationLayer]) -> bool:
    """Whether something tells that the model was trained; one that was not is not wrong."""
    return bool(subject.updates()) or any(not n.fresh or n.learnt for n in normalization_layers)


def _other_epsilon(
    subject: Subject, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Finding]:
    """Channels whose variance is small against epsilon: with ported weights it is not a detail."""
    places, largest = [], 1.0
    for n in normalization_layers:
        if n.epsilon is None or n.epsilon <= OTHER_EPSILON:
            continue
        for _, value in n.variances():
            alive = value[np.isfinite(value) & (value >= n.epsilon / 100)]
            factors = np.sqrt((alive + n.epsilon) / (alive + OTHER_EPSILON))
            if alive.size and np.mean(factors > FACTOR) >= SHARE:
                places.append(n)
                largest = max(largest, float(factors.max()))
    if places:
        yield _warning(
            rules.EPSILON,
            places,
            f"epsilon {places[0].epsilon:g} in {_named(places)} is large against the variances: "
            f"with {OTHER_EPSILON:g}, as elsewhere, channels would be up to {largest:.2g} times "
            "as large",
            _tried(subject, places[0], unusable_statistics.large_epsilon(OTHER_EPSILON)),
            "weights from another framework need its epsilon",
        )


def _dead(
    subject: Subject, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Finding]:
    for adapting, variance, remedy in (
        (
            False,
            "below a hundredth of epsilon",
            "look at what feeds these channels: where it is constant, a larger epsilon bounds the "
            "gain; where it is small but says something, scale it up, or train with a smaller "
            "epsilon",
        ),
        (
            True,
            "of no more than rounding",
            "leave features out that are constant; where one says something, adapt to data in "
            "which it varies",
        ),
    ):
        places, channels, gain = [], 0, 0.0
        for n in normalization_layers:
            for _, value in n.variances() if n.adapts == adapting else ():
                dead = n.dead(value)
                if dead.any() and (gains := n.gains(value)[dead]).max() > HARMLESS_GAIN:
                    places.append(n)
                    channels += int(dead.sum())
                    gain = max(gain, float(gains.max()))
        if places:
            yield _warning(
                rules.DEAD_CHANNELS,
                places,
                f"{counted(channels, 'channel')} in {_named(places)} "
                f"{'has a variance' if channels == 1 else 'have variances'} {variance}: what "
                f"reaches {'it' if channels == 1 else 'them'} is multiplied by up to {gain:.3g}, "
                f"an input 0.1 off gives {0.1 * gain:.3g}",
                _tried(subject, places[0], unusable_statistics.dead_channels),
                remedy,
            )


def _axis(
    subject: Subject, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Finding]:
    """Statistics along another axis than the model's channels."""
    formats = {getattr(layer, "data_format", None) for layer in subject.layers()} - {None}
    if formats:
        return  # told by the layers themselves: `failures.channel_axis`
    odd = [
        n for n in normalization_layers if n.axis and n.axis[1] >= 4 and n.axis[0] != n.axis[1] - 1
    ]
    if odd:
        axis = odd[0].axis[0] if odd[0].axis else 0
        yield _warning(
            rules.WRONG_AXIS,
            odd,
            f"{_named(odd)} normalises along axis {axis}, which is not the last",
            "no layer tells where the model's channels are",
            "axis=-1 for channels-last data",
        )


def _graph(
    subject: Subject, normalization_layers: Sequence[NormalizationLayer]
) -> Iterator[Finding]:
    shared = [n for n in normalization_layers if n.trainable and subject.graph_calls(n.layer) > 1]
    if shared:
        times = subject.graph_calls(shared[0].layer)
        yield _warning(
            rules.SEVERAL_UPDATES,
            shared,
            f"one pass calls {_named(shared)} {times} times, so a step updates the statistics "
            f"{times} times",
            "one layer, several inputs",
            "a normalization layer for each input, or one batch of all",
        )
    yield from _fed_by_noise(
        normalization_layers, lambda layer: filter(subject.stochastic, subject.upstream(layer))
    )


def fed_by_random_layers(
    found: Sequence[NormalizationLayer], known: Estimated, warnings: Iterable[Finding]
) -> list[Finding]:
    """What no graph of the model's own tells, where nothing of it is known yet."""
    if any(warning.rule == rules.FED_BY_DROPOUT.id for warning in warnings):
        return []
    fed = known.training.fed_by_random
    return list(_fed_by_noise(found, lambda layer: fed.get(id(layer), ())))


def _fed_by_noise(
    normalization_layers: Sequence[NormalizationLayer],
    random_before: Callable[[Any], Iterable[Any]],
) -> Iterator[Finding]:
    """Dropout or noise before a normalization layer, as far as what stands before it is known."""
    before = {
        n.path: list(filter(widens, random_before(n.layer)))
        for n in normalization_layers
        if n.trainable
    }
    fed = [n for n in normalization_layers if before.get(n.path)]
    if fed:
        feeding = dict.fromkeys(name_of(layer) for n in fed for layer in before[n.path])
        yield _warning(
            rules.FED_BY_DROPOUT,
            fed,
            f"{listed(feeding)} {'feeds' if len(feeding) == 1 else 'feed'} {_named(fed)}: the "
            "variance that training stores is not the one of evaluation",
            "dropout and noise widen what training sees",
            "put dropout and noise after the last normalization layer",
        )


def _tried(subject: Subject, n: NormalizationLayer, why: Why) -> Explanation:
    with preserve_state(subject):
        return why(n) or Explanation(cause="")


def _warning(
    rule: Rule,
    places: Sequence[NormalizationLayer],
    message: str,
    reason: Explanation | str,
    remedy: str,
) -> Finding:
    """A warning of what is unusual; its reason is what is usual, unless it was tried."""
    reason = Explanation(cause=reason) if isinstance(reason, str) else reason
    paths = list(dict.fromkeys(n.path for n in places))
    return rule.finding(
        layer=paths[0],
        layers=paths,
        message=message,
        explanation=unusable_statistics.described(reason, remedy),
        bound="unusual, and not certainly wrong",
        evidence={"layers": paths},
    )


def _named(normalization_layers: Sequence[NormalizationLayer]) -> str:
    paths = list(dict.fromkeys(n.path for n in normalization_layers))
    if len(paths) > 2:
        return f"{paths[0]} and {counted(len(paths) - 1, 'more layer')}"
    return listed(paths)
