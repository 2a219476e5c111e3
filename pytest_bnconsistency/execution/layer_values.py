"""The values of calls and operations in one run, and the outputs where some are held."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, distance, flatten, rows_of
from pytest_bnconsistency.execution.activation_patching import Patch
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.execution.random_operations import SHARES, drawing
from pytest_bnconsistency.execution.row_hashes import Operations
from pytest_bnconsistency.execution.state import restored, same_bits
from pytest_bnconsistency.models import Call

UNLIKE = 2.0**-10
"""The share of their scale by which a call's values move if not by noise: far above that."""

REPEATED = 3
"""How often a batch runs where an operation may give the same bits twice by luck."""


class Recorded(Instrument):
    """Keeps what calls are given and what they give, by label. For runs outside of a graph."""

    def __init__(self, labels: Collection[str] | None = None) -> None:
        self.given: dict[str, list[Array]] = {}
        self.returned: dict[str, list[Array]] = {}
        self._inside: dict[str, tuple[Any, ...]] = {}
        self._layers: dict[str, Any] = {}
        self._labels = labels

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if self._labels is not None and call.label not in self._labels:
            return outputs, None
        given = flatten([list(call.args), dict(call.kwargs)])
        self.given[call.label] = [np.asarray(leaf) for leaf in given if tf.is_tensor(leaf)]
        self.returned[call.label] = [np.asarray(leaf) for leaf in flatten(outputs)]
        self._inside[call.label], self._layers[call.label] = call.parents, call.layer
        return outputs, None

    def around(self, label: str) -> list[str]:
        """The calls within which a call ran: the next ones of its parents, the innermost first."""
        labels = list(self.returned)
        later = labels[labels.index(label) + 1 :]
        found = (
            next((other for other in later if self._layers[other] is parent), None)
            for parent in reversed(self._inside[label])
        )
        return [other for other in found if other is not None]


class _InTrace(Instrument):
    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        given = [t for t in flatten([list(call.args), dict(call.kwargs)]) if tf.is_tensor(t)]
        return outputs, [tf.constant(len(given)), *given, *flatten(outputs)]


class _Results(Instrument):
    def __init__(self, names: Iterable[str]) -> None:
        self.counts = dict.fromkeys(names, 0)

    def finish(self, outputs: list[Any]) -> list[Any] | None:
        graph, record = tf.compat.v1.get_default_graph(), list[Any]()
        for name in self.counts:
            tensors = graph.get_operation_by_name(name).outputs
            self.counts[name] = len(tensors)
            record += tensors
        return record


def values_of(
    seen: Pass, x: Nest, labels: Collection[str] | None = None
) -> dict[str, list[Array]]:
    """What each call, or those of `labels`, gives on rows `x`, by its label.

    As far as the run gets.
    """
    return given_and_returned(seen, x, labels)[1]


def given_and_returned(
    seen: Pass, x: Nest, labels: Collection[str] | None = None
) -> tuple[dict[str, list[Array]], dict[str, list[Array]]]:
    """The tensors that each call is given on rows `x`, and what it gives, by its label."""
    values = recorded(seen, x, labels)
    return values.given, values.returned


def recorded(
    seen: Pass,
    x: Nest,
    labels: Collection[str] | None = None,
    patched: Mapping[str, list[Array]] | None = None,
) -> Recorded:
    """What each call, or those of `labels`, is given on rows `x` and gives, as far as it gets.

    Calls may give what is `patched` instead.
    """
    values = Recorded(labels)
    with contextlib.suppress(Exception):
        seen.again(x, values, patched=patched, traced=False).run(x)
    return values


def in_trace(seen: Pass, x: Nest) -> tuple[dict[str, list[Array]], dict[str, list[Array]]]:
    """The same as `given_and_returned`, in a trace for any number of rows."""
    traced = seen.again(x, _InTrace(), traced=True)
    given, returned = dict[str, list[Array]](), dict[str, list[Array]]()
    for call, record in zip(traced.calls, traced.run(x).records, strict=True):
        count, *values = record or [np.array(0)]
        given[call.label], returned[call.label] = values[: int(count)], values[int(count) :]
    return given, returned


