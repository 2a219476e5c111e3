"""With the same weights and data, evaluation says what training said.

The reference is the model under the population statistics of the given data, and what it says in
training mode. Two gates must be passed to fail: the gap exceeds what sampling explains, and it is
worth a person's time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from pytest_bnconsistency.checks import never_updated, schedule
from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.estimation import (
    Estimated,
    batch_size,
    estimated,
    shuffled,
)
from pytest_bnconsistency.data import Array, Data
from pytest_bnconsistency.diagnosis import disagreement, stepping
from pytest_bnconsistency.diagnosis.measured import Measured
from pytest_bnconsistency.diagnosis.sides import Gap, Side, gap, number, numbers, right
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.probes import statistics, updates
from pytest_bnconsistency.probes.batches import Batches, in_batches
from pytest_bnconsistency.probes.population import Estimate
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.probes.statistics import BatchStatistics, Tracked
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.words import counted

T = TypeVar("T")
NAME = "train_eval_agreement"
FEW_ROWS = 16
"""Below this, halves of the data say nothing: each row is left out in turn instead."""
DEVIATIONS = 3
"""A gap beyond this many times what sampling and jitter do is not theirs."""
JITTERS = 3
USUAL_MOMENTUM = 0.9
"""What averages about the last batches only (momentum below 0.5) jitter is not theirs to excuse:
it is bounded as with this momentum."""
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
    if case.subject.modeless:
        return _unseen(Verdict.NOT_APPLICABLE, case.subject.modeless, "give f(x, training=...)")
    with preserve_state(case.subject):
        return _decide(case, case.data)


def _decide(case: Case, data: Data) -> CheckResult:
    subject = case.subject
    known = estimated(case, data)
    training, batches, tracked = known.training, known.batches, known.tracked
    done = case.settings.updates
    if done is None:
        done = subject.updates()
    stuck = [] if tracked else never_updated.untold(case, training, batches[0].x)
    held = never_updated.held_by_momentum(case, training, [*tracked, *stuck], batches[0].x)
    if not tracked and not stuck and not held:
        return _unseen(
            Verdict.NOT_APPLICABLE,
            "no layer has statistics that move in training mode",
            "there is no normaliser, or all of them are frozen",
        )
    planned = case.settings.planned_updates
    fresh = never_updated.fresh([*tracked, *stuck, *held])
    if planned is not None and (fresh or not done):
        return schedule.judged(NAME, tracked, held, planned)
    if fresh:
        untouched = [t for t in fresh if not (done or never_updated.weights_moved(case, t.layer))]
        if untouched:
            return _unseen(
                Verdict.VACUOUS,
                f"the model was never trained: the statistics of {_count(untouched)} "
                f"({untouched[0].path} first) are exactly their initial values",
                "train it or load trained weights first; if a loop of your own trained it, say "
                "updates=<number of steps>",
            )
        finding = never_updated.finding(case, data, fresh, stuck, held, done)
        return CheckResult(NAME, Verdict.FAILED, (finding,), evidence=dict(finding.evidence))
    if not tracked:
        return _unseen(
            Verdict.NOT_APPLICABLE,
            f"the statistics of {_count([*stuck, *held])} do not move in training mode",
            "training and evaluation normalise alike: by what is stored",
        )
    warnings = [] if planned is None else schedule.warnings(tracked, held, planned)
    return _compare(case, data, known, done, warnings)


def _compare(
    case: Case,
    data: Data,
    known: Estimated,
    done: int | None,
    warnings: list[Finding],
) -> CheckResult:
    subject, settings = case.subject, case.settings
    training, batches, tracked = known.training, known.batches, known.tracked
    seen, estimate = known.seen, known.estimate
    size = batch_size(case, data)
    moving = [t.variable.numpy().astype(np.float64) for t in tracked]
    reference = estimate.population
    inference = Pass(subject, batches[0].x, training=False)

    def under(values: Sequence[Array], rows: Data = data) -> Side:
        statistics.write(tracked, values)
        return Side(_outputs(inference, rows, size))

    def with_scores(values: Sequence[Array]) -> Side:
        side = under(values)
        return Side(side.outputs, _scores(case, data, side, size))

    step = _step(case, data, size)
    m = Measured(
        subject,
        data,
        batches,
        training,
        inference,
        tracked,
        moving,
        reference,
        seen,
        with_scores(moving),
        with_scores(reference),
        _in_training(case, data, seen, batches),
        done or None,  # statistics that moved before the optimizer was made anew
        settings.seed,
        under,
        step,
        _once(
            lambda: (
                []
                if step is None
                else updates.observed(subject, tracked, lambda: step(batches[0]))
            )
        ),
        _once(lambda: _in_other_batches(case, data, known)),
    )
    if not _finite(m.population):
        return _unseen(
            Verdict.VACUOUS,
            "the outputs are NaN or Inf, under the population statistics of the data as well",
            "look for NaN in the weights",
        )
    apart = gap(m.stored, m.population, data)
    few = estimate.rows < FEW_ROWS
    means = "leaving out one row" if few else "split halves of the data"
    alternatives = _alternatives(case, data, training, tracked, estimate, reference)
    harm = _harm(case, data, m.stored, m.population, apart, 0.0)
    noise = _noise(m, alternatives, thorough=bool(harm))
    bound = DEVIATIONS * math.hypot(*(max([n.outputs for n in g], default=0.0) for g in noise))
    restless = max((n.decisions or 0.0 for group in noise for n in group), default=0.0)
    if harm:
        harm = _harm(case, data, m.stored, m.population, apart, restless)
    certain = few and m.biased
    normalisers = _count(tracked)
    evidence: dict[str, Any] = {
        "rows": data.rows,
        "statistics_rows": estimate.rows,
        "batch_size": size,
        "normalisers": len({id(t.layer) for t in tracked}),
        "updates": m.updates,
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
    finding = None
    if harm and (apart.outputs > bound or certain):
        finding = disagreement.explain(m, limits)
    elif not few and _unlike_training(case, m):
        limits = (
            f"a loss above {number(_loss_limit(case, data, m.trained, UNEXPLAINED))}, and more "
            f"than {DEVIATIONS} times what the same rows in other batches do to the outputs"
        )
        finding = disagreement.unexplained(m, limits)
    if m.small or (finding is not None and not finding.cause_tested):
        warnings += stepping.warnings(m, evidence)
    notes, warned = list(data.notes), tuple(warnings)
    if finding is not None:
        return CheckResult(
            NAME,
            Verdict.FAILED,
            (finding,),
            notes=data.notes,
            evidence=evidence,
            warnings=warned,
        )
    if harm and few:
        return CheckResult(
            NAME,
            Verdict.VACUOUS,
            summary=f"{data.rows} rows cannot tell: {said}, and {means} alone moves the outputs "
            f"by {bound / DEVIATIONS:.2g} standard deviations",
            hint=f"give {FEW_ROWS} rows or more, better a few hundred",
            notes=data.notes,
            evidence=evidence,
            warnings=warned,
        )
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
        NAME,
        Verdict.PASSED,
        summary=summary,
        notes=tuple(notes),
        evidence=evidence,
        warnings=warned,
    )


def _step(case: Case, data: Data, size: int) -> Callable[[Data], object] | None:
    """The user's own training step, over the batches of what it is given."""
    own = case.train_step
    if own is not None:
        return lambda given: [own(batch.x, batch.y) for batch in given.batches(size)]
    if case.subject.compiled and data.y is not None:
        return lambda given: case.subject.fit(given, size)
    return None


