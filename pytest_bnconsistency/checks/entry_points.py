"""The ways in which users run inference, each run once for all checks of one model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.checks.check_context import FEWEST_ROWS, CheckContext
from pytest_bnconsistency.checks.traced_passes import TRAINING, observed
from pytest_bnconsistency.data.arrays import Array, Nest, flatten, map_nest, rows_of, take_rows
from pytest_bnconsistency.errors import DataError, UnsupportedSubjectError
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.layer_values import with_draws
from pytest_bnconsistency.execution.observations import same_outputs, same_records
from pytest_bnconsistency.execution.random_operations import draws_compiled
from pytest_bnconsistency.execution.row_hashes import Fingerprints
from pytest_bnconsistency.execution.state import (
    Variables,
    preserve_state,
    reachable_variables,
    restored,
)
from pytest_bnconsistency.execution.traces import concrete_functions
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.models.base import holders
from pytest_bnconsistency.models.owned_objects import is_of_library, variables_of
from pytest_bnconsistency.words import counted

WHOLE = "all rows"
"""The name of the batch of all rows."""
ON_BATCH = "predict_on_batch"


@dataclass
class Entry:
    """A way in which users run inference; no batch that has a name runs twice through it.

    `call` runs it on rows; what it changed stays changed if it is told to keep it. `observed` is
    the traced pass behind it, where there is one, and `prints` what hashes the rows of layers. It
    may change the variables `may_change`.
    """

    name: str
    call: Callable[[Nest, bool], Observation]
    may_change: list[Any]
    observed: Pass | None = None
    prints: Fingerprints | None = None
    _seen: dict[tuple[str, tuple[int, int] | None], Observation] = field(
        default_factory=dict, repr=False
    )
    _pairs: dict[tuple[str, frozenset[int]], tuple[Observation, Observation]] = field(
        default_factory=dict, repr=False
    )

    def run(self, batch: str, x: Nest, prints: tuple[int, int] | None = None) -> Observation:
        """What it gives for the batch of that name; everything is as before afterwards.

        Of layers, `prints` says from which entry up to which hashes are taken, by default of all.
        """
        found = self._seen.get((batch, None)) or self._seen.get((batch, prints))
        if found is None:
            with self._printing(prints):
                found = self.call(x, False)
            counts = [len(seen.outputs) for seen in (found, *self._seen.values())]
            if rows_of(x) == counts[0] != counts[-1]:
                raise UnsupportedSubjectError(
                    f"{self.name} gives {counted(counts[0], 'output')} for "
                    f"{counted(rows_of(x), 'row')} and {counts[-1]} for others; expected arrays "
                    "with the rows first: join what is given for each row"
                )
            self._seen[batch, prints] = found
        return found

    def took(self, batch: str) -> bool:
        """Whether it ran on the batch of that name, and did not refuse it."""
        return any(name == batch for name, _ in self._seen)

    @property
    def compared_in_layers(self) -> bool:
        """Whether all rows ran, with what each layer gives."""
        return (WHOLE, None) in self._seen

    def drew(self, x: Nest) -> bool:
        """Whether it draws random numbers, by a run that there was, or one on all rows `x`."""
        seen = next(iter(self._seen.values()), None) or self.run(WHOLE, x)
        return seen.drew

    def run_variant(self, variant: BatchVariant) -> Observation:
        """What it gives for the variant: of one row kept, the others' hashes are as in `WHOLE`."""
        base, row = self._seen[WHOLE, None], int(variant.kept[0])
        by_row = all(len(hashes) == variant.rows for r in base.records for hashes in r or ())
        name = variant.name, None
        if name in self._seen or variant.moves or len(variant.kept) > 1 or not by_row:
            return self.run(variant.name, variant.x)
        other = self.run(variant.name, variant.x, (row, row + 1))

        def among_all(all_rows: Array, its: Array) -> Array:
            return its if len(its) != 1 else np.insert(np.delete(all_rows, row, 0), row, its, 0)

        pairs = zip(base.records, other.records, strict=True)
        records = [
            None if mine is None or its is None else list(map(among_all, mine, its))
            for mine, its in pairs
        ]
        self._seen[name] = replace(other, records=records)
        return self._seen[name]

    def _printing(self, prints: tuple[int, int] | None) -> contextlib.AbstractContextManager[None]:
        if prints is None or self.prints is None:
            return contextlib.nullcontext()
        return self.prints.only(*prints)

    def twice(
        self, batch: str, x: Nest, state: Sequence[Any] = ()
    ) -> tuple[Observation, Observation]:
        """Two runs, the second from what the first left behind, but for the same `state`."""
        key = batch, frozenset(map(id, state))
        if key not in self._pairs:
            first = self.run(batch, x)
            with restored(self.may_change):
                if first.moved:
                    with restored(state):
                        first = self.call(x, True)
                self._pairs[key] = first, self.call(x, True)
        return self._pairs[key]


