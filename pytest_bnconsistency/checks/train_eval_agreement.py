"""With the same weights and data, evaluation says what training said.

The reference is the model under the population statistics of the given data, and what it says in
training mode. Two gates must be passed to fail: the gap exceeds what sampling explains, and it is
worth a person's time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Array, Data
from pytest_bnconsistency.diagnosis import disagreement, rules
from pytest_bnconsistency.diagnosis.disagreement import Measured
from pytest_bnconsistency.diagnosis.sides import Gap, Side, gap, number, numbers, right
from pytest_bnconsistency.errors import BNConsistencyError, DataError
from pytest_bnconsistency.probes import statistics
from pytest_bnconsistency.probes.state import Variables, preserve_state
from pytest_bnconsistency.probes.statistics import BatchStatistics, Tracked
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.words import counted

NAME = "train_eval_agreement"
FEW_ROWS = 16
"""Below this, halves of the data say nothing: each row is left out in turn instead."""
DEVIATIONS = 3
"""A gap beyond this many times what sampling and jitter do is not theirs."""
JITTERS = 3
UNEXPLAINED = 3
"""Where population statistics don't explain the gap, it must be this many tolerances wide."""


def check(case: Case) -> CheckResult:
    if case.data is None:
        if case.asked:
            raise DataError(
                "train_eval_agreement needs data and got none; give training data as x, and y "
                "for loss and metrics"
            )
        return _unseen(Verdict.NOT_APPLICABLE, "needs training data", "give x and y, or --bn-data")
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
        training, batches, _ = _training(case, case.data)
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
    subject = case.subject
    training, batches, order = _training(case, data)
    tracked = statistics.find(training, batches[0].x)
    updates = case.settings.updates
    if updates is None:
        updates = subject.updates()
    stuck = [] if tracked else _stuck(case, training, batches[0].x)
    if not tracked and not stuck:
        return _unseen(
            Verdict.NOT_APPLICABLE,
            "no layer has statistics that move in training mode",
            "there is no normaliser, or all of them are frozen",
        )
    fresh = _fresh([*tracked, *stuck])
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
        return _never_updated(case, data, fresh, stuck, updates)
    if not tracked:
        return _unseen(
            Verdict.NOT_APPLICABLE,
            f"the statistics of {_count(stuck)} do not move in training mode",
            "training and evaluation normalise alike: by what is stored",
        )
    return _compare(case, data, training, batches, order, tracked, updates)


def _compare(
    case: Case,
    data: Data,
    training: Pass,
    batches: list[Data],
    order: Array,
    tracked: list[Tracked],
    updates: int | None,
) -> CheckResult:
    subject, settings = case.subject, case.settings
    moving = [t.variable.numpy().astype(np.float64) for t in tracked]
    seen = statistics.batch_statistics(training, tracked, batches)
    reference = statistics.population(tracked, seen)
    inference = Pass(subject, batches[0].x, training=False)
    scored = subject.compiled and data.y is not None

    def under(values: Sequence[Array]) -> Side:
        statistics.write(tracked, values)
        return Side(_outputs(inference, data, settings.batch_size))

    def with_scores(values: Sequence[Array]) -> Side:
        outputs = under(values).outputs
        return Side(outputs, subject.evaluate(data, settings.batch_size) if scored else {})

    m = Measured(
        subject,
        data,
        batches,
        training,
        tracked,
        moving,
        reference,
        with_scores(moving),
        with_scores(reference),
        _in_training(case, data, seen, order),
        updates or None,  # statistics that moved before the optimizer was made anew
        under,
    )
    if not _finite(m.population):
        return _unseen(
            Verdict.VACUOUS,
            "the outputs are NaN or Inf, under the population statistics of the data as well",
            "look for NaN in the weights",
        )
    apart = gap(m.stored, m.population, data)
    alternatives, means = _alternatives(case, data, training, tracked, seen, reference)
    noise = [[gap(under(v), m.population, data) for v in draws] for draws in alternatives]
    bound = DEVIATIONS * math.hypot(*(max([n.outputs for n in g], default=0.0) for g in noise))
    restless = max((n.decisions or 0.0 for group in noise for n in group), default=0.0)
    few = means.startswith("leaving")
    harm = _harm(case, data, m.stored, m.population, apart, restless)
    certain = few and disagreement.biased(m)
    normalisers = _count(tracked)
    evidence: dict[str, Any] = {
        "rows": data.rows,
        "batch_size": settings.batch_size,
        "normalisers": len({id(t.layer) for t in tracked}),
        "updates": updates,
        "moving": m.stored.scores,
        "population": m.population.scores,
        "training": m.trained.scores,
        "output_gap": apart.outputs,
        "decisions_changed": apart.decisions,
        "bound": bound,
        "bound_by": means,
        "decisions_restless": restless,
        "initial_share_measured": m.initial_share,
    }
    said = numbers(m.stored, m.population, apart)
    limits = (
        f"sampling error ({means}) {bound:.2g}; the outputs are {apart.outputs:.2g} apart "
        "(standard deviations)"
    )
    if harm and certain and not apart.outputs > bound:
        limits += (
            "; so few rows decide nothing by themselves, the initial values in the statistics do"
        )
    if harm and (apart.outputs > bound or certain):
        finding = disagreement.explain(m, limits)
        return CheckResult(NAME, Verdict.FAILED, (finding,), notes=data.notes, evidence=evidence)
    if not few and _unlike_training(case, m, order):
        limits = (
            f"a loss above {number(_loss_limit(case, data, m.trained, UNEXPLAINED))}, and more "
            f"than {DEVIATIONS} times what the same rows in other batches do to the outputs"
        )
        finding = disagreement.unexplained(m, limits)
        return CheckResult(NAME, Verdict.FAILED, (finding,), notes=data.notes, evidence=evidence)
    if harm and few:
        return CheckResult(
            NAME,
            Verdict.VACUOUS,
            summary=f"{data.rows} rows cannot tell: {said}, and {means} alone moves the outputs "
            f"by {bound / DEVIATIONS:.2g} standard deviations",
            hint=f"give {FEW_ROWS} rows or more, better a few hundred",
            notes=data.notes,
            evidence=evidence,
        )
    notes = list(data.notes)
    if harm:
        notes.append(f"the gap ({harm}) is within what sampling explains ({means})")
    elif apart.outputs > bound:
        notes.append(
            f"the outputs differ beyond sampling ({apart.outputs:.2g} against {bound:.2g} "
            "standard deviations), by less than is worth a person's time, or to the better"
        )
    summary = (
        f"{said} on {data.rows} rows, under moving against population statistics of "
        f"{normalisers}; {_limits(case, data, m.population)} would have failed"
    )
    return CheckResult(
        NAME, Verdict.PASSED, summary=summary, notes=tuple(notes), evidence=evidence
    )


