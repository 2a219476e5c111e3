"""What is declared frozen stays frozen: training moves none of its state and no mode of it.

Real training steps run through the user's own path, on shifted data so that a moving statistic
must show, and with two batch shapes, because a retrace can change what is frozen.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Array, Data, is_float, map_nest
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.diagnosis.rules import Rule
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.probes.state import Variables, preserve_state
from pytest_bnconsistency.probes.statistics import tracked_candidates
from pytest_bnconsistency.probes.taps import Instrument, Pass, Replay
from pytest_bnconsistency.results import CheckResult, Finding, Table, Verdict
from pytest_bnconsistency.subjects import Call, Subject
from pytest_bnconsistency.words import counted

NAME = "frozen_stability"
SHIFT = 3.0
"""Rows are moved by this many standard deviations."""
TRACED_SIZES = 2
COLUMNS = ("layer", "frozen by", "own flag", "state in training", "output in training")


@dataclass(frozen=True, eq=False)
class Frozen:
    """A layer that is declared frozen, and by what.

    `inference_only` says that only its mode is declared (`training=False`), so that its weights
    may train but its statistics may not move.
    """

    call: Call
    by: str
    inference_only: bool
    variables: tuple[Any, ...]
    own_flag: bool

    @property
    def path(self) -> str:
        return self.call.path


class Modes(Instrument):
    """Records, for frozen layers, how far training mode is from inference mode on one input."""

    def __init__(self, subject: Subject, frozen_by: Any) -> None:
        self._subject, self._frozen_by = subject, frozen_by

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if (
            not call.is_layer
            or self._frozen_by(call) is None
            or not self._subject.takes_training(call.layer)
            or not self._subject.own_variables(call.layer)
            or self._subject.stochastic(call.layer)
            or not isinstance(outputs, tf.Tensor)
            or not outputs.dtype.is_floating
        ):
            return outputs, None
        still = tf.cast(replay(False), tf.float32)
        seen = tf.cast(outputs, tf.float32)
        return outputs, [tf.reduce_max(tf.abs(seen - still)), tf.reduce_max(tf.abs(still))]


def check(case: Case) -> CheckResult:
    if case.data is None and case.asked and case.train_step is not None:
        raise DataError("frozen_stability has a train_step but no data; give x and y")
    labelled = case.data is not None and case.data.y is not None
    if case.data is not None and case.asked and not labelled and _trains_with_targets(case):
        raise DataError(
            "frozen_stability runs real training steps of the compiled model, and y is missing; "
            "give targets as y"
        )
    rows = case.rows(min(case.settings.batch_size, case.data.rows if case.data else 8))
    with preserve_state(case.subject) as state:
        return _decide(case, rows, state)


def _trains_with_targets(case: Case) -> bool:
    return case.subject.compiled or case.train_step is not None


def _decide(case: Case, x: Any, state: Variables) -> CheckResult:
    subject = case.subject
    told_inference = {id(layer) for layer in subject.inference_calls()}
    pattern = case.settings.frozen

    def frozen_by(call: Call) -> tuple[str, bool] | None:
        return _declared(subject, call, told_inference, pattern)

    shifted = map_nest(_shift, x)
    training = Pass(subject, x, training=True, instrument=Modes(subject, frozen_by))
    frozen = _frozen_layers(subject, training, frozen_by)
    paths = [c.path for c in training.calls if c.is_layer and subject.own_variables(c.layer)]
    if pattern and not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
        known = ", ".join(list(dict.fromkeys(paths))[:4])
        raise DataError(
            f"frozen={pattern!r} matches no layer that has variables; expected a pattern of "
            f"paths such as {known}"
        )
    if not frozen:
        return CheckResult(
            NAME,
            Verdict.NOT_APPLICABLE,
            summary="no layer with variables is declared frozen",
            hint="set trainable=False, call with training=False, or say frozen='backbone/*'",
        )
    for f in frozen:
        state.add(list(f.variables))

    seen = training.run(shifted)
    forward_moved = {id(v) for v in seen.moved}
    apart = {
        id(call.layer): (float(record[0]), float(record[1]))
        for call, record in zip(training.calls, seen.records, strict=True)
        if record
    }
    moved, steps = _train(case, frozen)
    moving = [f for f in frozen if any(id(v) in moved | forward_moved for v in f.variables)]
    for layer in _drawing(training):
        apart.pop(layer, None)  # dropout tells its modes apart, and that is no fault
    by_batch = [f for f in frozen if _differs(apart.get(id(f.call.layer)))]
    table = _table(frozen, moving, apart)
    evidence: dict[str, Any] = {
        "frozen": {f.path: f.by for f in frozen},
        "steps": steps,
        "shift": SHIFT,
        "variables": sum(len(f.variables) for f in frozen),
    }
    findings = _findings(case, shifted, frozen, moving, by_batch, forward_moved, apart, table)
    notes = _notes(subject, training, frozen, steps)
    if findings:
        return CheckResult(
            NAME, Verdict.FAILED, tuple(findings), notes=notes, table=table, evidence=evidence
        )
    normalisers = sum(bool(tracked_candidates(subject, f.call.layer)) for f in frozen)
    how = (
        f"{steps['steps']} real steps ({steps['shapes']})"
        if steps["steps"]
        else "one forward pass"
    )
    summary = (
        f"{evidence['variables']} variables of {counted(len(frozen), 'frozen layer')} "
        f"({normalisers} of them "
        f"with statistics) keep their bits in {how} on rows moved by {SHIFT:g} standard "
        "deviations, and training mode gives what inference gives"
    )
    return CheckResult(
        NAME, Verdict.PASSED, summary=summary, notes=notes, table=table, evidence=evidence
    )


def _declared(
    subject: Subject, call: Call, told_inference: set[int], pattern: str | None
) -> tuple[str, bool] | None:
    """What declares the call's layer frozen, and whether it only declares its mode."""
    if not call.is_layer:
        return None
    if not subject.trainable(call.layer):
        return "trainable=False", False
    for parent in reversed(call.parents):
        if not subject.trainable(parent):
            return f"trainable=False on {parent.name}", False
    if not subject.trainable(subject.model):
        return "trainable=False on the model", False
    if pattern and fnmatch.fnmatchcase(call.path, pattern):
        return f"pattern {pattern}", False
    for outer in [call.layer, *reversed(call.parents)]:
        if id(outer) in told_inference:
            return f"training=False in the call of {outer.name}", True
    if call.kwargs.get("training") is False:
        return f"training=False in the call of {call.layer.name}", True
    return None