def entry(context: CheckContext, name: str) -> Entry:
    """The entry point of that name."""
    modes, may_change = calls_of(context), changeable_variables(context)

    def made() -> Entry:
        if name in modes:
            called = untraced_pass(context, modes[name])
            prints = called.instrument
            assert isinstance(prints, Fingerprints)
            return Entry(name, called.run, may_change, prints=prints)
        call = _method(context, context.subject.entries()[name], may_change)
        return Entry(name, call, may_change)

    return context.once(("entry", name), made)


def untraced_pass(context: CheckContext, training: bool | None) -> Pass:
    """The call outside of a trace, with what each layer gives."""
    return Pass(
        context.subject,
        context.sample(),
        training=training,
        instrument=Fingerprints(),
        traced=False,
        written=changeable_variables(context),
    )


def untraced_entry(context: CheckContext) -> Entry:
    """Inference outside of a trace as an entry point whose layers can be looked into."""
    called = untraced_pass(context, False)
    name = context.subject.call_text(False)
    return Entry(name, called.run, changeable_variables(context), called)


def plain_call(context: CheckContext) -> Entry:
    """Inference as users call it, with no layer observed: a `tf.function` runs its own trace."""

    def run(rows: Nest) -> Nest:
        return context.subject.forward(map_nest(tf.convert_to_tensor, rows), False)

    name, may_change = context.subject.call_text(False), changeable_variables(context)
    return Entry(name, _restoring(run, may_change), may_change)


def runs_own_code(context: CheckContext) -> bool:
    """Whether inference runs code of the user's, not of libraries alone."""
    seen = observed(context, False)
    calls = [*seen.calls, *seen.passing_calls, *seen.inner_calls]
    layers = [*context.subject.layers(), *(call.layer for call in calls)]
    return not all(map(is_of_library, layers))


def changeable_variables(context: CheckContext) -> list[Any]:
    """The variables that inference may change: those within reach and those of a trace."""

    def found() -> list[Any]:
        # Each mode's trace holds the variables that layers use; one costs seconds.
        passes = ("observed", False, frozenset[int]()), TRAINING
        traced = next(filter(None, map(context.known, passes)), None) or observed(context, False)
        every = [*reachable_variables(context.subject), *traced.variables]
        return list({id(variable): variable for variable in every}.values())

    return context.once("changeable", found)


def traced_entry(
    context: CheckContext, training: bool | None, row_by_row: Collection[int] = ()
) -> Entry:
    """The traced pass of a mode as an entry point; layers `row_by_row` get one row at a time."""

    def made() -> Entry:
        traced = observed(context, training, row_by_row)
        name = f"tf.function of {context.subject.call_text(training)}"
        prints = traced.instrument if isinstance(traced.instrument, Fingerprints) else None
        return Entry(name, traced.run, traced.written, traced, prints)

    return context.once(("traced entry", training, frozenset(row_by_row)), made)