def _training(case: Case, data: Data, shuffle: int = 0) -> tuple[Pass, list[Data], Array]:
    """A pass in training mode, the rows in the batches that training would see, their order."""
    order = np.random.default_rng(case.settings.seed + shuffle).permutation(data.rows)
    size = min(case.settings.batch_size, data.rows)
    starts = list(range(0, data.rows, size))
    if data.rows - starts[-1] == 1 and len(starts) > 1:
        starts.pop()  # a last batch of one row has no variance of its own
    ends = [*starts[1:], data.rows]
    batches = [data.take(order[a:b]) for a, b in zip(starts, ends, strict=True)]
    if "training" not in case.shared:
        case.shared["training"] = statistics.training_pass(case.subject, batches[0].x)
    return case.shared["training"], batches, order


def _in_training(case: Case, data: Data, seen: Sequence[BatchStatistics], order: Array) -> Side:
    """What the model said in training mode, in the order of the rows, with its loss."""
    back = np.argsort(order)
    parts = zip(*(batch.outputs for batch in seen), strict=True)
    side = Side([np.concatenate(leaves)[back] for leaves in parts])
    loss = _loss(case, data, side)
    return side if loss is None else Side(side.outputs, {"loss": loss})


def _unlike_training(case: Case, m: Measured, order: Array) -> bool:
    """Whether evaluation is far worse than training, and population statistics don't mend it.

    What a row gets in training depends on its batch: the same rows in other batches tell how much.
    """
    if m.trained.loss is None or m.stored.loss is None or m.population.loss is None:
        return False
    limit = _loss_limit(case, m.data, m.trained, UNEXPLAINED)
    if m.stored.loss <= limit or m.population.loss <= limit:
        return False
    now, before = right(m.stored, m.data), right(m.trained, m.data)
    if now is not None and before is not None:
        lost = before - now
        if lost <= UNEXPLAINED * case.settings.decisions_tolerance:
            return False
    if len(m.batches) > 1:
        training, others, other_order = _training(case, m.data, shuffle=1)
    else:
        training, halves = m.training, np.array_split(order, 2)
        others, other_order = [m.data.take(half) for half in halves], order
    again = statistics.batch_statistics(training, m.tracked, others)
    mixed = _in_training(case, m.data, again, other_order)
    by_batch = gap(mixed, m.trained, m.data).outputs
    return gap(m.stored, m.trained, m.data).outputs > DEVIATIONS * by_batch


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


def _fresh(tracked: Sequence[Tracked]) -> list[Tracked]:
    """The statistics of layers that hold nothing but zeros and ones, as layers begin."""
    moved = {id(t.layer) for t in tracked if not _at_start(t)}
    return [t for t in tracked if id(t.layer) not in moved]


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