def _frozen_layers(subject: Subject, training: Pass, frozen_by: Any) -> list[Frozen]:
    found: dict[int, Frozen] = {}
    for call in training.calls:
        declared = frozen_by(call)
        if declared is None or id(call.layer) in found:
            continue
        by, inference_only = declared
        variables = (
            tracked_candidates(subject, call.layer)
            if inference_only
            else subject.own_variables(call.layer)
        )
        if variables:
            found[id(call.layer)] = Frozen(
                call, by, inference_only, tuple(variables), subject.trainable(call.layer)
            )
    return list(found.values())


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


def _shift(leaf: Array) -> Array:
    if not is_float(leaf):
        return leaf
    moved: Array = (leaf + leaf.dtype.type(SHIFT * (leaf.std() or 1.0))).astype(leaf.dtype)
    return moved


def _train(case: Case, frozen: Sequence[Frozen]) -> tuple[set[int], dict[str, Any]]:
    """The frozen variables that real steps move, and what ran; the state is as before after."""
    subject, data = case.subject, case.data
    runs = data is not None and (
        case.train_step is not None or (subject.compiled and data.y is not None)
    )
    if data is None or not runs:
        return set(), {"steps": 0, "shapes": "", "path": "forward pass in training mode"}
    size = min(case.settings.batch_size, data.rows)
    sizes = [size, size - 1, size] if size > 1 else [1, 2, 1]
    # What was traced before a flag changed still runs as it was, for its batch size alone.
    traced = [rows for rows in subject.traced_batch_sizes() if rows not in sizes]
    sizes = [*traced[:TRACED_SIZES], *sizes]
    before = Variables([v for f in frozen for v in f.variables])
    moved: set[int] = set()
    for rows in sizes:
        batch = data.take(np.arange(rows * case.settings.steps) % data.rows)
        batch = Data(map_nest(_shift, batch.x), batch.y, batch.sample_weight)
        if case.train_step is not None:
            for part in batch.batches(rows):
                case.train_step(part.x, part.y)
        else:
            subject.fit(batch, rows)
        moved |= {id(v) for v in before.moved()}
    before.restore()
    return moved, {
        "steps": case.settings.steps * len(sizes),
        "shapes": "batches of " + ", ".join(str(rows) for rows in sizes),
        "path": "train_step" if case.train_step is not None else "fit",
    }


