"""With the same weights and data, evaluation says what training said.

The reference is the model under the population statistics of the given data. Two gates must be
passed to fail: the gap exceeds what sampling explains, and it is worth a person's time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.words import counted
from pytest_bnconsistency.data import Array, Data, flatten
from pytest_bnconsistency.diagnosis import attribution, rules
from pytest_bnconsistency.errors import BNConsistencyError, DataError
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.probes.statistics import BatchStatistics, Tracked
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NAME = "train_eval_agreement"
FEW_ROWS = 16
"""Below this, halves of the data say nothing: each row is left out in turn instead."""
JITTERS = 3
DEVIATIONS = 3
"""A gap beyond this many times what sampling and jitter do is not theirs."""
CERTAIN_SHARE, MEASURED_SHARE = 0.05, 0.8
"""Shares of the initial values that count as stale: by arithmetic, or measured without it."""
SETTLED_SHARE = 0.01
"""The remedy's arithmetic aims at this share of the initial values."""


@dataclass(frozen=True)
class Side:
    """What the model says under one set of statistics: outputs in the order of the rows."""

    outputs: list[Array]
    scores: dict[str, float]

    @property
    def loss(self) -> float | None:
        return self.scores.get("loss")


@dataclass(frozen=True)
class Gap:
    """How far two sides are apart. `outputs` is in standard deviations of the reference's."""

    outputs: float
    decisions: float | None


def check(case: Case) -> CheckResult:
    if case.data is None:
        if case.asked:
            raise DataError(
                "train_eval_agreement needs data and got none; give training data as x, and y "
                "for loss and metrics"
            )
        return _unseen(Verdict.NOT_APPLICABLE, "needs training data", "give x and y")
    if case.data.rows < 2:
        return _unseen(
            Verdict.VACUOUS,
            "one row has no batch statistics worth the name",
            "give at least two rows, better a few hundred",
        )
    with preserve_state(case.subject):
        return _decide(case, case.data)


def recalibrate(case: Case) -> list[str]:
    """Write the population statistics of the case's data into the model; the changed paths."""
    if case.data is None:
        raise DataError("recalibrate needs data and got none; give training data")
    with preserve_state(case.subject):
        training, batches = _training(case, case.data)
        tracked = statistics.find(training, batches[0].x)
        values = statistics.population(
            tracked, statistics.batch_statistics(training, tracked, batches)
        )
    if not tracked:
        raise BNConsistencyError(
            f"no layer of model {case.subject.name!r} has statistics that move in training mode; "
            "expected a normaliser that is not frozen"
        )
    statistics.write(tracked, values)
    return list(dict.fromkeys(t.path for t in tracked))