def _once(measure: Callable[[], T]) -> Callable[[], T]:
    known: list[T] = []

    def measured() -> T:
        if not known:
            known.append(measure())
        return known[0]

    return measured


def _scores(case: Case, data: Data, side: Side, size: int) -> dict[str, float]:
    """Loss and metrics: of the outputs where they tell, else by the user's own `evaluate`."""
    if not case.subject.compiled or data.y is None:
        return {}
    outputs = side.outputs[0] if len(side.outputs) == 1 else side.outputs
    scores = case.subject.scores(data, outputs)
    return case.subject.evaluate(data, size) if scores is None else scores


def _in_training(
    case: Case, data: Data, seen: Sequence[BatchStatistics], batches: Batches
) -> Side:
    """What the model said in training mode, in the order of the rows, with its loss."""
    back = np.argsort(batches.order)
    parts = zip(*(batch.outputs for batch in seen), strict=True)
    side = Side([np.concatenate(leaves)[back] for leaves in parts])
    loss = _loss(case, data, side)
    return side if loss is None else Side(side.outputs, {"loss": loss})


def _in_other_batches(case: Case, data: Data, known: Estimated) -> Side:
    """What the model says in training mode of the same rows in other batches."""
    others = shuffled(case, data, draw=1)
    if len(others) == 1:
        others = in_batches(data, known.batches.order, -(-data.rows // 2))
    seen = list(statistics.batch_statistics(known.training, known.tracked, others))
    return _in_training(case, data, seen, others)


def _unlike_training(case: Case, m: Measured) -> bool:
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
    by_batch = gap(m.again(), m.trained, m.data).outputs
    return gap(m.stored, m.trained, m.data).outputs > DEVIATIONS * by_batch


def _loss(case: Case, data: Data, side: Side) -> float | None:
    if data.y is None or not case.subject.compiled:
        return None
    outputs = side.outputs[0] if len(side.outputs) == 1 else side.outputs
    return case.subject.loss(data, outputs)


def _outputs(inference: Pass, data: Data, size: int) -> list[Array]:
    parts = [inference.run(batch.x).outputs for batch in data.batches(size)]
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]


def _alternatives(
    case: Case,
    data: Data,
    training: Pass,
    tracked: Sequence[Tracked],
    estimate: Estimate,
    reference: list[Array],
) -> list[list[list[Array]]]:
    """Statistics that would be as good as the reference: other samples, and healthy jitter.

    Other samples are every other batch; of a single batch, every other row; of few rows, all but
    one.
    """
    rng = np.random.default_rng(case.settings.seed)
    halves = estimate.halves
    if data.rows < FEW_ROWS and estimate.rows == data.rows:
        halves = []
        samples = [np.delete(np.arange(data.rows), row) for row in range(data.rows)]
    else:
        samples = [np.arange(data.rows)[start::2] for start in (0, 1)]
    if not halves:
        parts = (data.take(rows) for rows in samples)
        seen = statistics.batch_statistics(training, tracked, parts)
        halves = [Estimate(tracked, [one]).population for one in seen]
    jitters = [
        [
            value + _jitter(t) * deviation * rng.standard_normal(value.shape)
            for t, value, deviation in zip(tracked, reference, estimate.spread, strict=True)
        ]
        for _ in range(JITTERS if estimate.batches > 1 else 0)
    ]
    return [halves, jitters]


def _jitter(t: Tracked) -> float:
    """The deviation of a converged moving average, in those from batch to batch."""
    momentum = t.momentum if t.momentum >= 0.5 else USUAL_MOMENTUM
    return math.sqrt((1 - momentum) / (1 + momentum)) if momentum < 1 else 1.0


def _noise(m: Measured, alternatives: list[list[list[Array]]], thorough: bool) -> list[list[Gap]]:
    """How far each alternative is from the reference.

    Where nothing hangs on it, one of each and some rows tell enough for the evidence.
    """
    if thorough:
        return [[gap(m.under(v), m.population, m.data) for v in group] for group in alternatives]
    count = max(16, m.data.rows // 16) if m.small else 2
    index = np.linspace(0, m.data.rows - 1, min(m.data.rows, count)).round().astype(int)
    some = m.data.take(index)
    reference = Side([output[index] for output in m.population.outputs])
    groups = [group[:1] for group in alternatives]
    return [[gap(m.under(v, some), reference, some) for v in group] for group in groups]


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


def _count(tracked: Sequence[Tracked]) -> str:
    return counted(len({id(t.layer) for t in tracked}), "normaliser")


def _unseen(verdict: Verdict, summary: str, hint: str) -> CheckResult:
    return CheckResult(NAME, verdict, summary=summary, hint=hint)
