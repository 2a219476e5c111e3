"""Why a frozen layer moves, or uses the batch: each cause is undone before it is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.checks.budget import MORE_TIME, Tries
from pytest_bnconsistency.checks.frozen_stability.explain_writers import named_writers
from pytest_bnconsistency.checks.frozen_stability.fine_tuning import Start
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state, restored
from pytest_bnconsistency.execution.trainable_flags import Flagged, flags_set
from pytest_bnconsistency.execution.training_steps import UNITS, ModeGap, Modes, Steps, mode_gaps
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import as_variable, name_of
from pytest_bnconsistency.results import Explanation, Finding, Table
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.words import brief_line, counted, listed

MIND_TRAINABLE = (
    "in the layer: if training and self.trainable: update; or call it with training=False"
)
FLAGS, WRITERS = "freezing by flag", "what writes to the state"
OF_NOTE = 0.05
"""So much of what a mode changes must come from the other rows to be called the batch's."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A layer that is declared frozen, and by what.

    `inference_only` says that only its mode is declared (`training=False`), so that its weights
    may train but its statistics may not move. `expected` says that only the user's pattern
    declares it, `above` that a layer around it does.
    """

    call: Call
    by: str
    variables: tuple[Any, ...]
    own_flag: bool
    inference_only: bool = False
    expected: bool = False
    above: bool = False

    @property
    def path(self) -> str:
        return self.call.path

    def any_of(self, variables: frozenset[int]) -> bool:
        return any(id(variable) in variables for variable in self.variables)


@dataclass(frozen=True)
class Measured:
    """What the check measured, and the means to measure more.

    `by_forward` and `by_steps` are the variables that a forward pass in training mode, and real
    steps, move; `flagged` the flags that the steps set; `gaps` is how far a layer's modes are
    from one another, by its identity. `start` are both modes' scores, where these differ by that.
    `beyond` are those of `by_forward` that these rows move from 0 only: what is stored has seen
    more.
    """

    subject: Subject
    x: Nest
    steps: Steps
    frozen: Sequence[Frozen]
    by_forward: frozenset[int]
    by_steps: frozenset[int]
    flagged: Sequence[Flagged]
    gaps: Mapping[int, ModeGap]
    table: Table
    start: Start | None = None
    beyond: Sequence[Any] = ()

    @property
    def moving(self) -> list[Frozen]:
        return [f for f in self.frozen if f.any_of(self.by_forward | self.by_steps)]

    @property
    def by_batch(self) -> list[Frozen]:
        return [f for f in self.frozen if self.gap(f).differs]

    def gap(self, f: Frozen) -> ModeGap:
        return self.gaps.get(id(f.call.layer), ModeGap())

    def freed(self, f: Frozen) -> Flagged | None:
        """The last time that a step set the layer's flag to True, if one did."""
        mine = [seen for seen in self.flagged if seen.value and seen.layer is f.call.layer]
        return mine[-1] if mine else None

    def freed_by(self, f: Frozen) -> str:
        freed = self.freed(f)
        return "" if freed is None else freed.label

    def staying(
        self, layers: Sequence[Frozen], *, freeze: bool = False, retrace: bool = False
    ) -> list[Frozen]:
        """Those whose state stays in steps, once frozen by flag or with training traced anew.

        Raises:
            BNConsistencyError: the user's step raised, if only with other flags.
        """
        frozen = [f.call.layer for f in layers] if freeze else []
        moved = self.steps.run(_variables(layers), freeze=frozen, retrace=retrace).moved
        return [f for f in layers if not f.any_of(moved)]


@dataclass(frozen=True)
class Cause:
    """A rule with the layers that are explained by it."""

    rule: Rule
    layers: Sequence[Frozen]
    explanation: Explanation


def _explained(cause: str, remedy: str, proof: str) -> Explanation:
    """`proof` is empty where undoing the cause didn't help."""
    tried = "freezing by flag, compiling again, inference mode forced"
    return Explanation(cause=cause, remedy=remedy, tested=proof or tried, established=bool(proof))


def explain(m: Measured) -> list[Finding]:
    """One finding a cause, with all the layers that it explains."""
    with restored(m.beyond):
        for variable in m.beyond:
            variable.assign(tf.zeros_like(variable))
        return _explain(m)


def _explain(m: Measured) -> list[Finding]:
    findings: list[Finding] = []
    left, tries = list(m.moving), Tries()
    before_steps = (_overridden, _set_midway, _child, _expected)
    for named in (*before_steps, _not_compiled, _not_passed_on, _ignoring, _written):
        cause = named(m, left)
        if cause is not None and cause.layers:
            left = [f for f in left if f not in cause.layers]
            findings.append(_finding(m, cause, tries))
    by_mode = [f for f in m.by_batch if f not in m.moving and not f.inference_only]
    return findings + [_finding(m, cause, tries) for cause in _by_mode(m, by_mode)]


