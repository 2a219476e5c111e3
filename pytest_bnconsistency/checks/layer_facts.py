"""The facts of a model's normalization layers, from the runs that checks share."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    Entry,
    calls_of,
    entry,
    few_rows,
    same_in_every_layer,
)
from pytest_bnconsistency.checks.population_statistics import Estimated, training_pass
from pytest_bnconsistency.checks.traced_passes import IN_BOTH_MODES, TRAINING
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.execution.traces import concrete_functions
from pytest_bnconsistency.execution.variable_uses import Uses, variable_uses
from pytest_bnconsistency.measurement.inventory import (
    Kind,
    LayerFacts,
    Ran,
    alike,
    inventory,
    kind_of_stateless,
)
from pytest_bnconsistency.measurement.normalization_layers import as_declared, find_tracked
from pytest_bnconsistency.measurement.population_distances import distances_by_layer, initial_share
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.models import Call


def layer_facts(context: CheckContext) -> tuple[LayerFacts, ...]:
    """The facts of each normalization layer; what checks did not run is run now.

    Beside the checks of inference, and one that trains, that traces nothing. What runs change, the
    caller restores.
    """
    batch, x = few_rows(context)
    training, tracked = _training(context)
    if training is None and not context.subject.modeless:
        training = training_pass(context)
    if training is not None and tracked is None and not as_declared(training, x):
        tracked = context.once("tracked", lambda: find_tracked(training, context.sample()))
    call = _call(context) or context.once("call", lambda: Pass(context.subject, x, training=None))
    if context.subject.entries() and context.predict_function is None:
        entry(context, next(iter(context.subject.entries()))).run(batch, x)
    return _facts(context, x, call, training, tracked)


def known_layer_facts(context: CheckContext) -> tuple[LayerFacts, ...]:
    """The same as far as the checks that ran tell it: nothing is traced for it."""
    if context.known("sample") is None and context.data is None:
        return inventory(
            context.subject, call=None, predict=None, training=None, kind_of=lambda call: None
        )
    _, x = few_rows(context)
    with preserve_state(context.subject):
        training, tracked = _training(context)
        return _facts(context, x, _call(context), training, tracked)


def for_the_record(context: CheckContext) -> tuple[dict[str, Any], ...]:
    """What checks found out about each normalization layer, as plain data.

    With the share of its initial values that the updates so far leave, and the one that is in its
    statistics, and how far these are from the population's, where that is known.
    """
    facts, distances = known_layer_facts(context), _distances(context)
    measured = _measured_shares(context)
    return tuple(
        {
            **layer.plain(),
            "initial_share": _initial_share(layer, context.updates()),
            "initial_share_measured": measured.get(layer.path),
            "population": distances.get(layer.path),
        }
        for layer in facts
    )


def _initial_share(layer: LayerFacts, updates: int | None) -> float | None:
    if updates is None or not layer.updates or not 0 <= (layer.momentum or -1.0) <= 1:
        return None
    return float((layer.momentum or 0.0) ** (updates * layer.updates))


def _measured_shares(context: CheckContext) -> dict[str, float]:
    """By path, the share of the initial values in a layer's statistics, by the population's."""
    known: Estimated | None = context.known("estimated")
    if known is None:
        return {}
    population = known.estimate.population
    by_path: dict[str, list[int]] = {}
    for place, t in enumerate(known.tracked):
        by_path.setdefault(t.path, []).append(place)
    return {
        path: initial_share(
            [known.tracked[i] for i in own],
            [known.tracked[i].variable.numpy().astype(np.float64) for i in own],
            [population[i] for i in own],
        )
        for path, own in by_path.items()
    }


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
        kind_of=functools.partial(_kind_of, context),
    )


def _kind_of(context: CheckContext, call: Call) -> Kind | None:
    """What a layer without statistics normalises by; of those that are alike, one is tried."""
    tried = functools.partial(kind_of_stateless, context.subject, call)
    return context.once(("normalises by", alike(call)), tried)


def _call(context: CheckContext) -> Pass | None:
    """A pass that does what `model(x)` does, if there is one."""
    own: Pass | None = context.known(("observed", None, frozenset())) or context.known("call")
    inference: Pass | None = context.known(("observed", False, frozenset()))
    entries: list[Entry | None] = [context.known(("entry", name)) for name in calls_of(context)]
    ran = all(known is not None and known.compared_in_layers for known in entries)
    if own is None and inference is not None and ran and same_in_every_layer(context):
        return inference
    return own


def _training(context: CheckContext) -> tuple[Pass | None, list[Tracked] | None]:
    """A pass in training mode, and what it tracks, as far as they are known."""
    known: Estimated | None = context.known("estimated")
    if known is not None:
        return known.training, known.tracked
    either = context.known(TRAINING) or context.known(IN_BOTH_MODES)
    return either, context.known("tracked")


def _predict(context: CheckContext) -> Uses | None:
    """What `predict` does with variables; None where it did not run."""
    if traces := concrete_functions(context.predict_function):
        uses = (
            context.once(("uses", trace), functools.partial(variable_uses, trace))
            for trace in traces
        )
        return functools.reduce(Uses.joined, uses)
    ran = next(iter(context.subject.entries()), None)
    seen = None if ran is None else context.known(("entry", ran))
    if seen is None:
        return None
    return Uses.seen(seen.may_change, seen.run(*few_rows(context)).moved)
