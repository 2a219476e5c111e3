"""What is declared frozen stays frozen: training moves none of its state and no mode of it.

Real training steps run through the user's own path, on shifted data so that a moving statistic
must show, and with two batch shapes, because a retrace can change what is frozen.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_bnconsistency.checks.check_context import Case
from pytest_bnconsistency.checks.frozen_stability import explain as freezing
from pytest_bnconsistency.checks.frozen_stability import fine_tuning
from pytest_bnconsistency.checks.frozen_stability import warnings as normalisers
from pytest_bnconsistency.checks.frozen_stability.explain import Frozen, Measured
from pytest_bnconsistency.checks.frozen_stability.warnings import Normaliser
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.accepted_sizes import only_size
from pytest_bnconsistency.execution.forward_pass import Pass, neutralised
from pytest_bnconsistency.execution.state import Variables, preserve_state
from pytest_bnconsistency.execution.trainable_flags import flags_set
from pytest_bnconsistency.execution.training_steps import (
    SHIFT,
    Apart,
    Modes,
    Ran,
    Steps,
    apart_of,
    shifted,
)
from pytest_bnconsistency.measurement.normalization_layers import tracked_candidates
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.training_batches import form_of
from pytest_bnconsistency.results import CheckResult, Table, Verdict
from pytest_bnconsistency.words import counted, listed

NAME = "frozen_stability"
COLUMNS = ("layer", "frozen by", "own flag", "state in training", "output in training")

Declared = Callable[[Call], Frozen | None]


def check(case: Case) -> CheckResult:
    if case.data is None and case.asked and case.train_step is not None:
        raise DataError("frozen_stability has a train_step but no data; give x and y")
    labelled = case.data is not None and case.data.y is not None
    trains = case.subject.compiled or case.train_step is not None
    scored = trains and case.train_step is None and case.subject.needs_targets
    if case.data is not None and case.asked and not labelled and scored:
        raise DataError(
            "frozen_stability runs real training steps of the compiled model, and y is missing; "
            "give targets as y"
        )
    if case.subject.modeless and case.train_step is None:
        return CheckResult(
            check=NAME, verdict=Verdict.NOT_APPLICABLE, summary=case.subject.modeless
        )
    unlike = trains or case.data is None  # steps run on two batch shapes
    if unlike and (refusal := only_size(case.subject)):
        return CheckResult(check=NAME, verdict=Verdict.NOT_APPLICABLE, summary=refusal)
    rows = case.rows(min(case.settings.batch_size, case.data.rows if case.data else 8))
    with preserve_state(case.subject, case.train_step) as state:
        return _decide(case, rows, state)


def _decide(case: Case, x: Any, state: Variables) -> CheckResult:
    subject = case.subject
    told = {id(layer) for layer in subject.inference_calls()}
    pattern = case.settings.frozen

    def declared(call: Call) -> Frozen | None:
        return _declared(subject, call, told, pattern)

    training = neutralised(
        subject, x, training=True, instrument=lambda: Modes(subject, lambda call: True)
    )
    frozen = _frozen_layers(training, declared)
    _check_pattern(subject, training, pattern)
    found = _normalisers(subject, training, declared)
    if not frozen:
        free = f"; {counted(len(found), 'normaliser')} trainable" if found else ""
        return CheckResult(
            check=NAME,
            verdict=Verdict.NOT_APPLICABLE,
            summary=f"no layer with variables is declared frozen{free}",
            hint="set trainable=False, call with training=False, or say frozen='backbone/*'",
        )
    watched = [v for f in frozen for v in f.variables]
    watched += [v for n in found for v in (*n.statistics, *n.weights)]
    state.add(watched)

    moved_rows = shifted(x)
    seen = training.run(moved_rows)
    apart = apart_of(training.calls, seen.records)
    for layer in _drawing(training):
        apart.pop(layer, None)  # dropout tells its modes apart, and that is no fault
    steps = Steps(
        subject, case.data, case.train_step, case.settings.batch_size, case.settings.steps
    )
    with flags_set([f.call.layer for f in frozen], subject.layers()) as flagged:
        ran = steps.run(watched)
    m = Measured(
        subject,
        moved_rows,
        steps,
        frozen,
        frozenset(id(v) for v in seen.moved),
        ran.moved,
        flagged,
        apart,
        Table(COLUMNS, ()),
        "",
    )
    start = _start(case, training, m)
    m = _with_text(m, start)
    findings = freezing.explain(m)
    table = normalisers.table(
        found, m.by_forward | m.by_steps, apart, findings, trained=steps.possible
    )
    evidence = _evidence(m, steps, ran, table, start)
    notes = _notes(subject, training, m, steps, ran, start)
    if findings:
        return CheckResult(
            check=NAME,
            verdict=Verdict.FAILED,
            findings=tuple(findings),
            notes=notes,
            table=table,
            evidence=evidence,
        )
    if not ran.trained and any(map(subject.trainable, _free(subject, training, frozen).values())):
        return CheckResult(
            check=NAME,
            verdict=Verdict.VACUOUS,
            summary=f"{steps.path} changed no variable of this model in {len(ran.sizes)} runs",
            hint="give a train_step(x, y) that trains the model that is given",
            notes=notes,
            table=table,
            evidence=evidence,
        )
    blind = [f for f in frozen if not apart.get(id(f.call.layer), Apart()).compared]
    if blind:
        return CheckResult(
            check=NAME,
            verdict=Verdict.VACUOUS,
            summary=f"the outputs of {blind[0].path} are NaN or Inf in both modes, in "
            f"{len(blind)} of {counted(len(frozen), 'frozen layer')}",
            hint="look for NaN in the weights; statistics_health says whether stored statistics "
            "are at fault",
            notes=notes,
            table=table,
            evidence=evidence,
        )
    return CheckResult(
        check=NAME,
        verdict=Verdict.PASSED,
        summary=_summary(m, steps, ran),
        notes=notes,
        table=table,
        evidence=evidence,
    )


def _declared(
    subject: Subject, call: Call, told_inference: set[int], pattern: str | None
) -> Frozen | None:
    """What declares the call's layer frozen, with all variables that must stay then."""
    layer = call.layer
    if not call.is_layer:
        return None
    own = subject.trainable(layer)

    def by(reason: str, **kinds: bool) -> Frozen | None:
        statistics_only = kinds.get("inference_only", False)
        held = tracked_candidates(subject, layer) if statistics_only else None
        variables = subject.own_variables(layer) if held is None else held
        return Frozen(call, reason, tuple(variables), own, **kinds) if variables else None

    if not own:
        return by("trainable=False")
    for parent in reversed(call.parents):
        if not subject.trainable(parent):
            return by(f"trainable=False on {parent.name}", above=True)
    if not subject.trainable(subject.model):
        return by("trainable=False on the model", above=True)
    if pattern and fnmatch.fnmatchcase(call.path, pattern):
        return by(f"pattern {pattern}", expected=True)
    for outer in [layer, *reversed(call.parents)]:
        if id(outer) in told_inference:
            return by(f"training=False in the call of {outer.name}", inference_only=True)
    if call.told[-1] is False:
        return by(f"training=False in the call of {layer.name}", inference_only=True)
    return None


