"""Record and intervene, layer by layer, in one traced forward pass.

A `Pass` is traced once for a mode and then runs on any number of rows. Layers are discovered by
watching the pass, so that a layer held in a closure counts as well.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, map_nest, rows_of
from pytest_bnconsistency.data.logits import LOGITS, joined, with_logits
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import BNConsistencyError, UnsupportedSubjectError
from pytest_bnconsistency.execution.activation_patching import Patch, patching
from pytest_bnconsistency.execution.graphs import (
    as_written,
    current_graph,
    names_behind,
    sources_of,
    traced_in,
    written_variables,
)
from pytest_bnconsistency.execution.hooked_calls import HookedCalls, Instrument
from pytest_bnconsistency.execution.random_operations import (
    Span,
    draws,
    noting_draws,
    standing,
    with_random_numbers,
)
from pytest_bnconsistency.execution.rows_first import rows_first
from pytest_bnconsistency.execution.state import Variables, reachable_variables
from pytest_bnconsistency.execution.traces import note_trace
from pytest_bnconsistency.execution.variable_uses import Uses, variable_uses
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import name_of
from pytest_bnconsistency.models.refusals import as_sentence

Found = TypeVar("Found")


@dataclass(frozen=True)
class Observation:
    """What one run of a pass gave.

    `outputs` are the model's outputs, flat, rows first. `records` are the instrument's arrays,
    one list for each of the pass's `calls`, and one more if it records at the end. `after` holds
    the values of the variables that the run changed, by identity of the variable in `moved`; the
    variables themselves are as before. `drew` says whether random numbers were drawn.
    """

    outputs: list[Array]
    records: list[list[Array] | None] = field(repr=False)
    moved: tuple[Any, ...]
    after: Mapping[int, Array] = field(repr=False)
    drew: bool = False


class Pass:
    """One forward pass of `subject` in a mode, for any number of rows.

    Args:
        x: example rows; only their structure, dtypes and inner shapes count.
        training: what the model is called with; None leaves the argument out.
        instrument: what is done at each layer.
        modes: layers, by identity, that are called with another mode than the model gives them.
        stochastic_off: layers, by identity, that run as the model calls them, and so hand their
            mode on, but whose outputs are those of inference mode.
        row_by_row: layers, by identity, that get one row at a time.
        patched: what calls return instead, by `Call.label`: arrays, one for each tensor.
        operations: what single operations give instead, by name; a trace is needed for that.
        traced: traced once; otherwise, and where the model takes one number of rows only, each run
            is the model's Python code, and what the lines below tell is known after the first.
        written: the variables that a run may change, where they are known and it is not traced.

    `calls` are the calls of layers in execution order, those that return what they were given
    (or what an inner layer returned) left out: these are `passing_calls`; `inner_calls` those in
    loops and nested functions, of which nothing can be recorded. `structure` is the nest of the
    outputs, and tells in each place whether there is one. `random_layers` are the layers
    whose own code draws random numbers, `fed_by_random` those that feed a layer, by its identity,
    where the pass was `neutralised`. `drawing` are the random operations of a trace that are no
    layer's, by name, each with the two places between which it stands. `written` are the
    variables that a run may change. `known` is what was found out about the pass, for those who
    ask again.
    """

    def __init__(
        self,
        subject: Subject,
        x: Nest,
        *,
        training: bool | None,
        instrument: Instrument | None = None,
        modes: Mapping[int, bool] | None = None,
        stochastic_off: Collection[int] = (),
        row_by_row: Collection[int] = (),
        patched: Mapping[str, list[Array]] | None = None,
        operations: Mapping[str, Patch] | None = None,
        traced: bool = True,
        written: Sequence[Any] | None = None,
    ) -> None:
        self.subject = subject
        self.training = training
        self.calls: list[Call] = []
        self.passing_calls: list[Call] = []
        self.inner_calls: list[Call] = []
        self.random_layers: list[Any] = []
        self.drawing: dict[str, tuple[str, str]] = {}
        self.fed_by_random: dict[int, list[Any]] = {}
        self.instrument = instrument or Instrument()
        self.stochastic_off, self.row_by_row = frozenset(stochastic_off), frozenset(row_by_row)
        self._modes, self._patches = dict(modes or {}), dict(patched or {})
        self._operations = dict(operations or {})
        self._concrete: Any = None
        self._to_trace = traced
        self.known: dict[Any, Any] = {}
        self.structure: Nest = None
        self._record_sizes: list[int | None] = []
        self._call_outputs: list[list[Any]] = []
        self._spans: list[Span] = []
        self._replays: list[tuple[int, int]] = []
        self.written: list[Any] = []
        if traced:
            self._trace(x)
        else:
            self.written = reachable_variables(subject) if written is None else list(written)

    def run(self, x: Nest, keep: bool = False) -> Observation:
        """Run on arrays `x` of shape `(rows, ...)`; every variable is as before afterwards.

        With `keep`, what the run changed stays changed: whoever says so restores it.
        """
        before, moved = Variables(self.written), None
        try:
            noting = contextlib.nullcontext() if self.is_traced else noting_draws()
            with as_sentence(self.subject.call_text(self.training), x), noting as noted:
                outputs, flat, logits = self._ran(map_nest(tf.convert_to_tensor, x))
            changes = before.changes()
            moved = tuple(variable for variable, _ in changes)
            after = {id(variable): value.numpy() for variable, value in changes}
        finally:
            if not keep:
                before.restore(moved)
        values = iter([tensor.numpy() for tensor in flat])
        records = [
            None if size is None else [next(values) for _ in range(size)]
            for size in self._record_sizes
        ]
        arrays = [leaf.numpy() for leaf in outputs]
        for index, own in logits.items():
            arrays[index] = with_logits(arrays[index], own.numpy())
        drew = self.draws if noted is None else noted()
        return Observation(arrays, records, moved, after, drew)

    def over(self, batches: Iterable[Data]) -> list[Array]:
        """The outputs for the rows of all batches, one after the other."""
        parts = (self.of_rows(batch.x, self.run(batch.x).outputs) for batch in batches)
        return [joined(list(leaves)) for leaves in zip(*parts, strict=True)]

    def of_rows(self, x: Nest, outputs: Sequence[Array]) -> list[Array]:
        """What these outputs for `x` say of each of its rows, without those that say nothing."""
        pairs = itertools.zip_longest(outputs, self._output_shapes)
        said = (rows_first(output, shape, rows_of(x)) for output, shape in pairs)
        return [output for output in said if output is not None]

    @property
    def _output_shapes(self) -> list[list[int | None]]:
        """What a trace tells of the outputs' shapes; nothing without one, or without a rank."""
        tensors = [] if self._concrete is None else self._concrete.outputs[: self._output_count]
        known = all(tensor.shape.rank is not None for tensor in tensors)
        return [tensor.shape.as_list() for tensor in tensors] if known else []

    def again(
        self,
        x: Nest,
        instrument: Instrument,
        *,
        modes: Mapping[int, bool] | None = None,
        row_by_row: Collection[int] = (),
        patched: Mapping[str, list[Array]] | None = None,
        operations: Mapping[str, Patch] | None = None,
        traced: bool | None = None,
    ) -> Pass:
        """The same pass with another instrument, and with more interventions.

        It is traced, or is not, as this one was to be where nothing else is said.
        """
        return Pass(
            self.subject,
            x,
            training=self.training,
            instrument=instrument,
            modes=modes,
            stochastic_off=self.stochastic_off,
            row_by_row=[*self.row_by_row, *row_by_row],
            patched=patched,
            operations=operations,
            traced=self._to_trace if traced is None else traced,
            written=self.written,
        )

    @property
    def variables(self) -> list[Any]:
        """The variables that the pass reads or writes, known to the model or not."""
        return self.written if self._concrete is None else list(self._concrete.graph.variables)

    def once(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """What `make` finds out about this pass, made when it is first asked for."""
        if key not in self.known:
            self.known[key] = make()
        found: Found = self.known[key]
        return found

    def uses(self, x: Nest) -> Uses:
        """What it does with variables; a trace tells that itself, else a run on `x` does."""
        if self._concrete is not None:
            return self.once("uses", self._traced_uses)
        return Uses.seen(self.written, self.run(x).moved)

    def _traced_uses(self) -> Uses:
        operations = self._concrete.graph.get_operations()
        replayed = (o for first, end in self._replays for o in operations[first:end])
        return variable_uses(self._concrete, frozenset(o.name for o in replayed))

    @property
    def is_traced(self) -> bool:
        return self._concrete is not None

    @property
    def draws(self) -> bool:
        """Whether a trace draws random numbers, in layers or not."""
        return bool(self.random_layers or self.drawing)

    def with_random_numbers(self) -> list[Any]:
        """The layers whose own code makes random numbers, if only those of a seed that stays."""
        if self._concrete is None:
            return list(self.random_layers)
        return with_random_numbers(self._concrete.graph, self._spans)

    @property
    def deterministic(self) -> bool:
        return self.is_traced and not self.draws

    @property
    def dtypes(self) -> set[str]:
        """The floating dtypes in which the pass computes, nested functions included."""
        if self._concrete is None:
            return set()
        graph = self._concrete.graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        found = {tf.as_dtype(n.attr["T"].type) for n in nodes if n.attr["T"].type}
        return {dtype.name for dtype in found if dtype.is_floating}

    def standing(self, names: Collection[str]) -> tuple[list[Any], dict[str, tuple[str, str]]]:
        """The layers whose own code runs operations of a trace; of others, where they stand."""
        every = enumerate(self._concrete.graph.get_operations())
        return standing([(i, o.name) for i, o in every if o.name in names], self._spans)

    def same_computation(self, other: Pass) -> bool:
        """Whether two passes do the same, operation by operation."""
        if self._concrete is None or other._concrete is None:
            return False
        mine, its = (p._concrete.graph.as_graph_def() for p in (self, other))
        return bool(mine == its)

    def keeping_shape(self) -> set[int]:
        """The layers, by identity, that may give their first argument's shape in some call."""
        if self._concrete is None:
            return {id(call.layer) for call in self.calls}
        return {
            id(call.layer)
            for call, tensors in zip(self.calls, self._call_outputs, strict=True)
            for given in call.args[:1]
            if isinstance(given, tf.Tensor)
            and (not tensors or any(given.shape.is_compatible_with(t.shape) for t in tensors))
        }

    def reaching_outputs(self) -> set[int]:
        """The indices of the calls whose outputs have a part in the model's outputs."""
        if self._concrete is None:
            return set(range(len(self.calls)))
        behind = names_behind(self._concrete.graph.outputs[: self._output_count])
        return {
            index
            for index, tensors in enumerate(self._call_outputs)
            if any(tensor.op.name in behind for tensor in tensors)
        }

    def reaching(self, chosen: Callable[[Call], bool]) -> list[list[Call]]:
        """For each of the calls, those chosen whose outputs reach its inputs, in their order.

        Only a trace tells.
        """
        sources = {
            tensor.op.name: call
            for call, tensors in zip(self.calls, self._call_outputs, strict=True)
            if chosen(call)
            for tensor in tensors
        }
        if self._concrete is None or not sources:
            return [[] for _ in self.calls]
        places = {id(call): place for place, call in enumerate(self.calls)}
        graph, found = self._concrete.graph, []
        reached = sources_of(graph, sources)
        for call in self.calls:
            given = traced_in(graph, [list(call.args), dict(call.kwargs)])
            own = {id(c): c for t in given for c in reached.get(t.op.name, {}).values()}
            found.append(sorted(own.values(), key=lambda c: places[id(c)]))
        return found

    def state_calls(self) -> list[Call]:
        """The calls of all that may hold state: of layers, and that of a model with its own."""
        calls = [*self.calls, *self.inner_calls]
        root = next(iter(self.subject.layers()), None)
        if root is not None and all(call.layer is not root for call in calls):
            mode = (self.training,)
            calls.append(Call(root, name_of(root), 1, True, (), mode, (), {}))
        return calls

    def feeding(self) -> dict[int, list[Any]]:
        """For each layer, by identity, the random layers whose outputs reach its inputs."""
        random = {id(layer) for layer in self.random_layers}
        fed: dict[int, dict[int, Any]] = {}
        every = self.reaching(lambda call: id(call.layer) in random)
        for call, sources in zip(self.calls, every, strict=True):
            fed.setdefault(id(call.layer), {}).update({id(s.layer): s.layer for s in sources})
        return {layer: list(found.values()) for layer, found in fed.items() if found}

    def _trace(self, x: Nest) -> None:
        signature = map_nest(
            lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), tf.as_dtype(leaf.dtype)), x
        )
        try:
            if self.subject.fixed_rows is None:
                note_trace()
                function = tf.function(self._body, autograph=False)
                self._concrete = function.get_concrete_function(signature)
        except BNConsistencyError:
            raise
        except Exception:
            self._concrete = None
        if self._concrete is None:
            # Code that needs concrete numbers of rows cannot be traced for any; it runs as
            # Python each time, and says itself what is wrong if it can't run either.
            self.written = reachable_variables(self.subject)
            before = Variables(self.written)
            try:
                self._body(map_nest(tf.convert_to_tensor, x))
            finally:
                before.restore()
        else:
            self.written = written_variables(self._concrete)

    def _ran(self, x: Nest) -> tuple[list[Any], list[Any], dict[int, Any]]:
        if self._concrete is None:
            return self._body(x)
        with as_written():
            outputs, flat, logits = self._concrete(x)
        return outputs, flat, logits

    def _body(self, x: Nest) -> tuple[list[Any], list[Any], dict[int, Any]]:
        """The outputs, what was recorded, and the logits of outputs by their index."""
        graph = current_graph()
        seen = HookedCalls(
            self.subject,
            x,
            self.instrument,
            modes=self._modes,
            stochastic_off=self.stochastic_off,
            row_by_row=self.row_by_row,
            patched=self._patches,
        )
        self.instrument.begin()
        with self.subject.watch(seen), patching(self._operations):
            outputs = self.subject.forward(x, self.training)
        self.structure = map_nest(lambda leaf: leaf is not None, outputs)
        leaves = [leaf for leaf in flatten(outputs) if leaf is not None]
        flat = [self._dense(leaf) for leaf in leaves]
        records = seen.records
        if (record := self.instrument.finish(flat)) is not None:
            records = [*records, record]
        self.calls, self.passing_calls, self.inner_calls = seen.calls, seen.passing, seen.inner
        self._call_outputs, self._spans, self._replays = seen.outputs, seen.spans, seen.replays
        drawing, self.drawing = ([], {}) if graph is None else draws(graph, self._spans)
        self.random_layers = [layer for layer in drawing if id(layer) not in self.stochastic_off]
        self._record_sizes = [None if record is None else len(record) for record in records]
        self._output_count = len(flat)
        recorded = [tensor for record in records if record is not None for tensor in record]
        return flat, recorded, _logits_behind(leaves)

    def _dense(self, output: Any) -> Any:
        remedies = {
            tf.RaggedTensor: "outputs.to_tensor(shape=(None, width)), with one width for all",
            tf.SparseTensor: "tf.sparse.to_dense(outputs)",
        }
        if remedy := remedies.get(type(output)):
            raise UnsupportedSubjectError(
                f"{self.subject.call_text(self.training)} gives a {type(output).__name__}; "
                f"expected dense outputs: give a function around the model that returns {remedy}"
            )
        return tf.convert_to_tensor(output)


