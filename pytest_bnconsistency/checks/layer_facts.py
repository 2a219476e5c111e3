"""The facts of a model's normalization layers, from the runs that checks share."""

from __future__ import annotations

import functools
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
from pytest_bnconsistency.measurement.inventory import LayerFacts, Ran, inventory
from pytest_bnconsistency.measurement.normalization_layers import Tracked


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
        return inventory(context.subject, call=None, predict=None, training=None)
    x = context.sample()
    with preserve_state(context.subject):
        training, tracked = _training(context)
        return _facts(context, x, _call(context, x), training, tracked)


def _facts(
    context: CheckContext,
    x: Nest,
    call: Pass | None,
    training: Pass | None,
    tracked: list[Tracked] | None,
) -> tuple[LayerFacts, ...]:
    return inventory(
        context.subject,
        call=None if call is None else Ran.of(call, x),
        predict=_predict(context),
        training=None if training is None else Ran.of(training, x),
        tracked=tracked or (),
    )


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
        return functools.reduce(Uses.joined, map(variable_uses, traces))
    ran = next(iter(context.subject.entries()), None)
    seen = None if ran is None else context.shared.get(("entry", ran))
    if seen is None:
        return None
    moved = seen.run(WHOLE, context.sample()).moved
    return Uses(frozenset(map(id, seen.may_change)), frozenset(map(id, moved)))