def _overridden(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in m.frozen if f.inference_only and (f in left or f in m.by_batch)]
    if not layers:
        return None
    proof = (
        "with trainable=False on the same layers, their statistics stay and training mode gives "
        "what inference gives"
    )
    explanation = _explained(
        f"{m.steps.path} runs {_listed(layers)} in training mode, in spite of {layers[0].by}",
        "set trainable = False on each of these normalization layers and compile again; or give "
        "the base to a layer that calls it with training=False in its own call",
        proof if _time_for(FLAGS) and _holds_forward(m, layers, frozen=True) else "",
    )
    return Cause(rules.INFERENCE_OVERRIDDEN, layers, explanation)


def _set_midway(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in left if m.freed(f) and not f.own_flag]
    if not layers or not _time_for(FLAGS):
        return None
    kept, tested = layers, ""
    with flags_set([f.call.layer for f in layers], m.subject.layers(), let=False):
        try:
            kept = m.staying(layers) or m.staying(layers, retrace=True)
        except BNConsistencyError as error:
            tested = f"with their flags held at False {_refusal(error)}"
    if not kept:
        return None
    by = listed(dict.fromkeys(m.freed_by(f) for f in kept))
    explanation = Explanation(
        cause=f"{by} sets trainable of {_listed(kept)} from False to True while training runs",
        tested=tested or "with their flags held at False, their state stays",
        remedy="put back the flag that was there before (was = layer.trainable; ...; "
        "layer.trainable = was), rather than True; or, where it is to train in its turn (a "
        "discriminator), accept that by the option ignore",
        established=not tested,
    )
    return Cause(rules.FROZEN_MOVES, kept, explanation)


