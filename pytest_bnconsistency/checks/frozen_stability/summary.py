"""What is said of a pass, in notes and as evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_bnconsistency.checks.frozen_stability.declared import not_frozen
from pytest_bnconsistency.checks.frozen_stability.fine_tuning import Start
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen, Measured
from pytest_bnconsistency.checks.frozen_stability.status import Status
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.training_steps import SHIFT, Ran
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.training_batches import form_of
from pytest_bnconsistency.words import counted, listed


def summary_of(m: Measured, ran: Ran) -> str:
    count = sum(bool(tracked_candidates(m.subject, f.call.layer)) for f in m.judged)
    steps, sizes = m.steps.steps * len(ran.sizes), ", ".join(map(str, ran.sizes))
    how = f"{steps} real steps (batches of {sizes})" if ran.sizes else "one forward pass"
    return (
        f"{sum(len(f.variables) for f in m.judged)} variables of "
        f"{counted(len(m.judged), 'frozen layer')} ({count} of them with statistics) keep their "
        f"bits in {how} on rows moved by {SHIFT:g} standard deviations, and training mode gives "
        "what inference gives"
    )


def open_question(training: Pass, m: Measured, ran: Ran) -> Unanswered | None:
    """Why nothing can be told though nothing moved, and what to do; None where it can."""
    free_layers = not_frozen(m.subject, training, m.frozen).values()
    if not ran.trained and any(map(m.subject.trainable, free_layers)):
        return Unanswered(
            f"{m.steps.path} changed no variable of this model in {len(ran.sizes)} runs",
            "give a train_step(x, y) that trains the model that is given",
        )
    blind = [f for f in m.frozen if not m.gap(f).compared]
    if blind:
        return Unanswered(
            f"the outputs of {blind[0].path} are NaN or Inf in both modes, in {len(blind)} of "
            f"{counted(len(m.frozen), 'frozen layer')}",
            "look for NaN in the weights; statistics_health says whether stored statistics are at "
            "fault",
        )
    return None


def notes_of(training: Pass, m: Measured, ran: Ran, start: Start | None) -> tuple[str, ...]:
    subject, notes = m.subject, list[str]()
    if not m.steps.possible:
        notes.append("no training step ran (no targets): only the forward pass was looked at")
    notes += _of_steps(m, ran)
    if ran.broken:
        notes.append(
            f"the steps leave NaN or Inf in {counted(ran.broken, 'weight')}: the loss is not "
            "finite on these rows, or the rate is too large"
        )
    notes += _of_start(m, start)
    inside_frozen = [
        f for f in m.frozen if not f.own_flag and any(map(subject.trainable, f.call.parents))
    ]
    if inside_frozen:
        paths = listed([f.path for f in inside_frozen], most=1)
        notes.append(f"frozen under a parent that is not: {paths}")
    notes.append(_which(subject, training, m.frozen))
    return tuple(notes)


def _of_start(m: Measured, start: Start | None) -> list[str]:
    """What both modes say of the user's rows, where no finding says it."""
    if start is None:
        return []
    notes = []
    if start.scored and m.start is None:
        notes.append(f"on {counted(start.rows, 'row')}: {start.sentence}")
    if start.wrong_in_both:
        untrained = "; or the model, which counts no updates, was not trained yet"
        notes.append(start.wrong_in_both + untrained * (m.subject.updates() == 0))
    return notes


def _of_steps(m: Measured, ran: Ran) -> list[str]:
    """What no step ran on, and what the steps leave for those that follow."""
    notes = []
    if ran.unlike:
        notes.append(
            f"fit was also traced for batches that the data given doesn't fit: no step ran on "
            f"{listed([form_of(batch) for batch in ran.unlike])}"
        )
    left = {id(seen.layer): seen for seen in m.flagged}
    freed = [f for f in m.frozen if id(f.call.layer) in left and left[id(f.call.layer)].value]
    if freed and not freed[0].any_of(m.by_steps):
        notes.append(
            f"{left[id(freed[0].call.layer)].label} leaves trainable = True on {freed[0].path}, "
            "which was False: what is compiled or traced after that trains it"
        )
    return notes


def _which(subject: Subject, training: Pass, frozen: Sequence[Frozen]) -> str:
    free = list(not_frozen(subject, training, frozen))
    listed = ", ".join(free[:4]) + (f" and {len(free) - 4} more" if len(free) > 4 else "")
    which = frozen[0].path
    if len(frozen) > 1:
        which = f"{len(frozen)} layers, from {frozen[0].path} to {frozen[-1].path} as they run"
    return f"declared frozen: {which}; trainable: {listed or 'none'}"


def evidence_of(
    m: Measured, ran: Ran, normalization_layers: Sequence[Status], start: Start | None
) -> dict[str, Any]:
    steps = m.steps
    evidence: dict[str, Any] = {
        "frozen": {f.path: f.by for f in m.frozen},
        "steps": {
            "steps": steps.steps * len(ran.sizes),
            "shapes": "batches of " + ", ".join(map(str, ran.sizes)) if ran.sizes else "",
            "path": steps.path if steps.possible else "forward pass in training mode",
        },
        "shift": SHIFT,
        "variables": sum(len(f.variables) for f in m.judged),
        "normalization_layers": [status.plain() for status in normalization_layers],
    }
    return evidence if start is None else {**evidence, "fine_tuning": start.numbers()}