def _findings(
    case: Case,
    shifted: Any,
    frozen: Sequence[Frozen],
    moving: Sequence[Frozen],
    by_batch: Sequence[Frozen],
    forward_moved: set[int],
    apart: Mapping[int, tuple[float, float]],
    table: Table,
) -> list[Finding]:
    """One finding a cause, with all the layers that it explains."""
    findings: list[Finding] = []
    left = list(moving)

    def explain(
        rule: Rule, explained: Sequence[Frozen], cause: str, tested: str, remedy: str
    ) -> None:
        if not explained:
            return
        first = max(explained, key=lambda f: _distance(apart, f))
        for f in explained:
            if f in left:
                left.remove(f)
        findings.append(
            Finding(
                rule.id,
                rule.slug,
                first.path,
                _message(explained, first, apart, moving, len(frozen)),
                cause,
                bool(tested),
                remedy,
                tested or "freezing by flag, compiling again, inference mode forced",
                "no tolerance: bitwise" if first in moving else "64 units of float32 on one input",
                table=table,
                evidence={
                    "layers": [f.path for f in explained],
                    "train_minus_inference": {
                        f.path: apart[id(f.call.layer)][0]
                        for f in explained
                        if id(f.call.layer) in apart
                    },
                },
            )
        )

    overridden = [f for f in frozen if f.inference_only and (f in left or f in by_batch)]
    if overridden:
        fixed = _forward_with(case, shifted, overridden, frozen=True)
        explain(
            rules.INFERENCE_OVERRIDDEN,
            overridden,
            f"fit runs {_layers(overridden, overridden[0])} in training mode, in spite of "
            f"{overridden[0].by}",
            "with trainable=False on the same layers, their statistics stay and training mode "
            "gives what inference gives"
            if fixed
            else "",
            "set trainable = False on each of these normalisers and compile again; or give the "
            "base to a layer that calls it with training=False in its own call",
        )
    for rule, mark, cause in (
        (rules.CHILD_TRAINABLE, " on ", ", but the layer's own flag is True"),
        (rules.NOT_FROZEN, "pattern", " says frozen, but the layer's own flag is True"),
    ):
        free = [f for f in left if f.own_flag and mark in f.by]
        if free:
            still = _retrained(case, free, freeze=free)
            explain(
                rule,
                free,
                f"{free[0].by}{cause}",
                "" if still else "with trainable=False on the layer itself, its state stays",
                "set trainable = False on the layer itself, after every trainable = True on a "
                "parent, and compile again",
            )
    by_flag = [f for f in left if not f.inference_only and not f.by.startswith("pattern")]
    if by_flag and not any(id(v) in forward_moved for f in by_flag for v in f.variables):
        still = _retrained(case, by_flag, freeze=())
        explain(
            rules.RECOMPILE_MISSING,
            [f for f in by_flag if not any(id(v) in still for v in f.variables)],
            "fit still runs the training function that was compiled before the layers were frozen",
            "with the training function built anew, their state stays",
            "call model.compile(...) again after changing trainable",
        )
    ignoring = [f for f in left if any(id(v) in forward_moved for v in f.variables)]
    if ignoring:
        fixed = _forward_with(case, shifted, ignoring, frozen=False)
        explain(
            rules.FROZEN_MOVES,
            ignoring,
            "the layer updates its state whenever training is true, and does not look at trainable"
            if fixed
            else "not established",
            "told training=False, its state stays" if fixed else "",
            "in the layer: if training and self.trainable: update; or call it with training=False",
        )
    explain(
        rules.FROZEN_MOVES,
        list(left),
        "not established: the forward pass leaves the state alone, a training step does not",
        "",
        "look for what writes these variables: an optimizer, a callback, the step itself",
    )
    explain(
        rules.FROZEN_BY_BATCH,
        [f for f in by_batch if f not in moving and f not in overridden],
        "frozen or not, the layer normalises by the batch in training mode; its statistics stay",
        "on the identical input, inference mode gives another output",
        "use a BatchNormalization of V2 behaviour (tf.keras 2.2 or later, keras 3), or call the "
        "frozen part with training=False",
    )
    return findings