def _frozen_layers(training: Pass, declared: Declared) -> list[Frozen]:
    found: dict[int, Frozen] = {}
    for call in _all_calls(training):
        if id(call.layer) not in found and (frozen := declared(call)) is not None:
            found[id(call.layer)] = frozen
    return list(found.values())


def _all_calls(training: Pass) -> Iterator[Call]:
    """The calls of a pass; then, as if called, layers that others run, and that nobody ran."""
    subject, seen = training.subject, set()
    calls = [*training.calls, *training.inner_calls]
    for call in calls:
        seen.add(id(call.layer))
        yield call
    for call in calls:
        for inside in subject.sublayers(call.layer) if call.is_layer else ():
            if id(inside) not in seen:
                seen.add(id(inside))
                parents, told = (*call.parents, call.layer), (*call.told, None)
                path = f"{call.path}/{inside.name}"
                yield Call(inside, path, 0, True, parents, told, (), {})
    for layer in subject.layers():
        if id(layer) not in seen and layer is not subject.model:
            above = subject.above(layer)
            told = (None,) * (len(above) + 1)
            yield Call(layer, subject.path(layer), 0, True, above, told, (), {})


def _normalisers(subject: Subject, training: Pass, declared: Declared) -> list[Normaliser]:
    """Layers with variables of their own that follow what they see, rather than a gradient."""
    found: dict[int, Normaliser] = {}
    for call in _all_calls(training):
        held = tracked_candidates(subject, call.layer) if call.is_layer else []
        if not held or id(call.layer) in found or not subject.takes_training(call.layer):
            continue
        statistics = {id(v) for v in held}
        weights = [v for v in subject.own_variables(call.layer) if id(v) not in statistics]
        frozen = declared(call)
        by = "" if frozen is None else frozen.by
        found[id(call.layer)] = Normaliser(call, by, held, weights)
    return list(found.values())


def _check_pattern(subject: Subject, training: Pass, pattern: str | None) -> None:
    paths = [c.path for c in _all_calls(training) if c.is_layer and subject.own_variables(c.layer)]
    if pattern and not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
        known = ", ".join(list(dict.fromkeys(paths))[:4])
        raise DataError(
            f"frozen={pattern!r} matches no layer that has variables; expected a pattern of "
            f"paths such as {known}"
        )