def _decide(case: Case, data: Data) -> CheckResult:
    subject, settings = case.subject, case.settings
    training, batches = _training(case, data)
    tracked = statistics.find(training, batches[0].x)
    updates = settings.updates if settings.updates is not None else subject.updates()
    stuck = [] if tracked else _stuck(case, training, batches[0].x)
    if not tracked and not stuck:
        return _unseen(
            Verdict.NOT_APPLICABLE,
            "no layer has statistics that move in training mode",
            "nothing to do: there is no normaliser, or all of them are frozen",
        )
    fresh = [t for t in [*tracked, *stuck] if _at_start(t)]
    if fresh:
        untouched = [t for t in fresh if not (updates or _weights_moved(case, t.layer))]
        if untouched:
            return _unseen(
                Verdict.VACUOUS,
                f"the model was never trained: the statistics of {_count(untouched)} "
                f"({untouched[0].path} first) are exactly their initial values",
                "train it or load trained weights first; if a loop of your own trained it, say "
                "updates=<number of steps>",
            )
        return _never_updated(fresh, stuck, updates)

    moving = [t.variable.numpy().astype(np.float64) for t in tracked]
    seen = statistics.batch_statistics(training, tracked, batches)
    reference = statistics.population(tracked, seen)
    inference = Pass(subject, batches[0].x, training=False)

    def under(values: Sequence[Array], *, score: bool) -> Side:
        statistics.write(tracked, values)
        scored = score and subject.compiled and data.y is not None
        return Side(
            _outputs(inference, data, settings.batch_size),
            subject.evaluate(data, settings.batch_size) if scored else {},
        )

    stored, population = under(moving, score=True), under(reference, score=True)
    decides = _decides(population.outputs, data)
    gap = _gap(stored.outputs, population.outputs, decides)
    alternatives, means = _alternatives(case, data, training, tracked, seen, reference)
    noise = [
        [_gap(under(v, score=False).outputs, population.outputs, decides).outputs for v in draws]
        for draws in alternatives
    ]
    bound = DEVIATIONS * math.hypot(*(max(draws, default=0.0) for draws in noise))
    evidence: dict[str, Any] = {
        "rows": data.rows,
        "batch_size": settings.batch_size,
        "normalisers": len({id(t.layer) for t in tracked}),
        "updates": updates,
        "moving": stored.scores,
        "population": population.scores,
        "output_gap": gap.outputs,
        "decisions_changed": gap.decisions,
        "bound": bound,
        "bound_by": means,
    }
    harm = _harm(case, data, stored, population, gap)
    few = means.startswith("leaving")
    share = attribution.initial_share(tracked, moving, reference)
    evidence["initial_share_measured"] = share
    biased = _biased(tracked, updates, share)
    beyond = gap.outputs > bound or (few and biased)
    numbers = _numbers(stored, population, gap)
    if harm and beyond:
        finding = _finding(
            case, data, tracked, moving, reference, (stored, population, gap), updates, share
        )
        finding = _with_bound(finding, gap, bound, means, biased and not gap.outputs > bound)
        return CheckResult(NAME, Verdict.FAILED, (finding,), notes=data.notes, evidence=evidence)
    if harm and few:
        statistics.write(tracked, moving)
        return CheckResult(
            NAME,
            Verdict.VACUOUS,
            summary=f"{data.rows} rows cannot tell: {numbers}, and {means} alone moves the "
            f"outputs by {bound:.2g} standard deviations",
            hint=f"give {FEW_ROWS} rows or more, better a few hundred",
            notes=data.notes,
            evidence=evidence,
        )
    notes = list(data.notes)
    if harm:
        notes.append(f"the gap ({harm}) is within what sampling explains ({means})")
    elif gap.outputs > bound:
        notes.append(
            f"the outputs differ beyond sampling ({gap.outputs:.2g} against {bound:.2g} standard "
            "deviations), by less than is worth a person's time, or to the better"
        )
    normalisers = counted(evidence["normalisers"], "normaliser")
    summary = (
        f"{numbers} on {data.rows} rows, under moving against population statistics of "
        f"{normalisers}; {_limits(case, population)} would have failed"
    )
    return CheckResult(
        NAME, Verdict.PASSED, summary=summary, notes=tuple(notes), evidence=evidence
    )


def _training(case: Case, data: Data) -> tuple[Pass, list[Data]]:
    """A pass in training mode, and the rows in the batches that training would see."""
    order = np.random.default_rng(case.settings.seed).permutation(data.rows)
    size = min(case.settings.batch_size, data.rows)
    starts = list(range(0, data.rows, size))
    if data.rows - starts[-1] == 1 and len(starts) > 1:
        starts.pop()  # a last batch of one row has no variance of its own
    ends = [*starts[1:], data.rows]
    batches = [data.take(order[a:b]) for a, b in zip(starts, ends, strict=True)]
    return statistics.training_pass(case.subject, batches[0].x), batches


def _stuck(case: Case, training: Pass, x: Any) -> list[Tracked]:
    """Normalisers that do not move in training mode, but would if they were told of it."""
    subject = case.subject
    told = {
        id(call.layer): True
        for call in training.calls
        if call.is_layer
        and subject.trainable(call.layer)
        and subject.takes_training(call.layer)
        and statistics.tracked_candidates(subject, call.layer)
    }
    if not told:
        return []
    forced = Pass(subject, x, training=True, instrument=statistics.Moments(subject), modes=told)
    return statistics.find(forced, x)


def _at_start(tracked: Tracked) -> bool:
    value = tracked.variable.numpy()
    return bool(np.ptp(value) == 0 and value.flat[0] in (0, 1))


def _weights_moved(case: Case, layer: Any) -> bool:
    """Whether a scale or offset of the layer's own is no longer one number throughout."""
    candidates = {id(v) for v in statistics.tracked_candidates(case.subject, layer)}
    return any(
        np.ptp(variable.numpy()) > 0
        for variable in case.subject.own_variables(layer)
        if id(variable) not in candidates and variable.dtype.is_floating
    )


