"""The facts of a model's normalization layers, from the runs that checks share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import WHOLE, calls_of, entry, same_in_every_layer
from pytest_bnconsistency.checks.population_statistics import Estimated, training_pass
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
from pytest_bnconsistency.models import Call


def layer_facts(context: CheckContext) -> tuple[LayerFacts, ...]:
    """The facts of each normalization layer; what checks did not run is run now.

    Beside the checks of inference, and one that trains, that traces nothing.
    """
    x = context.sample()
    with preserve_state(context.subject):
        same_in_every_layer(context)
        call = _call(context) or observed(context, None)
        training, tracked = _training(context)
        if training is None and not context.subject.modeless:
            training = training_pass(context)
        if training is not None and tracked is None:
            tracked = statistics.find(training, x)
        if context.subject.entries() and context.predict_function is None:
            entry(context, next(iter(context.subject.entries()))).run(WHOLE, x)
        return _facts(context, x, call, training, tracked)


def known_layer_facts(context: CheckContext) -> tuple[LayerFacts, ...]:
    """The same as far as the checks that ran tell it: nothing is traced for it."""
    if context.known("sample") is None and context.data is None:
        return inventory(context.subject, call=None, predict=None, training=None, stateless={})
    x = context.sample()
    with preserve_state(context.subject):
        training, tracked = _training(context)
        return _facts(context, x, _call(context), training, tracked)


def for_the_record(context: CheckContext) -> tuple[dict[str, Any], ...]:
    """What checks found out about each normalization layer, as plain data.

    With the share of its initial values that the updates so far leave, and how far its statistics
    are from the population's, where these are known.
    """
    facts, distances = known_layer_facts(context), _distances(context)
    return tuple(
        {
            **layer.plain(),
            "initial_share": _initial_share(layer, context.updates()),
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
    known: Estimated | None = context.known("estimated")
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
    found = {layer: calls[0] for run in reversed(runs) for layer, calls in run.calls.items()}

    def kind_of(layer: int, call: Call) -> Kind | None:
        tried = functools.partial(kind_of_stateless, context.subject, call)
        return context.once(("normalises by", layer), tried)

    return {layer: kind_of(layer, call) for layer, call in found.items()}


def _call(context: CheckContext) -> Pass | None:
    """A pass that does what `model(x)` does, if there is one."""
    own: Pass | None = context.known(("observed", None, frozenset()))
    inference: Pass | None = context.known(("observed", False, frozenset()))
    ran = all(context.known(("entry", name)) is not None for name in calls_of(context))
    if own is None and inference is not None and ran and same_in_every_layer(context):
        return inference
    return own


def _training(context: CheckContext) -> tuple[Pass | None, list[Tracked] | None]:
    """A pass in training mode, and what it tracks, as far as they are known."""
    known: Estimated | None = context.known("estimated")
    if known is not None:
        return known.training, known.tracked
    either = context.known("training") or context.known(IN_BOTH_MODES)
    return either, None


def _predict(context: CheckContext) -> Uses | None:
    """What `predict` does with variables; None where it did not run."""
    function = context.predict_function
    traces: list[Any] = getattr(function, "_list_all_concrete_functions", list)()
    if traces:
        uses = (
            context.once(("uses", trace), functools.partial(variable_uses, trace))
            for trace in traces
        )
        return functools.reduce(Uses.joined, uses)
    ran = next(iter(context.subject.entries()), None)
    seen = None if ran is None else context.known(("entry", ran))
    if seen is None:
        return None
    moved = seen.run(WHOLE, context.sample()).moved
    return Uses(frozenset(map(id, seen.may_change)), frozenset(map(id, moved)))