def _loss(case: Case, data: Data, side: Side) -> float | None:
    if data.y is None or not case.subject.compiled:
        return None
    outputs = side.outputs[0] if len(side.outputs) == 1 else side.outputs
    return case.subject.loss(data, outputs)


def _outputs(inference: Pass, data: Data, batch_size: int) -> list[Array]:
    parts = [inference.run(batch.x).outputs for batch in data.batches(batch_size)]
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


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


def _harm(
    case: Case, data: Data, stored: Side, reference: Side, apart: Gap, restless: float
) -> str:
    """What of the gap is worth a person's time; empty where nothing is.

    `restless` is the share of decisions that other statistics, as good as the reference, change.
    """
    settings = case.settings
    if not math.isfinite(apart.outputs):
        return "the outputs are NaN or Inf"
    if stored.loss is not None and reference.loss is not None:
        if stored.loss <= reference.loss:
            return ""
        if not stored.loss <= _loss_limit(case, data, reference):
            return f"loss {stored.loss:.3g} against {reference.loss:.3g}"
        now, before = right(stored, data), right(reference, data)
        if now is not None and before is not None:
            lost = before - now
            if lost > _limit_of_decisions(case, data):
                return f"{lost:.1%} fewer decisions are right"
        return ""
    if apart.decisions is not None:
        changed = apart.decisions > max(_limit_of_decisions(case, data), 2 * restless)
        return f"{apart.decisions:.1%} of the decisions change" if changed else ""
    if apart.outputs > settings.output_tolerance:
        return f"the outputs move by {apart.outputs:.2g} standard deviations"
    return ""


def _limit_of_decisions(case: Case, data: Data) -> float:
    """The tolerated share of decisions and two standard deviations of counting so many rows."""
    tolerated = case.settings.decisions_tolerance
    return tolerated + 2 * math.sqrt(tolerated * (1 - min(tolerated, 1.0)) / data.rows)


def _loss_limit(case: Case, data: Data, reference: Side, tolerances: int = 1) -> float:
    """The loss from which on it is worth a person's time.

    A relative change of a vanishing loss harms nobody: a tenth of the loss of a model that says
    the same for every row is the least that a change is compared with.
    """
    loss = reference.loss or 0.0
    constant = Side([np.broadcast_to(o.mean(axis=0), o.shape).copy() for o in reference.outputs])
    uninformed = _loss(case, data, constant)
    floor = 0.1 * uninformed if uninformed is not None and math.isfinite(uninformed) else 0.0
    return loss + tolerances * case.settings.loss_tolerance * max(abs(loss), floor)


def _finite(side: Side) -> bool:
    return all(bool(np.isfinite(output.astype(float)).all()) for output in side.outputs)


def _limits(case: Case, data: Data, population: Side) -> str:
    settings = case.settings
    if population.loss is not None:
        return f"a loss above {number(_loss_limit(case, data, population))}"
    if gap(population, population, data).decisions is not None:
        return f"more than {_limit_of_decisions(case, data):.1%} changed decisions"
    return f"a gap of more than {settings.output_tolerance:g} standard deviations"


def _never_updated(
    case: Case,
    data: Data,
    fresh: Sequence[Tracked],
    stuck: Sequence[Tracked],
    updates: int | None,
) -> CheckResult:
    first = fresh[0]
    after = f"after {updates} updates" if updates else "though their weights have moved"
    told = "told training=True, they move"
    if stuck or _fit_leaves_alone(case, data, fresh):
        cause = (
            f"training mode does not reach {first.path} in a training step: a model or layer "
            "around it takes no training argument, or does not pass it on"
        )
        tested = told if stuck else f"one step of fit leaves the statistics alone; {told}"
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
        "no tolerance: exactly 0 or 1 in every channel",
        evidence={"layers": sorted({t.path for t in fresh}), "updates": updates},
    )
    return CheckResult(NAME, Verdict.FAILED, (finding,), evidence=dict(finding.evidence))


def _fit_leaves_alone(case: Case, data: Data, fresh: Sequence[Tracked]) -> bool:
    """Whether a real step of the user's own training does not move the statistics."""
    if not case.subject.compiled or data.y is None:
        return False
    before = Variables([t.variable for t in fresh])
    size = min(case.settings.batch_size, data.rows)
    case.subject.fit(data.take(slice(0, size)), size)
    return not before.moved()


def _count(tracked: Sequence[Tracked]) -> str:
    return counted(len({id(t.layer) for t in tracked}), "normaliser")


def _unseen(verdict: Verdict, summary: str, hint: str) -> CheckResult:
    return CheckResult(NAME, verdict, summary=summary, hint=hint)