def _child(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    free = [f for f in left if f.own_flag and f.above]
    meant = (
        "; or, where it is to train, trainable = True on the parent and False on all else in it"
    )
    return _unfrozen(m, free, rules.CHILD_TRAINABLE, ",", meant)


def _expected(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    free = [f for f in left if f.own_flag and f.expected]
    return _unfrozen(m, free, rules.NOT_FROZEN, " says frozen,")


def _unfrozen(
    m: Measured, free: Sequence[Frozen], rule: Rule, says: str, meant: str = ""
) -> Cause | None:
    if not free:
        return None
    by = f"{free[0].by}{says} but the layer's own flag is True"
    remedy = (
        "set trainable = False on the layer itself, after every trainable = True on a parent, "
        f"and compile again{meant}"
    )
    proof = ""
    if _time_for(FLAGS):
        heeding = _holds_forward(m, free, frozen=True)
        try:
            staying = len(m.staying(free, freeze=True, retrace=True)) == len(free)
        except BNConsistencyError as error:
            tried = f"with trainable=False on the layer itself {_refusal(error)}"
            return Cause(rule, free, Explanation(cause=by, tested=tried, remedy=remedy))
        if not (heeding and staying):
            return Cause(rule, free, _whatever_the_flag(m, free, by, heeding=heeding))
        proof = "with trainable=False on the layer itself, its state stays"
    return Cause(rule, free, _explained(f"{by}{_by_decay(m, free)}", remedy, proof))


def _whatever_the_flag(
    m: Measured, free: Sequence[Frozen], by: str, *, heeding: bool
) -> Explanation:
    """Their state moves with trainable=False as well: does it in inference mode?

    Layers that are `heeding` their flag leave it alone themselves: somebody else writes to it.
    """
    as_well = f"{by}, and with trainable=False as well"
    if heeding:
        layers = [f.call.layer for f in free]
        written = named_writers(m.steps, _variables(free), layers) if _time_for(WRITERS) else None
        if written is not None:
            own = written.explanation
            return replace(own, cause=f"{as_well}, {own.cause}")
    elif (
        any(f.any_of(m.by_forward) for f in free)
        and _time_for("inference mode forced")
        and _holds_forward(m, free, frozen=False)
    ):
        return _explained(
            f"{by}, and with trainable=False its state moves as well: it is updated whenever "
            "training is true",
            "in the layer: if training and self.trainable: update, and set trainable = False; or "
            "call it with training=False",
            "told training=False, its state stays; with trainable=False alone it does not",
        )
    parent = _by_parent(m, free)
    if parent is not None and len(parent.layers) == len(free):
        own = parent.explanation
        return replace(own, cause=f"{as_well}, {own.cause}")
    return _explained(
        f"not established; {by}, and with trainable=False its state moves as well",
        "call the layer in inference mode while the others train, and leave its weights out of "
        "what the step writes to; or take it out of frozen=...",
        "",
    )


def _by_decay(m: Measured, free: Sequence[Frozen]) -> str:
    """A clause where only weight decay moves the layers; else ""."""
    if any(f.any_of(m.by_forward) for f in free) or not _time_for(WRITERS):
        return ""
    decay = named_writers(m.steps, _variables(free))
    if decay is None or not decay.by_decay:
        return ""
    return f"; no gradient moves it, but {decay.explanation.cause} does"


def _not_compiled(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in left if not f.inference_only and not f.expected]
    if not layers or any(f.any_of(m.by_forward) for f in layers):
        return None
    if not _time_for("compiling again"):
        return None
    return Cause(rules.RECOMPILE_MISSING, _staying(m, layers, retrace=True), _stale_function(m))


def _stale_function(m: Measured) -> Explanation:
    if m.steps.train_step is None:
        text = (
            "fit still runs the training function that was compiled before the layers were frozen"
        )
        remedy = "call model.compile(...) again after changing trainable"
    else:
        text = "train_step still runs what was traced before the layers were frozen"
        remedy = "make the tf.function (or compile the model) anew after changing trainable"
    proof = "with the training function built anew, their state stays"
    return Explanation(cause=text, remedy=remedy, tested=proof, established=True)


def _not_passed_on(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    """A flag of a layer that its weights don't have."""
    of_model = getattr(m.subject.model, "trainable_variables", ())
    training = frozenset(id(as_variable(v)) for v in of_model)
    layers = [f for f in left if not f.own_flag and f.any_of(training)]
    if not layers or not _time_for(FLAGS):
        return None
    kept = _staying(m, layers, freeze=True, retrace=True)
    if not kept:
        return None
    flags = f"the flag of {kept[0].path} is False, those of its weights are True"
    if m.subject.constructor_freezes():
        cause = f"weights were set trainable on their own: {flags}"
        remedy = "set trainable = True and then False on the layer, and compile again"
    else:
        cause = f"this version of Keras ignores trainable=False in the constructor: {flags}"
        remedy = (
            "leave it out there, set trainable = False on the layer after it was built (called "
            "once), and compile again"
        )
    explanation = Explanation(
        cause=cause,
        tested="with the flags of the weights at False, too, their state stays",
        remedy=remedy,
        established=True,
    )
    return Cause(rules.FROZEN_MOVES, kept, explanation)


def _staying(m: Measured, layers: Sequence[Frozen], **how: bool) -> list[Frozen]:
    """`Measured.staying`, of which nothing is known where the user's step can't run so."""
    try:
        return m.staying(layers, **how)
    except BNConsistencyError:
        return []


def _refusal(error: BNConsistencyError) -> str:
    """That the user's step can't run so, with what it raised itself."""
    return f"the step can't run ({brief_line(error.__cause__ or error)})"


def _variables(layers: Sequence[Frozen]) -> list[Any]:
    return [v for f in layers for v in f.variables]


def _listed(layers: Sequence[Frozen]) -> str:
    return listed([f.path for f in layers], most=1)


def _ignoring(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in left if f.any_of(m.by_forward)]
    if not layers:
        return None
    if _time_for("inference mode forced") and _holds_forward(m, layers, frozen=False):
        explanation = _explained(
            "the layer updates its state whenever training is true, and does not look at "
            "trainable",
            MIND_TRAINABLE,
            "told training=False, its state stays",
        )
        outer_first = sorted(layers, key=lambda f: len(f.call.parents))
        return Cause(rules.FROZEN_MOVES, outer_first, explanation)
    return _by_parent(m, layers) or Cause(
        rules.FROZEN_MOVES, layers, _explained("not established", MIND_TRAINABLE, "")
    )


def _by_parent(m: Measured, layers: Sequence[Frozen]) -> Cause | None:
    """A layer around them that writes to their state: told inference mode, does it stay?"""
    holders = {id(f): f.call.parents[-1] for f in layers if f.call.parents}
    for holder in {id(h): h for h in holders.values() if h is not m.subject.model}.values():
        inside = [f for f in layers if holders.get(id(f)) is holder]
        if not _time_for("inference mode forced"):
            return None
        if not _holds_forward(m, inside, frozen=False, holder=holder):
            continue
        name = name_of(holder)
        explanation = _explained(
            f"{name}, which holds {_listed(inside)}, writes to its state whenever training is "
            "true",
            f"freeze {name} as well if it looks at trainable; or call it with training=False",
            f"with {name} told training=False, the state stays",
        )
        return Cause(rules.FROZEN_MOVES, inside, explanation)
    return None


def _written(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    if not left:
        return None
    found = named_writers(m.steps, _variables(left)) if _time_for(WRITERS) else None
    if found is not None:
        return Cause(rules.FROZEN_MOVES, left, found.explanation)
    explanation = Explanation(
        cause="not established: the forward pass leaves the state alone, a training step does not",
        remedy="look for what writes these variables: an optimizer, a callback, the step itself",
        tested="compiling again, and leaving out each write to these variables that can be seen",
    )
    return Cause(rules.FROZEN_MOVES, left, explanation)


def _by_mode(m: Measured, layers: Sequence[Frozen]) -> Iterator[Cause]:
    """Layers that give in training mode something else on the identical input."""
    meeting = _meeting(m, layers) if layers else None
    by_batch = [f for f in layers if meeting is None or f in meeting]
    tested = "on the identical input, inference mode gives another output"
    if by_batch:
        one_by_one = ", and so do rows that training mode gets one by one"
        explanation = Explanation(
            cause="frozen or not, the layer normalises by the batch in training mode; its "
            "statistics stay",
            tested=tested + one_by_one * (meeting is not None),
            remedy="use a BatchNormalization of V2 behaviour (tf.keras 2.2 or later, keras 3), or "
            "call the frozen part with training=False",
            established=meeting is not None,
        )
        yield Cause(rules.FROZEN_BY_BATCH, by_batch, explanation)
    if by_row := [f for f in layers if f not in by_batch]:
        explanation = Explanation(
            cause="frozen or not, the layer computes otherwise in training mode than in "
            "inference, each row by itself; its state stays",
            tested=f"{tested}; rows that training mode gets one by one come out as together",
            remedy="call the frozen part with training=False; or, where both modes are meant, "
            "accept that by the option ignore",
            established=True,
        )
        yield Cause(rules.FROZEN_BY_BATCH, by_row, explanation)


def _meeting(m: Measured, layers: Sequence[Frozen]) -> list[Frozen] | None:
    """Those in which rows meet in training mode; None where they take no rows one by one."""
    called = {id(f.call.layer) for f in layers}
    if not _time_for("rows one by one"):
        return None
    try:
        with preserve_state(m.subject):
            again = Pass(
                m.subject,
                m.x,
                training=True,
                instrument=Modes(m.subject, lambda call: id(call.layer) in called, mode=True),
                row_by_row=called,
            )
            gaps = mode_gaps(again.calls, again.run(m.x).records)
    except BNConsistencyError:
        return None
    nothing = ModeGap()
    return [
        f
        for f in layers
        if gaps.get(id(f.call.layer), nothing).distance > OF_NOTE * m.gap(f).distance
    ]


def _holds_forward(
    m: Measured, layers: Sequence[Frozen], *, frozen: bool, holder: Any = None
) -> bool:
    """Whether the layers' state stays in a forward pass, once frozen by flag or told inference.

    With a `holder`, that is told instead of them.
    """
    ours = {id(v) for v in _variables(layers)}
    called = [f.call.layer for f in layers] if holder is None else [holder]
    with preserve_state(m.subject):
        for f in layers if frozen else ():
            m.subject.freeze(f.call.layer)
        again = Pass(
            m.subject,
            m.x,
            training=True,
            instrument=Modes(m.subject, lambda call: frozen),
            modes={} if frozen else {id(layer): False for layer in called},
        )
        seen = again.run(m.x)
    gaps = mode_gaps(again.calls, seen.records)
    alike = not any(gaps.get(id(f.call.layer), ModeGap()).differs for f in layers)
    return alike and not any(id(v) in ours for v in seen.moved)


def _time_for(what: str) -> bool:
    return Tries().may(what)


def _finding(m: Measured, cause: Cause, tries: Tries) -> Finding:
    first = max(cause.layers, key=lambda f: m.gap(f).distance)
    explanation = cause.explanation
    if tries.cut and not explanation.established:
        explanation = replace(explanation, tested=MORE_TIME)
    return cause.rule.finding(
        layer=first.path,
        layers=[f.path for f in cause.layers],
        message=_message(m, cause.layers, first),
        explanation=explanation,
        bound="no tolerance: bitwise"
        if first in m.moving
        else f"{UNITS} units of float32 on one input",
        table=m.table,
        evidence={
            "layers": [f.path for f in cause.layers],
            "train_minus_inference": {
                f.path: m.gap(f).distance for f in cause.layers if id(f.call.layer) in m.gaps
            },
        },
    )


def _message(m: Measured, explained: Sequence[Frozen], first: Frozen) -> str:
    count = sum(f in m.moving for f in explained)
    layers = counted(len(m.frozen), "frozen layer")
    parts = [f"training moves the state of {count} of {layers}"] if count else []
    if count and first.any_of(frozenset(id(v) for v in m.beyond)):
        parts[0] += " (from 0: what is stored has seen more than these rows)"
    if (gap := m.gap(first)).differs:
        parts.append(
            f"in {first.path}, training mode is {gap.distance:.3g} away from inference mode"
        )
        parts += [] if m.start is None else [m.start.sentence]
    return "; ".join(parts) or f"{layers} changed"