def _outputs(inference: Pass, data: Data, batch_size: int) -> list[Array]:
    parts = [inference.run(batch.x).outputs for batch in data.batches(batch_size)]
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


def _decides(outputs: list[Array], data: Data) -> list[bool]:
    """Which outputs are scores of classes: they sum to one, or the targets are classes."""
    targets = flatten(data.y) if data.y is not None else []
    found = []
    for index, output in enumerate(outputs):
        if output.ndim < 2 or not np.issubdtype(output.dtype, np.floating):
            found.append(False)
            continue
        target = targets[index] if index < len(targets) else None
        probabilities = output.min() >= 0 and np.allclose(output.sum(-1), 1, atol=1e-2)
        binary = output.shape[-1] == 1 and output.min() >= 0 and output.max() <= 1
        classes = output.shape[-1] > 1 and target is not None and _are_classes(target, output)
        found.append(bool((output.shape[-1] > 1 and probabilities) or binary or classes))
    return found


def _are_classes(target: Array, output: Array) -> bool:
    if target.shape == output.shape:
        one_hot = np.isin(target, (0, 1)).all() and (target.sum(-1) == 1).all()
        return bool(one_hot)
    return bool(np.issubdtype(target.dtype, np.integer) and target.max() < output.shape[-1])


def _gap(a: list[Array], b: list[Array], decides: Sequence[bool]) -> Gap:
    """The distance of outputs `a` from the reference `b`; the largest of all outputs."""
    distances, changed = [0.0], []
    for mine, its, decision in zip(a, b, decides, strict=True):
        if not np.issubdtype(its.dtype, np.floating):
            continue
        mine, its = mine.astype(np.float64), its.astype(np.float64)
        scale = its.std(axis=0).max() or np.abs(its).max() or 1.0
        distance = float(np.sqrt(np.mean((mine - its) ** 2)) / scale)
        distances.append(distance if math.isfinite(distance) else math.inf)
        if decision:
            changed.append(float(np.mean(_decision(mine) != _decision(its))))
    return Gap(max(distances), max(changed) if changed else None)


def _decision(output: Array) -> Array:
    decided: Array = output.argmax(-1) if output.shape[-1] > 1 else output[..., 0] > 0.5
    return decided


def _alternatives(
    case: Case,
    data: Data,
    training: Pass,
    tracked: Sequence[Tracked],
    seen: list[BatchStatistics],
    reference: list[Array],
) -> tuple[list[list[list[Array]]], str]:
    """Statistics that would be as good as the reference: other samples, and healthy jitter."""
    rng = np.random.default_rng(case.settings.seed)
    if len(seen) >= 2:
        halves = [statistics.population(tracked, seen[start::2]) for start in (0, 1)]
        means = "split halves of the data"
    elif data.rows >= FEW_ROWS:
        parts = [data.take(slice(start, None, 2)) for start in (0, 1)]
        halves = [
            statistics.population(tracked, statistics.batch_statistics(training, tracked, [part]))
            for part in parts
        ]
        means = "split halves of the data"
    else:
        parts = [data.take(np.delete(np.arange(data.rows), row)) for row in range(data.rows)]
        halves = [
            statistics.population(tracked, statistics.batch_statistics(training, tracked, [part]))
            for part in parts
        ]
        means = "leaving out one row"
    deviations = statistics.spread(seen)
    jitters = [
        [
            value
            + math.sqrt((1 - t.momentum) / (1 + t.momentum))
            * deviation
            * rng.standard_normal(value.shape)
            for t, value, deviation in zip(tracked, reference, deviations, strict=True)
        ]
        for _ in range(JITTERS if len(seen) >= 2 else 0)
    ]
    return [halves, jitters], means


def _harm(case: Case, data: Data, stored: Side, population: Side, gap: Gap) -> str:
    """What of the gap is worth a person's time; empty where nothing is."""
    settings = case.settings
    decisions = gap.decisions is not None and gap.decisions > settings.decisions_tolerance
    if stored.loss is not None and population.loss is not None:
        if stored.loss <= population.loss:
            return ""
        if not stored.loss <= _loss_limit(case, data, population):
            return f"loss {stored.loss:.3g} against {population.loss:.3g}"
        lost = _right(population, data) - _right(stored, data)
        if lost > settings.decisions_tolerance:
            return f"{lost:.1%} fewer decisions are right"
        return ""
    if decisions:
        return f"{gap.decisions:.1%} of the decisions change"
    if gap.decisions is None and gap.outputs > settings.output_tolerance:
        return f"the outputs move by {gap.outputs:.2g} standard deviations"
    return ""


