"""Why evaluation does not say what training said: each cause is tried before it is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array, Data
from pytest_bnconsistency.diagnosis import attribution, rules
from pytest_bnconsistency.diagnosis.rules import Rule
from pytest_bnconsistency.diagnosis.sides import Side, gap, number, numbers
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.statistics import Tracked
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import Finding, Table
from pytest_bnconsistency.subjects import Subject

CERTAIN_SHARE, MEASURED_SHARE = 0.05, 0.8
"""Shares of the initial values that count as stale: by arithmetic, or measured without it."""
SETTLED_SHARE = 0.01
"""The remedy's arithmetic aims at this share of the initial values."""


@dataclass(frozen=True)
class Measured:
    """All that the check measured, and the means to measure more.

    `under` gives the side under other statistics; `stored`, `population` and `trained` are the
    sides under the moving and the population statistics, and in training mode.
    """

    subject: Subject
    data: Data
    batches: Sequence[Data]
    training: Pass
    tracked: Sequence[Tracked]
    moving: list[Array]
    reference: list[Array]
    stored: Side
    population: Side
    trained: Side
    updates: int | None
    under: Callable[[Sequence[Array]], Side]

    @property
    def initial_share(self) -> float:
        """The share of the initial values, measured in the statistics themselves."""
        return attribution.initial_share(self.tracked, self.moving, self.reference)

    @property
    def slowest(self) -> Tracked:
        return max(self.tracked, key=lambda t: t.retention)

    @property
    def certain_share(self) -> float | None:
        """The share of the initial values that the number of updates leaves."""
        if self.updates is None:
            return None
        return float(max(self.slowest.retention, 0.0) ** self.updates)


def biased(m: Measured) -> bool:
    """Whether the initial values are still in the statistics, beyond what chance puts there."""
    certain = m.certain_share
    if certain is None:
        return m.initial_share >= MEASURED_SHARE
    return certain >= CERTAIN_SHARE and m.initial_share >= certain / 2


def explain(m: Measured, bound: str) -> Finding:
    """The finding for a gap that is beyond noise and worth a person's time."""
    closed = _closed(m)
    if closed <= 0.5:
        return unexplained(m, bound)
    table = attribution.table(m.subject, m.data, m.tracked, m.moving, m.reference, m.updates)
    tested = (
        f"with the population statistics of this data, {_scores(m.population)}: {closed:.0%} of "
        "the distance to training is gone"
    )
    for cause in (_poisoned, _stale, _variance_shift, _not_of_this_data):
        named = cause(m)
        if named is not None:
            rule, text, proof, remedy = named
            return _finding(m, rule, text, proof or tested, remedy, table, bound)
    raise RuntimeError("the last cause always has an answer")


def _closed(m: Measured) -> float:
    """The share of the distance to training that goes with population statistics, 0 to 1.

    By the loss where it is known: single outputs in training depend on their batch.
    """
    losses = (m.stored.loss, m.population.loss, m.trained.loss)
    if None not in losses:
        stored, population, trained = (float(loss or 0.0) for loss in losses)
        if stored > trained:
            return min(1.0, max(0.0, (stored - population) / (stored - trained)))
    before = gap(m.stored, m.trained, m.data).outputs
    left = gap(m.population, m.trained, m.data).outputs
    if not math.isfinite(before):
        return 1.0 if math.isfinite(left) else 0.0
    return max(0.0, 1 - left / before) if before else 0.0


Named = tuple[Rule, str, str, str]
"""A rule, the cause, its own proof (or none besides the population statistics), the remedy."""


def _poisoned(m: Measured) -> Named | None:
    bad = [t for t, v in zip(m.tracked, m.moving, strict=True) if not np.isfinite(v).all()]
    if not bad:
        return None
    where = ", ".join(list(dict.fromkeys(t.path for t in bad))[:3])
    return (
        rules.NOT_FINITE,
        f"the stored statistics of {where} hold NaN or Inf: one bad batch stays in a moving "
        "average for ever",
        "",
        "find the batch (NaN in the data, or an overflow), then recalibrate(model, x)",
    )


def _stale(m: Measured) -> Named | None:
    certain, t = m.certain_share, m.slowest
    if certain is None:
        if m.initial_share < 0.5:
            return None
        return (
            rules.STALE,
            f"{m.initial_share:.0%} of the initial values are still in the statistics (measured; "
            f"how many updates there were is not known; momentum {t.momentum:.3g})",
            "",
            "train for more updates, or with a smaller momentum; or recalibrate(model, x)",
        )
    if certain < CERTAIN_SHARE or not m.updates:
        return None
    needed = math.ceil(math.log(SETTLED_SHARE) / math.log(t.retention))
    largest = math.floor(100 * SETTLED_SHARE ** (1 / (m.updates * t.calls))) / 100
    harmless, place = _harmless_share(m)
    more = math.ceil(math.log(harmless) / math.log(t.retention))
    also = ""
    if more > needed:
        also = f" ({more} for {place}, whose variance is far below the initial 1)"
    steps = f"{m.updates} updates" if t.calls == 1 else f"{m.updates} steps of {t.calls} updates"
    return (
        rules.STALE,
        f"momentum {t.momentum:.3g} after {steps} leaves {certain:.1%} of the initial values",
        "",
        f"train for {needed} updates or more{also}; or momentum <= {largest:.2f} for {m.updates} "
        "updates; or recalibrate(model, x)",
    )


