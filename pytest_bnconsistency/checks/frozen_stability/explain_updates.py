"""Who updates the state of layers whose flags are right."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bnconsistency.checks.frozen_stability.cause import (
    MIND_TRAINABLE,
    WRITERS,
    Cause,
    explanation_of,
    refusal,
    time_for,
)
from pytest_bnconsistency.checks.frozen_stability.explain_writers import Written, named_writers
from pytest_bnconsistency.checks.frozen_stability.measured import (
    Frozen,
    Measured,
    paths_of,
    variables_of,
)
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models.owned_objects import name_of
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

BY_MODE = "of the layer only its mode, training=False, is declared, and that it keeps"
BY_FLAG = (
    "frozen for the optimizer, they follow those of other layers, as a teacher's or a target "
    "network's do; give frozen='...' if they must stay"
)


def ignoring(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    layers = [f for f in left if f.any_of(m.by_forward)]
    if not layers:
        return None
    if time_for("inference mode forced") and m.all_stay_in_a_pass(layers, frozen=False):
        explanation = explanation_of(
            "the layer updates its state whenever training is true, and does not look at "
            "trainable",
            MIND_TRAINABLE,
            "told training=False, its state stays",
        )
        outer_first = sorted(layers, key=lambda f: len(f.call.parents))
        return Cause(rules.FROZEN_MOVES, outer_first, explanation)
    return by_parent(m, layers) or Cause(
        rules.FROZEN_MOVES, layers, explanation_of("not established", MIND_TRAINABLE, "")
    )


def by_parent(m: Measured, layers: Sequence[Frozen]) -> Cause | None:
    """A layer around them that writes to their state: told inference mode, does it stay?"""
    holders = {id(f): f.call.parents[-1] for f in layers if f.call.parents}
    for holder in {id(h): h for h in holders.values() if h is not m.subject.model}.values():
        inside = [f for f in layers if holders.get(id(f)) is holder]
        if not time_for("inference mode forced"):
            return None
        if not m.all_stay_in_a_pass(inside, frozen=False, holder=holder):
            continue
        name = name_of(holder)
        explanation = explanation_of(
            f"{name}, which holds {paths_of(inside)}, writes to its state whenever training is "
            "true",
            f"freeze {name} as well if it looks at trainable; or call it with training=False",
            f"with {name} told training=False, the state stays",
        )
        return Cause(rules.FROZEN_MOVES, inside, explanation)
    return None


def followers(m: Measured) -> tuple[list[Frozen], str]:
    """The layers that steps move in another way than by running them, and a note.

    Of some only the mode was declared, which they keep. Others are frozen for the optimizer by
    their flag, and follow the weights of another network: then weights and statistics both move,
    while gradients would leave statistics alone.
    """
    found = _following(m)
    writers = _writers(m, found)
    if writers is None or not writers.others_than(f.call.layer for f in found):
        return [], ""
    verb = "moves" if len(writers.labels) == 1 else "move"
    what, why = "statistics", BY_MODE
    if not all(f.inference_only for f in found):
        what, why = "weights and statistics", BY_FLAG
    return found, f"{listed(writers.labels)} {verb} the {what} of {paths_of(found)}: {why}"


def _following(m: Measured) -> list[Frozen]:
    """Those that move though nothing runs them in training mode, and nobody names them."""
    by_mode = frozenset(m.by_forward) | {id(v) for f in m.by_batch for v in f.variables}
    moved = [f for f in m.moving if not (f.named or f.any_of(by_mode))]
    by_flag = [f for f in moved if not f.inference_only]
    layers = [f.call.layer for f in by_flag]
    statistics = {id(v) for layer in layers for v in tracked_candidates(m.subject, layer)}
    state = {id(v) for v in variables_of(by_flag)} & m.by_steps
    if state & statistics and state - statistics:
        return moved
    return [f for f in moved if f.inference_only]


def _writers(m: Measured, layers: Sequence[Frozen]) -> Written | None:
    if not layers or not time_for(WRITERS):
        return None
    try:
        return named_writers(m.steps, variables_of(layers))
    except BNConsistencyError:
        return None


def written(m: Measured, left: Sequence[Frozen]) -> Cause | None:
    if not left:
        return None
    tried = "compiling again, and leaving out each write to these variables that can be seen"
    try:
        found = named_writers(m.steps, variables_of(left)) if time_for(WRITERS) else None
    except BNConsistencyError as error:
        found, tried = None, f"compiling again: {refusal(error)}"
    if found is not None:
        return Cause(rules.FROZEN_MOVES, left, found.explanation)
    explanation = Explanation(
        cause="not established: the forward pass leaves the state alone, a training step does not",
        remedy="look for what writes these variables: an optimizer, a callback, the step itself",
        tested=tried,
    )
    return Cause(rules.FROZEN_MOVES, left, explanation)