def results_of(seen: Pass, x: Nest, names: Iterable[str]) -> dict[str, list[Array]]:
    """What the operations of these names give on rows `x`, an array for each tensor.

    Raises:
        KeyError: a trace has none of that name.
    """
    return next(results_in(seen, [x], names))


def results_in(
    seen: Pass, batches: Sequence[Nest], names: Iterable[str]
) -> Iterator[dict[str, list[Array]]]:
    """The same for one batch after the other, in one trace."""
    results = _Results(names)
    traced = seen.again(batches[0], results)
    for x in batches:
        record = iter(traced.run(x).records[-1] or ())
        yield {name: [next(record) for _ in range(n)] for name, n in results.counts.items()}


def outputs_with(
    seen: Pass, x: Nest, patched: Mapping[str, list[Array]] | None = None
) -> list[Array] | None:
    """The outputs on rows `x` where calls give what is `patched`; None if that raises."""
    try:
        return seen.again(x, Instrument(), patched=patched, traced=False).run(x).outputs
    except Exception:
        return None


def outputs_with_each(
    seen: Pass, x: Nest, operations: Mapping[str, Patch]
) -> Iterator[list[Array] | None]:
    """The outputs where the first of these operations is held, then the next alone, and so on.

    One trace serves all; None where a run raises.
    """
    chosen = tf.Variable(0, trainable=False)
    patched = {
        name: replace(one, when=functools.partial(_is, chosen, index))
        for index, (name, one) in enumerate(operations.items())
    }
    try:
        again = seen.again(x, Instrument(), operations=patched)
    except Exception:
        return
    for index in range(len(patched)):
        chosen.assign(index)
        try:
            outputs: list[Array] | None = again.run(x).outputs
        except Exception:
            outputs = None
        yield outputs


def _is(variable: Any, value: int) -> Any:
    return tf.equal(variable.read_value(), value)


def repeats_with(
    seen: Pass,
    x: Nest,
    patched: Mapping[str, list[Array]],
    operations: Mapping[str, Patch] | None = None,
) -> bool:
    """Whether a second run, from what the first left behind, gives the same bits so."""
    try:
        traced = operations is not None
        again = seen.again(x, Instrument(), patched=patched, operations=operations, traced=traced)
        with restored(again.written):
            first, second = (again.run(x, keep=True).outputs for _ in range(2))
    except Exception:
        return False
    return same_outputs(first, second)


def unrepeatable(seen: Pass, x: Nest) -> dict[str, str]:
    """The operations of a trace that give other bits for the same input, and how to name them.

    It is empty where none is seen to.
    """
    operations = Operations(rows_of(x))
    watched = seen.again(x, operations)
    if not watched.is_traced:
        return {}
    first, *others = (watched.run(x).records[-1] or [] for _ in range(REPEATED))
    changed = [
        any(not np.array_equal(mine, its) for its in each)
        for mine, *each in zip(first, *others, strict=True)
    ]
    found = dict[str, str]()
    for result, moved in zip(operations.results, changed, strict=True):
        if moved and not any(changed[index] for index in result.given):
            # What can't be compared, as it has no known rank, may have changed before.
            opaque = [operations.results[i] for i in result.given if not len(first[i])]
            found.update((each.operation, each.description) for each in opaque or [result])
    return found


def with_draws(run: Callable[[], Observation]) -> list[Observation]:
    """What code that runs, or is traced, anew gives for other random numbers.

    The least, a middle and the largest number stand in place of each that is drawn: so rare draws
    count as well, whatever the seed.
    """
    found: list[Observation] = []
    for share in SHARES:
        with contextlib.suppress(Exception), drawing(share):
            found.append(run())
    return found


def differ(mine: Array, its: Array) -> bool:
    """Whether two arrays have unlike shapes, or differ by more than noise ever does."""
    if mine.shape != its.shape:
        return True
    if same_bits(mine, its):
        return False
    scale = float(distance(mine, np.zeros_like(mine)).max(initial=0.0)) or 1.0
    return bool(distance(mine, its).max(initial=0.0) > UNLIKE * scale)