def _right(side: Side, data: Data) -> float:
    """The share of right decisions, over all outputs that decide; 0 where none does."""
    shares = []
    for output, target, decides in zip(
        side.outputs, flatten(data.y), _decides(side.outputs, data), strict=False
    ):
        if decides and _are_classes(target, output):
            classes = target.argmax(-1) if target.shape == output.shape else target.reshape(-1)
            shares.append(float(np.mean(_decision(output).reshape(-1) == classes.reshape(-1))))
    return float(np.mean(shares)) if shares else 0.0


def _loss_limit(case: Case, data: Data, population: Side) -> float:
    """The loss from which on it is worth a person's time.

    A relative change of a vanishing loss harms nobody: a tenth of the loss of a model that says
    the same for every row is the least that a change is compared with.
    """
    loss = population.loss or 0.0
    constant = [np.broadcast_to(o.mean(axis=0), o.shape).copy() for o in population.outputs]
    uninformed = case.subject.loss(data, constant[0] if len(constant) == 1 else constant)
    floor = 0.1 * uninformed if uninformed is not None and math.isfinite(uninformed) else 0.0
    return loss + case.settings.loss_tolerance * max(abs(loss), floor)


def _biased(tracked: Sequence[Tracked], updates: int | None, measured: float) -> bool:
    """Whether the initial values are still in the statistics, beyond what chance puts there."""
    if updates is None:
        return measured >= MEASURED_SHARE
    certain = max(t.momentum ** (updates * t.calls) for t in tracked)
    return certain >= CERTAIN_SHARE and measured >= certain / 2


def _never_updated(
    fresh: Sequence[Tracked], stuck: Sequence[Tracked], updates: int | None
) -> CheckResult:
    first = fresh[0]
    after = f"after {updates} updates" if updates else "though their weights have moved"
    if stuck:
        cause = (
            f"training mode does not reach {first.path}: a model or layer around it takes no "
            "training argument, or does not pass it on"
        )
        tested = "told training=True directly, its statistics move"
        remedy = "write call(self, x, training=None) and pass training on to the layers inside"
    else:
        cause = "the steps ran in inference mode, as model(x) without training=True does in a loop"
        tested = "one forward pass in training mode moves the statistics"
        remedy = "call model(x, training=True) in the training loop"
    finding = Finding(
        rules.NEVER_UPDATED.id,
        rules.NEVER_UPDATED.slug,
        first.path,
        f"the statistics of {_count(fresh)} are exactly their initial values {after}",
        cause,
        True,
        f"{remedy}; then train again, or recalibrate(model, x)",
        tested,
        "none: exactly 0 or 1 in every channel",
        evidence={"layers": sorted({t.path for t in fresh}), "updates": updates},
    )
    return CheckResult(NAME, Verdict.FAILED, (finding,), evidence=dict(finding.evidence))