def _method(
    context: CheckContext, run: Callable[[Nest], Nest], may_change: list[Any]
) -> Callable[[Nest, bool], Observation]:
    """How a method of the subject, such as `predict`, runs, with what it may change."""

    def compiled_once(rows: Nest) -> Nest:
        if context.predict_function is not None:
            context.subject.predict_function = context.predict_function
        outputs = run(rows)
        context.predict_function = context.subject.predict_function
        return outputs

    return _restoring(compiled_once, may_change)


def _restoring(
    run: Callable[[Nest], Nest], may_change: list[Any]
) -> Callable[[Nest, bool], Observation]:
    """A run whose outputs alone are seen, with what it changes, which is kept if it is told so."""

    def call(rows: Nest, keep: bool) -> Observation:
        before, moved = Variables(may_change), None
        try:
            outputs = arrays_of(run(rows))
            moved = before.moved()
            return Observation(outputs, [], tuple(moved), {})
        finally:
            if not keep and moved != []:
                before.restore()

    return call


def arrays_of(outputs: Nest) -> list[Array]:
    """The outputs of a method, one array each; a text for each row is one."""
    if isinstance(outputs, list) and all(isinstance(leaf, (str, bytes)) for leaf in outputs):
        return [np.array(outputs, object)]
    # As in a pass, an output that is None is none.
    return [np.asarray(leaf) for leaf in flatten(outputs) if leaf is not None]


def retraced(context: CheckContext, name: str, x: Nest) -> list[Array]:
    """What the entry point of that name gives when its code runs or is traced once more."""
    with preserve_state(context.subject):
        return run_retraced(context, name, x)


def run_retraced(context: CheckContext, name: str, x: Nest) -> list[Array]:
    """The same; what it changed stays changed."""
    modes = calls_of(context)
    if name in modes:
        outputs = context.subject.forward(map_nest(tf.convert_to_tensor, x), modes[name])
        return arrays_of(outputs)
    context.subject.recompile()
    return arrays_of(context.subject.entries()[name](x))


def is_random(context: CheckContext, entry_point: Entry) -> bool:
    """Whether an entry point draws random numbers on which its outputs hang."""
    drawn = drawn_otherwise(context, entry_point)
    return any(not same_outputs(drawn[0].outputs, other.outputs) for other in drawn[1:])


def drawn_otherwise(context: CheckContext, entry_point: Entry) -> list[Observation]:
    """What an entry point gives for other random numbers; empty if it draws none.

    Layers of a traced pass that are held still give what they give in inference: only what is
    drawn there counts.
    """
    x, seen = context.sample(), entry_point.observed
    if seen is not None:
        return seen.once("drawn otherwise", lambda: _drawn_in_trace(seen, x))
    name = _code_of(context, entry_point.name)
    made = functools.partial(_drawn_by_code, context, entry_point, name)
    return context.once(("drawn otherwise", name), made)


def _drawn_in_trace(seen: Pass, x: Nest) -> list[Observation]:
    return with_draws(lambda: seen.again(x, Fingerprints()).run(x)) if seen.draws else []


def _drawn_by_code(context: CheckContext, entry_point: Entry, name: str) -> list[Observation]:
    x = context.sample()
    if entry_point.name in calls_of(context):
        drew = entry_point.drew(x)
    elif concrete_functions(context.predict_function) and not context.subject.own_inference():
        drew = draws_compiled(context.predict_function)
    else:
        drew = observed(context, False).draws or draws_compiled(context.predict_function)
    if not drew:
        return []
    with restored(changeable_variables(context)):
        return with_draws(lambda: Observation(retraced(context, name, x), [], (), {}))


def _code_of(context: CheckContext, name: str) -> str:
    """The first entry point that runs the same code."""
    names = list(context.subject.entries())
    return names[0] if name in names else name