def _forward_with(case: Case, shifted: Any, layers: Sequence[Frozen], *, frozen: bool) -> bool:
    """Whether the layers' state stays in a forward pass, once frozen by flag or told inference."""
    ours = {id(v) for f in layers for v in f.variables}
    with _frozen_by_flag(case, layers if frozen else ()):
        again = Pass(
            case.subject,
            shifted,
            training=True,
            instrument=Modes(case.subject, lambda call: ("", False) if frozen else None),
            modes={} if frozen else {id(f.call.layer): False for f in layers},
        )
        seen = again.run(shifted)
    named = {id(f.call.layer) for f in layers}
    alike = not any(
        record and id(call.layer) in named and _differs((float(record[0]), float(record[1])))
        for call, record in zip(again.calls, seen.records, strict=True)
    )
    return alike and not any(id(v) in ours for v in seen.moved)


def _retrained(case: Case, layers: Sequence[Frozen], freeze: Sequence[Frozen]) -> set[int]:
    """The variables that still move with the training function built anew."""
    with _frozen_by_flag(case, freeze):
        if case.subject.compiled:
            case.subject.rebuild_training()
        moved, _ = _train(case, layers)
        return moved


@contextlib.contextmanager
def _frozen_by_flag(case: Case, layers: Sequence[Frozen]) -> Iterator[None]:
    """Within it, the layers' own flags say frozen."""
    flags = [(f.call.layer, case.subject.trainable(f.call.layer)) for f in layers]
    try:
        for layer, _ in flags:
            case.subject.freeze(layer)
        yield
    finally:
        for layer, flag in flags:
            layer.trainable = flag


def _differs(apart: tuple[float, float] | None) -> bool:
    """Whether two modes differ by more than float noise of a single layer can make them."""
    if apart is None:
        return False
    distance, scale = apart
    return not distance <= 64 * 2.0**-23 * max(scale, 1e-30)


def _distance(apart: Mapping[int, tuple[float, float]], f: Frozen) -> float:
    return apart.get(id(f.call.layer), (0.0, 0.0))[0]


def _message(
    explained: Sequence[Frozen],
    first: Frozen,
    apart: Mapping[int, tuple[float, float]],
    moving: Sequence[Frozen],
    total: int,
) -> str:
    count = sum(f in moving for f in explained)
    layers = counted(total, "frozen layer")
    parts = [f"training moves the state of {count} of {layers}"] if count else []
    distance = _distance(apart, first)
    if distance and _differs(apart.get(id(first.call.layer))):
        parts.append(f"in {first.path}, training mode is {distance:.3g} away from inference mode")
    return "; ".join(parts) or f"{layers} changed"


def _layers(explained: Sequence[Frozen], first: Frozen) -> str:
    more = len(explained) - 1
    return first.path if not more else f"{first.path} and {more} more"


def _table(
    frozen: Sequence[Frozen],
    moving: Sequence[Frozen],
    apart: Mapping[int, tuple[float, float]],
) -> Table:
    ordered = sorted(frozen, key=lambda f: (f not in moving, -_distance(apart, f)))
    return Table(
        COLUMNS,
        tuple(
            (
                f.path,
                f.by,
                str(f.own_flag),
                "moves" if f in moving else "still",
                f"{_distance(apart, f):.3g} off"
                if _differs(apart.get(id(f.call.layer)))
                else "as in inference",
            )
            for f in ordered
        ),
    )


def _notes(
    subject: Subject, training: Pass, frozen: Sequence[Frozen], steps: Mapping[str, Any]
) -> tuple[str, ...]:
    notes = []
    if not steps["steps"]:
        notes.append("no training step ran (no targets): only the forward pass was looked at")
    names = {id(f.call.layer) for f in frozen}
    free = list(
        dict.fromkeys(
            call.path
            for call in training.calls
            if call.is_layer and id(call.layer) not in names and subject.own_variables(call.layer)
        )
    )
    listed = ", ".join(free[:4]) + (f" and {len(free) - 4} more" if len(free) > 4 else "")
    frozen_names = [f.path for f in frozen]
    which = frozen_names[0]
    if len(frozen_names) > 1:
        which = (
            f"{len(frozen_names)} layers, from {frozen_names[0]} to {frozen_names[-1]} as they run"
        )
    notes.append(f"declared frozen: {which}; trainable: {listed or 'none'}")
    return tuple(notes)