def _finding(
    case: Case,
    data: Data,
    tracked: Sequence[Tracked],
    moving: list[Array],
    reference: list[Array],
    sides: tuple[Side, Side, Gap],
    updates: int | None,
    share: float,
) -> Finding:
    stored, population, gap = sides
    training_outputs = _training_outputs(case, data)
    decides = _decides(population.outputs, data)
    before = _gap(stored.outputs, training_outputs, decides).outputs
    left = _gap(population.outputs, training_outputs, decides).outputs
    closes = left < 0.5 * before
    table = attribution.table(case.subject, data, tracked, moving, reference, updates)
    momentum = max(t.momentum for t in tracked)
    certain = None if updates is None else max(t.momentum ** (updates * t.calls) for t in tracked)
    message = (
        f"evaluate disagrees with train: {_numbers(stored, population, gap)} ({data.rows} rows)"
    )
    stale = certain >= CERTAIN_SHARE if certain is not None else share >= 0.5
    evidence = {
        "momentum": momentum,
        "updates": updates,
        "initial_share": certain,
        "initial_share_measured": share,
        "gap_to_training": before,
        "gap_left": left,
    }
    tested = (
        f"with the population statistics of this data, {_scores(population, gap)}: "
        f"{max(0.0, 1 - left / before) if before else 0.0:.0%} of the distance to the outputs in "
        "training is gone"
    )
    if not closes:
        return Finding(
            rules.DISAGREES.id,
            rules.DISAGREES.slug,
            table.rows[0][0],
            message,
            "not established: population statistics do not bring back what training says",
            False,
            "look at what else differs between training and evaluation in the layers above",
            tested,
            table=table,
            evidence=evidence,
        )
    poisoned = [
        t for t, value in zip(tracked, moving, strict=True) if not np.isfinite(value).all()
    ]
    if poisoned:
        return Finding(
            rules.NOT_FINITE.id,
            rules.NOT_FINITE.slug,
            poisoned[0].path,
            message,
            f"the stored statistics of {_count(poisoned)} hold NaN or Inf: one bad batch stays "
            "in a moving average for ever",
            True,
            "find the batch (NaN in the data, or an overflow), then recalibrate(model, x)",
            tested,
            table=table,
            evidence=evidence,
        )
    largest = 1.0
    if stale:
        rule, cause, remedy = rules.STALE, _stale_cause(momentum, updates, certain, share), ""
        if updates:
            largest = SETTLED_SHARE ** (1 / updates)
            needed = math.ceil(math.log(SETTLED_SHARE) / math.log(momentum))
            remedy = (
                f"train for {needed} updates or more; or momentum <= "
                f"{math.floor(largest * 100) / 100:.2f} for {updates} updates; or "
            )
        else:
            remedy = "train for more updates, or with a smaller momentum; or "
    else:
        rule, remedy = (
            rules.LAGGING,
            "end with a phase of small learning rate; or a smaller momentum; or ",
        )
        cause = (
            f"the moving statistics (momentum {momentum:.3g}) lag behind weights that still move"
            + (
                f": after {updates} updates {certain:.1%} of the initial values are left"
                if updates
                else ""
            )
        )
    return Finding(
        rule.id,
        rule.slug,
        table.rows[0][0],
        message,
        cause,
        True,
        remedy + "recalibrate(model, x)",
        tested,
        table=table,
        evidence=evidence,
    )


def _stale_cause(momentum: float, updates: int | None, certain: float | None, share: float) -> str:
    if updates is None or certain is None:
        return (
            f"{share:.0%} of the initial values are still in the statistics (measured; how many "
            f"updates there were is not known; momentum {momentum:.3g})"
        )
    left = f"leaves {certain:.1%} of the initial values"
    return f"momentum {momentum:.3g} after {updates} updates {left}"


def _training_outputs(case: Case, data: Data) -> list[Array]:
    """What the model says in training mode, dropout and noise apart, in the order of the rows."""
    training, _ = _training(case, data)
    order = np.random.default_rng(case.settings.seed).permutation(data.rows)
    shuffled = data.take(order)
    back = np.argsort(order)
    return [
        o[back] for o in _outputs(training, shuffled, min(case.settings.batch_size, data.rows))
    ]


def _with_bound(finding: Finding, gap: Gap, bound: float, means: str, biased: bool) -> Finding:
    text = f"sampling error ({means}) {bound:.2g}; the outputs are {gap.outputs:.2g} apart"
    text += " (standard deviations)"
    if biased:
        text += (
            "; so few rows decide nothing by themselves, the initial values in the statistics do"
        )
    return dataclasses.replace(finding, bound=text)


def _numbers(stored: Side, population: Side, gap: Gap) -> str:
    if stored.scores:
        return ", ".join(
            f"{name} {_number(value)} against {_number(population.scores[name])}"
            for name, value in stored.scores.items()
        )
    parts = [f"outputs {gap.outputs:.2g} standard deviations apart"]
    if gap.decisions is not None:
        parts.insert(0, f"{gap.decisions:.1%} of the decisions differ")
    return ", ".join(parts)


def _scores(side: Side, gap: Gap) -> str:
    if side.scores:
        return " and ".join(f"{name} {_number(value)}" for name, value in side.scores.items())
    return "the outputs of training come back"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.1g}"


def _limits(case: Case, population: Side) -> str:
    settings = case.settings
    if population.loss is not None:
        return f"a loss more than {settings.loss_tolerance:.0%} above"
    return f"{settings.decisions_tolerance:.0%} changed decisions"


def _count(tracked: Sequence[Tracked]) -> str:
    return counted(len({id(t.layer) for t in tracked}), "normaliser")


def _unseen(verdict: Verdict, summary: str, hint: str) -> CheckResult:
    return CheckResult(NAME, verdict, summary=summary, hint=hint)
