"""The facts of a model's normalization layers, from the runs that checks share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    PREDICT,
    WHOLE,
    calls_of,
    entry,
    same_in_every_layer,
)
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.checks.traced_passes import IN_BOTH_MODES, observed
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.graphs import Uses, variable_uses
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement import normalization_layers as statistics
from pytest_bnconsistency.measurement.inventory import (
    Kind,
    LayerFacts,
    Ran,
    inventory,
    kind_of_stateless,
)
from pytest_bnconsistency.measurement.normalization_layers import Tracked
from pytest_bnconsistency.measurement.population_distances import distances_by_layer


def layer_facts(context: CheckContext) -> tuple[LayerFacts, ...]:
    """The facts of each normalization layer; what checks did not run is run now.

    Beside the checks of inference, and one that trains, that traces nothing.
    """
    x = context.sample()
    with preserve_state(context.subject):
        same_in_every_layer(context, x)
        call = _call(context, x) or observed(context, x, None)
        training, tracked = _training(context)
        if training is None and not context.subject.modeless:
            training = context.shared["training"] = statistics.training_pass(context.subject, x)
        if training is not None and tracked is None:
            tracked = statistics.find(training, x)
        if context.subject.entries() and PREDICT not in context.shared:
            entry(context, x, next(iter(context.subject.entries()))).run(WHOLE, x)
        return _facts(context, x, call, training, tracked)


def known_layer_facts(context: CheckContext) -> tuple[LayerFacts, ...]:
    """The same as far as the checks that ran tell it: nothing is traced for it."""
    if "sample" not in context.shared and context.data is None:
        return inventory(context.subject, call=None, predict=None, training=None, stateless={})
    x = context.sample()
    with preserve_state(context.subject):
        training, tracked = _training(context)
        return _facts(context, x, _call(context, x), training, tracked)


def for_the_record(context: CheckContext) -> tuple[dict[str, Any], ...]:
    """What checks found out about each normalization layer, as plain data.

    With the share of its initial values that the updates so far leave, and how far its statistics
    are from the population's, where these are known.
    """
    facts, distances = known_layer_facts(context), _distances(context)
    updates = context.settings.updates
    done = context.subject.updates() if updates is None else updates
    return tuple(
        {
            **layer.plain(),
            "initial_share": _initial_share(layer, done),
            "population": distances.get(layer.path),
        }
        for layer in facts
    )


def _initial_share(layer: LayerFacts, updates: int | None) -> float | None:
    if updates is None or not layer.updates or not 0 <= (layer.momentum or -1.0) <= 1:
        return None
    return float((layer.momentum or 0.0) ** (updates * layer.updates))


def _distances(context: CheckContext) -> dict[str, dict[str, dict[str, float]]]:
    """By path and role: the standard errors and the like, where the population is known."""
    known: Estimated | None = context.shared.get("estimated")
    if known is None or not known.tracked:
        return {}
    found = distances_by_layer(known.tracked, known.estimate)
    return {
        distances[0].path: {
            d.role: {"standard_errors": d.errors, "off": d.off, "ratio": d.ratio}
            for d in distances
        }
        for distances in found.values()
    }


def _facts(
    context: CheckContext,
    x: Nest,
    call: Pass | None,
    training: Pass | None,
    tracked: list[Tracked] | None,
) -> tuple[LayerFacts, ...]:
    ran, trained = (None if run is None else Ran.of(run, x) for run in (call, training))
    return inventory(
        context.subject,
        call=ran,
        predict=_predict(context),
        training=trained,
        tracked=tracked or (),
        stateless=_stateless(context, [run for run in (ran, trained) if run is not None]),
    )


def _stateless(context: CheckContext, runs: Sequence[Ran]) -> dict[int, Kind | None]:
    """What layers that hold no statistics normalise by; each is tried once."""
    known: dict[int, Kind | None] = context.shared.get("normalise by", {})
    found = {
        layer: kind_of_stateless(context.subject, calls[0])
        for run in runs
        for layer, calls in run.calls.items()
        if layer not in known
    }
    context.shared["normalise by"] = {**found, **known}
    return {**found, **known}


def _call(context: CheckContext, x: Nest) -> Pass | None:
    """A pass that does what `model(x)` does, if there is one."""
    own: Pass | None = context.shared.get(("observed", None, frozenset()))
    inference: Pass | None = context.shared.get(("observed", False, frozenset()))
    ran = all(("entry", name) in context.shared for name in calls_of(context))
    if own is None and inference is not None and ran and same_in_every_layer(context, x):
        return inference
    return own


def _training(context: CheckContext) -> tuple[Pass | None, list[Tracked] | None]:
    """A pass in training mode, and what it tracks, as far as they are known."""
    known: Estimated | None = context.shared.get("estimated")
    if known is not None:
        return known.training, known.tracked
    either = context.shared.get("training") or context.shared.get(IN_BOTH_MODES)
    return either, None


def _predict(context: CheckContext) -> Uses | None:
    """What `predict` does with variables; None where it did not run."""
    function: Any = context.shared.get(PREDICT)
    traces: list[Any] = getattr(function, "_list_all_concrete_functions", list)()
    if traces:
        known = context.shared.get("uses of predict", {})
        uses = {id(trace): known.get(id(trace)) or variable_uses(trace) for trace in traces}
        context.shared["uses of predict"] = uses
        return functools.reduce(Uses.joined, uses.values())
    ran = next(iter(context.subject.entries()), None)
    seen = None if ran is None else context.shared.get(("entry", ran))
    if seen is None:
        return None
    moved = seen.run(WHOLE, context.sample()).moved
    return Uses(frozenset(map(id, seen.may_change)), frozenset(map(id, moved)))
