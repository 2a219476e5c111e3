"""The calls of layers in one run of a model's code: what is done at each, and what is recorded.

What an `Instrument` records of a layer's output becomes an output of the trace; what it returns
instead of the output is what the model goes on with.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, rebuild
from pytest_bnconsistency.execution.graphs import (
    current_graph,
    operation_count,
    tensors_in,
    traced_in,
    with_mask,
)
from pytest_bnconsistency.execution.random_operations import Span
from pytest_bnconsistency.execution.row_by_row import given_single_rows
from pytest_bnconsistency.models import Call, Proceed, Subject

Replay = Callable[[bool], Any]
"""Run the layer again on the identical input, in training mode or not."""

AHEAD = 4
"""How many calls a trace may be ahead of its records, so that it keeps few outputs for them."""


class Instrument:
    """What a pass does at each layer and at the end; this one does nothing."""

    def begin(self) -> None:
        """A run of the model's code starts."""

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        """The outputs to go on with, and the tensors to record."""
        return outputs, None

    def finish(self, outputs: list[Any]) -> list[Any] | None:
        """The tensors to record, behind those of the calls, of a run that gave `outputs`."""
        return None


class HookedCalls:
    """What stands in for each call of a layer in one run; arguments are those of `Pass`.

    `calls`, `passing` and `inner` are the calls as a `Pass` tells them apart. Beside each of
    `calls` stands what was recorded of it, and in a trace the tensors that it gave. `spans` say
    between which operations of a trace a call stands, `replays` between which a layer ran again.
    """

    def __init__(
        self,
        subject: Subject,
        x: Nest,
        instrument: Instrument,
        *,
        modes: Mapping[int, bool],
        stochastic_off: Collection[int],
        row_by_row: Collection[int],
        patched: Mapping[str, list[Array]],
    ) -> None:
        self.calls: list[Call] = []
        self.passing: list[Call] = []
        self.inner: list[Call] = []
        self.records: list[list[Any] | None] = []
        self.outputs: list[list[Any]] = []
        self.spans: list[Span] = []
        self.replays: list[tuple[int, int]] = []
        self._subject, self._instrument = subject, instrument
        self._modes, self._stochastic_off = modes, stochastic_off
        self._row_by_row, self._patches = row_by_row, patched
        self._graph, self._replaying = current_graph(), False
        # Weak: a run outside of a graph would hold the outputs of all layers at once.
        self._known: dict[int, weakref.ref[Any]] = {}
        self._remember(flatten(x))

    def __call__(self, call: Call, proceed: Proceed) -> Any:
        self._subject.called.add(id(call.layer))
        if self._replaying:
            return proceed(*self._with_training(call, self._modes.get(id(call.layer))))
        if current_graph() is not self._graph:
            # The tensors of a loop's body or of a nested function can't leave it.
            self.inner.append(call)
            return proceed(*self._with_training(call, self._modes.get(id(call.layer))))
        first = operation_count(self._graph)
        outputs = self._intervened(call, proceed)
        if self._graph is not None:
            # Outside of a graph, what calls were given is not kept: it takes much memory.
            self.spans.append(Span(call, first, operation_count(self._graph)))
        if all(map(self._is_known, tensors_in(outputs))):
            self.passing.append(replace(call, args=(), kwargs={}))
            return outputs
        return self._recorded(call, proceed, outputs)

    def _intervened(self, call: Call, proceed: Proceed) -> Any:
        """What the call gives, with all that is to be done to it."""
        layer, forced = id(call.layer), self._modes.get(id(call.layer))
        args, kwargs = self._with_training(call, forced)
        quiet = self._replay(call, proceed, False) if layer in self._stochastic_off else None
        awaited = self.records[-AHEAD] if len(self.records) >= AHEAD else None
        with tf.control_dependencies(awaited or []), self._telling(call, forced):
            outputs = proceed(args, kwargs)
        if quiet is not None:
            outputs = quiet
        if layer in self._row_by_row:
            outputs = given_single_rows(proceed, args, kwargs, outputs)
        return self._patched(call, outputs)

    def _recorded(self, call: Call, proceed: Proceed, outputs: Any) -> Any:
        """What the model goes on with; the call and what the instrument keeps of it are noted."""
        self._remember(tensors_in(outputs))
        outputs, record = self._instrument.on_call(
            call, outputs, lambda training: self._replay(call, proceed, training)
        )
        tensors = tensors_in(outputs)
        self._remember(tensors)
        traced = self._graph is not None
        self.calls.append(call if traced else replace(call, args=(), kwargs={}))
        self.records.append(record)
        self.outputs.append(traced_in(self._graph, tensors) if traced else [])
        return outputs

    def _replay(self, call: Call, proceed: Proceed, training: bool) -> Any:
        """What the layer gives for its input in a mode, hidden from what is recorded."""
        self._replaying, first = True, operation_count(self._graph)
        try:
            with self._subject.modes_kept(call.layer):
                return proceed(*self._with_training(call, training))
        finally:
            self._replaying = False
            self.replays.append((first, operation_count(self._graph)))

    def _remember(self, tensors: Iterable[Any]) -> None:
        self._known.update((id(tensor), weakref.ref(tensor)) for tensor in tensors)

    def _is_known(self, tensor: Any) -> bool:
        return id(tensor) in self._known and self._known[id(tensor)]() is tensor

    def _patched(self, call: Call, outputs: Any) -> Any:
        """The patch of a call, else what it gives."""
        if call.label not in self._patches:
            return outputs
        patches = zip(self._patches[call.label], flatten(outputs), strict=True)
        return rebuild(outputs, [with_mask(tf.constant(v), leaf) for v, leaf in patches])

    def _telling(
        self, call: Call, training: bool | None
    ) -> contextlib.AbstractContextManager[None]:
        """Around a call that is told a mode by us, so that no other call is told it.

        But for one that stands in the place of training=True in the call, or of the layer's own
        default, which others would get.
        """
        default = self._subject.training_default(call.layer)
        if training is None or call.called_with[-1] is True or default is not None:
            return contextlib.nullcontext()
        return self._subject.modes_kept(call.layer)

    def _with_training(
        self, call: Call, training: bool | None
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of `call` with its mode set, where the layer can be told one."""
        if training is None or not self._subject.takes_training(call.layer):
            return call.args, call.kwargs
        return self._subject.with_training(call, training)
