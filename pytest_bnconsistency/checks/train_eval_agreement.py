"""With the same weights and data, evaluation says what training said.

The reference is the model under the population statistics of the given data, and what it says in
training mode. Two gates must be passed to fail: the gap exceeds what sampling explains, and it is
worth a person's time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytest_bnconsistency.checks import never_updated, schedule
from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.estimation import Estimated, estimated
from pytest_bnconsistency.checks.harm import UNEXPLAINED, harm, limits, loss_limit, unlike_training
from pytest_bnconsistency.checks.measuring import measured
from pytest_bnconsistency.checks.sampling import DEVIATIONS, FEW_ROWS, sampling
from pytest_bnconsistency.data import Data, all_finite
from pytest_bnconsistency.diagnosis import disagreement, stepping
from pytest_bnconsistency.diagnosis.sides import gap, number, numbers
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.probes.sizes import only_size
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.probes.statistics import Tracked
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.words import counted

NAME = "train_eval_agreement"


def check(case: Case) -> CheckResult:
    if case.data is None:
        if case.asked:
            raise DataError(
                "train_eval_agreement needs data and got none; give training data as x, and y "
                "for loss and metrics, or --bn-data"
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
    if refusal := only_size(case.subject):
        return _unseen(Verdict.NOT_APPLICABLE, refusal, "")
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
            "there is no normaliser, or all of them are frozen, or what they keep is no moving "
            "average of their input (a table with statistics for each domain, say)",
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
    data = dataclasses.replace(data, notes=(*data.notes, *known.notes))
    warnings = [] if planned is None else schedule.warnings(tracked, held, planned)
    return _compare(case, data, known, done, warnings)


def _compare(
    case: Case,
    data: Data,
    known: Estimated,
    done: int | None,
    warnings: list[Finding],
) -> CheckResult:
    m = measured(case, data, known, done)
    if not all_finite(m.population.outputs):
        return _unseen(
            Verdict.VACUOUS,
            "the outputs are NaN or Inf, under the population statistics of the data as well",
            "look for NaN in the weights",
        )
    apart = gap(m.stored, m.population, data)
    harmful = harm(case, m, apart)
    chance = sampling(m, known.estimate, thorough=bool(harmful))
    if harmful:
        harmful = harm(case, m, apart, chance.restless)
    few, means, bound = chance.few, chance.means, chance.bound
    certain = few and m.biased
    evidence: dict[str, Any] = {
        "rows": data.rows,
        "statistics_rows": known.estimate.rows,
        "batch_size": known.size,
        "normalisers": len({id(t.layer) for t in m.tracked}),
        "updates": m.updates,
        "moving": m.stored.scores,
        "population": m.population.scores,
        "training": m.trained.scores,
        "output_gap": apart.outputs,
        "decisions_changed": apart.decisions,
        "bound": bound,
        "bound_by": means,
        "decisions_restless": chance.restless,
        "initial_share_measured": m.initial_share,
    }
    said = numbers(m.stored, m.population, apart)
    against = (
        f"sampling error ({means}) {bound:.2g}; the outputs are {apart.outputs:.2g} apart "
        "(standard deviations)"
    )
    if harmful and certain and not apart.outputs > bound:
        against += (
            "; so few rows decide nothing by themselves, the initial values in the statistics do"
        )
    finding = None
    if harmful and (apart.outputs > bound or certain):
        finding = disagreement.explain(m, against)
    elif not few and unlike_training(case, m):
        against = (
            f"a loss above {number(loss_limit(case, data, m.trained, UNEXPLAINED))}, and more "
            f"than {DEVIATIONS} times what the same rows in other batches do to the outputs"
        )
        finding = disagreement.unexplained(m, against)
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
    if harmful and few:
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
    held = f"{limits(case, m)} would have failed"
    if harmful:
        held = (
            f"sampling explains as much ({means} {bound:.2g}; the outputs are "
            f"{apart.outputs:.2g} standard deviations apart)"
        )
        notes.append(f"the gap ({harmful}) is within what sampling explains ({means})")
    elif apart.outputs > bound:
        notes.append(
            f"the outputs differ beyond sampling ({apart.outputs:.2g} against {bound:.2g} "
            "standard deviations), by less than is worth a person's time, or to the better"
        )
    summary = (
        f"{said} on {data.rows} rows, under moving against population statistics of "
        f"{_count(m.tracked)}; {held}"
    )
    return CheckResult(
        NAME,
        Verdict.PASSED,
        summary=summary,
        notes=tuple(notes),
        evidence=evidence,
        warnings=warned,
    )


def _count(tracked: Sequence[Tracked]) -> str:
    return counted(len({id(t.layer) for t in tracked}), "normaliser")


def _unseen(verdict: Verdict, summary: str, hint: str) -> CheckResult:
    return CheckResult(NAME, verdict, summary=summary, hint=hint)