def _drawing(training: Pass) -> set[int]:
    """The layers that draw random numbers, and those that hold such layers, by identity."""
    random = {id(layer) for layer in training.random_layers}
    holders = {
        id(parent)
        for call in training.calls
        if id(call.layer) in random
        for parent in call.parents
    }
    return random | holders


def _start(case: Case, training: Pass, m: Measured) -> fine_tuning.Start | None:
    """Both modes on the user's own rows, where there are targets to score them by."""
    if case.data is None or case.data.y is None or case.subject.modeless:
        return None
    differing = [id(f.call.layer) for f in m.by_batch]
    return fine_tuning.start(
        case.subject, case.data, case.settings.batch_size, training, differing
    )


def _with_text(m: Measured, start: fine_tuning.Start | None) -> Measured:
    gap = start.gap if start is not None and m.by_batch else ""
    ordered = sorted(m.frozen, key=lambda f: (f not in m.moving, -m.distance(f)))
    rows = tuple(
        (
            f.path,
            f.by,
            str(f.own_flag),
            "moves" if f in m.moving else "still",
            f"{m.distance(f):.3g} off" if m.differs(f) else "as in inference",
        )
        for f in ordered
    )
    return Measured(
        m.subject,
        m.x,
        m.steps,
        m.frozen,
        m.by_forward,
        m.by_steps,
        m.flagged,
        m.apart,
        Table(COLUMNS, rows),
        gap,
    )


def _evidence(
    m: Measured, steps: Steps, ran: Ran, table: Table | None, start: fine_tuning.Start | None
) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "frozen": {f.path: f.by for f in m.frozen},
        "steps": {
            "steps": steps.steps * len(ran.sizes),
            "shapes": "batches of " + ", ".join(map(str, ran.sizes)) if ran.sizes else "",
            "path": steps.path if steps.possible else "forward pass in training mode",
        },
        "shift": SHIFT,
        "variables": sum(len(f.variables) for f in m.frozen),
        "normalisers": []
        if table is None
        else [dict(zip(table.columns, row, strict=True)) for row in table.rows],
    }
    return evidence if start is None else {**evidence, "fine_tuning": start.numbers()}


def _summary(m: Measured, steps: Steps, ran: Ran) -> str:
    count = sum(bool(tracked_candidates(m.subject, f.call.layer)) for f in m.frozen)
    how = (
        f"{steps.steps * len(ran.sizes)} real steps (batches of {', '.join(map(str, ran.sizes))})"
        if ran.sizes
        else "one forward pass"
    )
    return (
        f"{sum(len(f.variables) for f in m.frozen)} variables of "
        f"{counted(len(m.frozen), 'frozen layer')} ({count} of them with statistics) keep their "
        f"bits in {how} on rows moved by {SHIFT:g} standard deviations, and training mode gives "
        "what inference gives"
    )


def _notes(
    subject: Subject,
    training: Pass,
    m: Measured,
    steps: Steps,
    ran: Ran,
    start: fine_tuning.Start | None,
) -> tuple[str, ...]:
    notes = []
    if not steps.possible:
        notes.append("no training step ran (no targets): only the forward pass was looked at")
    notes += _of_steps(m, ran)
    if ran.broken:
        notes.append(
            f"the steps leave NaN or Inf in {counted(ran.broken, 'weight')}: the loss is not "
            "finite on these rows, or the rate is too large"
        )
    if start is not None and start.sentence and not m.gap:  # else a finding says it
        notes.append(f"on {counted(start.rows, 'row')}: {start.sentence}")
    if start is not None and start.wrong_in_both:
        notes.append(start.wrong_in_both)
    alone = [f for f in m.frozen if not f.own_flag and any(map(subject.trainable, f.call.parents))]
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        notes.append(f"frozen under a parent that is not: {alone[0].path}{more}")
    notes.append(_which(subject, training, m.frozen))
    return tuple(notes)


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


def _free(subject: Subject, training: Pass, frozen: Sequence[Frozen]) -> dict[str, Any]:
    """The layers with variables that are not declared frozen, by their paths."""
    names = {id(f.call.layer) for f in frozen}
    return {
        call.path: call.layer
        for call in training.calls
        if call.is_layer and id(call.layer) not in names and subject.own_variables(call.layer)
    }


def _which(subject: Subject, training: Pass, frozen: Sequence[Frozen]) -> str:
    free = list(_free(subject, training, frozen))
    listed = ", ".join(free[:4]) + (f" and {len(free) - 4} more" if len(free) > 4 else "")
    which = frozen[0].path
    if len(frozen) > 1:
        which = f"{len(frozen)} layers, from {frozen[0].path} to {frozen[-1].path} as they run"
    return f"declared frozen: {which}; trainable: {listed or 'none'}"