def _harmless_share(m: Measured) -> tuple[float, str]:
    """The share of the initial variance 1 that is 5 % of the smallest of all, and its path."""
    shares = [(1.0, "")]
    for t, value in zip(m.tracked, m.reference, strict=True):
        if t.role == "variance":
            own = float(np.median(value))
            shares.append((0.05 * own / max(1 - own, 1e-9) if 0 < own < 1 else 1.0, t.path))
    return min(shares)


def _variance_shift(m: Measured) -> Named | None:
    """Re-estimate with dropout on: if that is what is stored, dropout is what differs."""
    if not m.training.still:
        return None
    noisy = Pass(
        m.subject,
        m.batches[0].x,
        training=True,
        instrument=statistics.Moments(m.subject),
    )
    values = statistics.population(
        m.tracked, statistics.batch_statistics(noisy, m.tracked, m.batches)
    )
    noisy_side = m.under(values)
    whole = gap(m.stored, m.population, m.data).outputs
    proof = (
        "statistics estimated with the random layers on give what evaluation says, and with them "
        "off what training says"
    )
    if not gap(m.stored, noisy_side, m.data).outputs < 0.5 * whole:
        if not _variances_apart(m, values) < 0.5 * _variances_apart(m, m.reference):
            return None
        proof = "the stored variances are those with the random layers on, not those with them off"
    drawing = ", ".join(dict.fromkeys(layer.name for layer in m.training.random_layers))
    return (
        rules.VARIANCE_SHIFT,
        f"{drawing} feeds a normaliser: its statistics were taken with random layers on, and "
        "evaluation runs with them off",
        proof,
        "put dropout and noise after the last normaliser; or recalibrate(model, x)",
    )


def _variances_apart(m: Measured, values: Sequence[Array]) -> float:
    """The mean distance of the stored variances from others, as logarithms of their ratios."""
    ratios = [
        np.abs(np.log(np.maximum(stored, 1e-30) / np.maximum(value, 1e-30)))
        for t, stored, value in zip(m.tracked, m.moving, values, strict=True)
        if t.role == "variance"
    ]
    return float(np.mean(np.concatenate([r.ravel() for r in ratios]))) if ratios else 0.0


def _not_of_this_data(m: Measured) -> Named:
    left = "" if m.certain_share is None else f", {m.certain_share:.1%} of the initial values left"
    return (
        rules.LAGGING,
        f"the moving statistics (momentum {m.slowest.momentum:.3g}{left}) are not those of this "
        "data under these weights: they lag behind weights that still moved when training ended, "
        "or this data is preprocessed otherwise than in training",
        "",
        "end training with a small learning rate, or use a smaller momentum; give data as in "
        "training; or recalibrate(model, x)",
    )


def unexplained(m: Measured, bound: str) -> Finding:
    """The finding for a gap to training that population statistics don't close."""
    shared = list(dict.fromkeys(t.path for t in m.tracked if t.calls > 1))
    remedy = (
        f"{', '.join(shared)} runs more than once in a step: give each input a normaliser of its "
        "own, or join the inputs in one batch"
        if shared
        else "look at what else differs between training and evaluation, in the layers named"
    )
    tried = (
        f"population statistics of this data: {_closed(m):.0%} of the distance to training goes"
    )
    return _finding(m, rules.DISAGREES, "not established", tried, remedy, None, bound)


def _finding(
    m: Measured, rule: Rule, cause: str, tested: str, remedy: str, table: Table | None, bound: str
) -> Finding:
    known = rule is not rules.DISAGREES
    reference = m.population if known else m.trained
    apart = gap(m.stored, reference, m.data)
    said = numbers(m.stored, reference, apart)
    evidence: dict[str, Any] = {
        "momentum": m.slowest.momentum,
        "updates": m.updates,
        "initial_share": m.certain_share,
        "initial_share_measured": m.initial_share,
        "gap_to_training": gap(m.stored, m.trained, m.data).outputs,
        "gap_left": gap(m.population, m.trained, m.data).outputs,
    }
    layers = len({id(t.layer) for t in m.tracked})
    shared = [t.path for t in m.tracked if t.calls > 1]
    layer = table.rows[0][0] if table else (shared or [m.tracked[0].path])[0]
    if table and layers > 1 and not _one_explains(table):
        cause += f" (in {layers} normalisers; none alone closes half of the gap)"
    return Finding(
        rule.id,
        rule.slug,
        layer,
        f"evaluate disagrees with train: {said} ({m.data.rows} rows)",
        cause,
        known,
        remedy,
        tested,
        bound,
        table,
        evidence,
    )


def _one_explains(table: Table) -> bool:
    """Whether the first layer alone closes half of the gap."""
    closes = table.rows[0][1].rstrip("%")
    return closes.lstrip("-").isdigit() and int(closes) >= 50


def _scores(side: Side) -> str:
    if side.scores:
        return " and ".join(f"{name} {number(value)}" for name, value in side.scores.items())
    return "the outputs of training come back"