def owners(context: CheckContext, *passes: Pass) -> dict[int, str]:
    """The path of the layer that holds a variable, by identity, in the order of the calls.

    Layers that `passes` do not run come last, the model itself first of them: an entry point of
    its own may run them.
    """
    subject = context.subject
    calls = [c for seen in passes for c in (*seen.inner_calls, *seen.passing_calls, *seen.calls)]
    layers = [place for call in calls if call.is_layer for place in holders(subject, call)]
    layers += [(subject.path(layer), layer) for layer in subject.layers()]
    of_a_class: dict[type, tuple[str, Any]] = {}
    for path, layer in layers:
        of_a_class.setdefault(type(layer), (path, layer))
    found: dict[int, str] = {}
    for places, variables in (
        (layers, subject.own_variables),
        (of_a_class.values(), subject.state_of),  # what code refers to is that of its class
    ):
        for path, layer in places:
            for variable in variables(layer):
                found.setdefault(id(variable), path)
    return found


def metrics_of_layers(context: CheckContext) -> dict[int, str]:
    """The path of the layer that holds a metric, by the identity of the metric's variables."""
    found: dict[int, str] = {}
    for layer in context.subject.layers():
        for value in getattr(layer, "__dict__", {}).values():
            if hasattr(value, "update_state") and hasattr(value, "result"):
                path = context.subject.path(layer)
                found.update((id(variable), path) for variable in variables_of(value))
    return found


def moves_layers(context: CheckContext, seen: Observation) -> bool:
    """Whether a run changed what layers hold or inference reads: not a library's own counters."""
    if not seen.moved:
        return False
    inference = observed(context, False)
    relevant = owners(context, inference).keys() | {id(v) for v in inference.variables}
    return any(id(variable) in relevant for variable in seen.moved)


def state_of_layers(context: CheckContext, entry_point: Entry) -> list[Any]:
    """The variables of layers, and of metrics that they hold, that a run may change.

    None if random numbers may hang on them.
    """
    passes = [observed(context, False), *([entry_point.observed] if entry_point.observed else [])]
    for seen in passes:
        if seen.drawing or any(
            id(layer) not in seen.stochastic_off for layer in seen.random_layers
        ):
            return []
    owned = owners(context, *passes).keys() | metrics_of_layers(context).keys()
    return [variable for variable in entry_point.may_change if id(variable) in owned]


def methods_of(context: CheckContext) -> list[str]:
    """The methods of the subject by which users run inference, by name; the first one's first.

    `predict_on_batch` runs what `predict` compiled: it counts where code of the model's own may
    have it do something else, and on request.
    """
    names, own = list(context.subject.entries()), context.subject.own_inference()
    if context.settings.entry_points == "all" or set(own) - {"predict"}:
        return names
    return [name for name in names if name != ON_BATCH]


def calls_of(context: CheckContext) -> dict[str, bool | None]:
    """How users call the subject, by name, with what it is told then."""
    return {context.subject.call_text(mode): mode for mode in (False, None)}


def measured_noise(context: CheckContext, row_by_row: Collection[int] = ()) -> Noise:
    """The noise of the outputs of inference."""
    return context.once(
        ("noise", frozenset(row_by_row)),
        lambda: Noise(observed(context, False, row_by_row), context.sample()),
    )


def same_in_every_layer(context: CheckContext) -> bool:
    """Whether a call that leaves `training` out gives in every layer what inference gives.

    Both run as users run them, outside of a trace, on all rows.
    """
    try:
        inference, *left_out = (
            entry(context, name).run(WHOLE, context.sample()) for name in calls_of(context)
        )
    except DataError:
        return False  # what it refuses, it is judged on
    return not inference.moved and all(
        inference.drew == other.drew and same_records(inference, other) for other in left_out
    )


def few_rows(context: CheckContext) -> tuple[str, Nest]:
    """As few rows as show what a run does, and the name of that batch."""
    return rows_between(context.sample(), 0, context.fixed_rows or FEWEST_ROWS)


def rows_between(x: Nest, start: int, stop: int) -> tuple[str, Nest]:
    """Some rows one after another, and the name of that batch."""
    name = WHOLE if (start, stop) == (0, rows_of(x)) else f"rows {start} to {stop - 1}"
    return name, take_rows(x, slice(start, stop))