def _logits_behind(outputs: Sequence[Any]) -> dict[int, Any]:
    behind = {index: getattr(output, LOGITS, None) for index, output in enumerate(outputs)}
    return {index: logits for index, logits in behind.items() if logits is not None}


def neutralised(
    subject: Subject,
    x: Nest,
    *,
    training: bool | None,
    instrument: Callable[[], Instrument],
    row_by_row: Collection[int] = (),
    after: Pass | None = None,
) -> Pass:
    """A pass in which layers that draw random numbers give what they give in inference.

    A layer that holds variables, or layers with variables, goes on as it is: its statistics count.
    What was found so in another pass of the mode, the one `after` which this comes, is known.
    """
    drawing: list[Any] = []
    fed: dict[int, list[Any]] | None = None
    if after is not None:
        drawing = [layer for layer in after.random_layers if id(layer) in after.stochastic_off]
        fed = after.fed_by_random
    while True:
        stochastic_off = [id(layer) for layer in drawing]
        traced = Pass(
            subject,
            x,
            training=training,
            instrument=instrument(),
            stochastic_off=stochastic_off,
            row_by_row=row_by_row,
        )
        fed = traced.fed_by_random = traced.feeding() if fed is None else fed
        found = _to_neutralise(traced)
        if not found:
            traced.random_layers += drawing
            return traced
        drawing += found


def _to_neutralise(traced: Pass) -> list[Any]:
    """The layers that draw random numbers, hold no state, and can be told not to."""
    stateful = _stateful(traced)
    return [
        layer
        for layer in traced.random_layers
        if id(layer) not in stateful and traced.subject.takes_training(layer)
    ]


def _stateful(traced: Pass) -> set[int]:
    """The layers, by identity, that hold variables or layers with variables."""
    return {
        id(layer)
        for call in [*traced.calls, *traced.inner_calls]
        if call.is_layer and traced.subject.own_variables(call.layer)
        for layer in (call.layer, *call.parents)
    }
