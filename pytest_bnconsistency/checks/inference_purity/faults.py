"""Entry points that move state or do not repeat themselves: a finding for each cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    WHOLE,
    calls_of,
    entry,
    is_random,
    metrics_of_layers,
)
from pytest_bnconsistency.checks.inference_purity import explain_randomness, explain_state
from pytest_bnconsistency.checks.inference_purity.runs import Kind, Runs, Seen, runner_of
from pytest_bnconsistency.checks.inference_purity.undoing import Cause
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.results import Finding

ONE_BY_ONE = 4
"""Layers, at most, for which a cause each is looked for where none has them all move state."""


def state_moves(context: CheckContext, runs: Runs) -> list[Finding]:
    """A finding for each cause that has entry points move state."""
    unmoved = [s.name for s in runs.seen if not s.moved]
    found: dict[Cause, list[Seen]] = {}
    for alike in _by_code([s for s in runs.seen if s.moved]):
        for cause, moved in _causes(context, runs, alike[0], unmoved):
            found.setdefault(cause, []).extend(replace(s, moved=moved) for s in alike)
    findings = []
    for cause, moving in found.items():
        ids = {id(v) for s in moving for v in s.moved}
        layers = list(dict.fromkeys(path for key, path in runs.owner_of.items() if key in ids))
        findings.append(
            explain_state.state_moves(cause, layers, [s.name for s in moving], unmoved)
        )
    return findings


def _causes(
    context: CheckContext, runs: Runs, seen: Seen, unmoved: Sequence[str]
) -> list[tuple[Cause, tuple[Any, ...]]]:
    """What has an entry point move state, with the variables that it moves so: one cause for all,
    or where none is found, one for each layer.
    """
    runner, owner_of = runner_of(context, seen), runs.owner_of

    def cause_of(moved: tuple[Any, ...]) -> Cause:
        return explain_state.moves_because(
            context.subject,
            runner,
            moved,
            owner_of,
            inference_holds=context.subject.call_text(False) in unmoved,
        )

    whole = cause_of(seen.moved)
    paths = dict.fromkeys(owner_of[id(v)] for v in seen.moved)
    if whole.explanation.established or not 1 < len(paths) <= ONE_BY_ONE:
        return [(whole, seen.moved)]
    parts = [tuple(v for v in seen.moved if owner_of[id(v)] == path) for path in paths]
    causes = [(cause_of(moved), moved) for moved in parts]
    tested = [cause for cause, _ in causes if cause.explanation.established]
    return causes if len(tested) == len(causes) else [(whole, seen.moved)]


def _by_code(seen: Sequence[Seen]) -> list[list[Seen]]:
    """What runs the same code moves the same state: the calls one by one, the ways to predict."""
    predicting = [s for s in seen if s.kind in (Kind.METHOD, Kind.IN_BATCHES)]
    return [*([predicting] if predicting else []), *([s] for s in seen if s not in predicting)]


def _random(context: CheckContext, seen: Sequence[Seen]) -> list[str]:
    """The names of what gives other bits the second time, though it starts from the same state.

    What moves state starts from another one then.
    """
    differing = [s for s in seen if not s.repeats]
    if not differing or observed(context, None).draws:
        return [s.name for s in differing]
    return [s.name for s in differing if not s.moved]


def not_repeatable(context: CheckContext, x: Nest, seen: Sequence[Seen]) -> list[Finding]:
    random = _random(context, seen)
    if not random:
        return []
    modes, default = calls_of(context), observed(context, None)
    if holders := _fed_by_metrics(context, x, random):
        return [explain_randomness.of_metrics(holders, random)]
    if not any(name in modes for name in random):
        runner = runner_of(context, next(s for s in seen if s.name in random))
        found = explain_randomness.of_own_method(context.subject, runner, random)
        if found is not None:
            return [found]
    mode = next((modes[name] for name in random if name in modes), False)
    return [explain_randomness.not_repeatable(context.subject, x, default, random, mode)]


def _fed_by_metrics(context: CheckContext, x: Nest, random: Sequence[str]) -> list[str]:
    """The layers on whose metrics outputs hang: with these put back, all that is random repeats.

    A metric may move in inference, and is no state of a layer.
    """
    owner_of, holders = metrics_of_layers(context), dict[str, None]()
    for entry_point in (entry(context, name) for name in random):
        metrics = [v for v in entry_point.run(WHOLE, x).moved if id(v) in owner_of]
        if not metrics or is_random(context, entry_point):
            return []
        if not same_outputs(*(seen.outputs for seen in entry_point.twice(WHOLE, x, metrics))):
            return []
        holders |= dict.fromkeys(owner_of[id(v)] for v in metrics)
    return list(holders)
