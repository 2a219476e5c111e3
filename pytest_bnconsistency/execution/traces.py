"""The traces of `tf.function`s: to put them back, to forget them for a while, to count ours."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from pytest_bnconsistency.context import door

CONFIGURED = ("_variable_creation_config", "_no_variable_creation_config", "_created_variables")
TRACED_GRADIENTS = "CustomGradient-"
_made: ContextVar[list[None] | None] = ContextVar("traces made", default=None)
# TensorFlow keeps traces under names that are not public; where a name is gone, traces stay.


def concrete_functions(function: Any) -> list[Any]:
    """The traces that a `tf.function` holds; none of anything else."""
    traces: list[Any] = getattr(function, "_list_all_concrete_functions", list)()
    return traces


@contextlib.contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Within it, the traces that we make are counted."""
    made: list[None] = []
    token = _made.set(made)
    try:
        yield lambda: len(made)
    finally:
        _made.reset(token)


def note_trace() -> None:
    """One more trace is made, which takes seconds of a large model."""
    door.get().progress.doing("tracing the model")
    made = _made.get()
    if made is not None:
        made.append(None)


class Traces:
    """The traces that some `tf.function`s hold at one moment.

    A trace that is made under a flag outlives the flag: left behind, it would run in the user's
    next step.
    """

    def __init__(self, functions: Iterable[Any]) -> None:
        self._functions = list({id(f): f for f in functions}.values())
        self._kept = [
            (
                function,
                {name: getattr(function, name, None) for name in CONFIGURED},
                _tables(cache),
            )
            for function in self._functions
            if (cache := getattr(function, "_function_cache", None)) is not None
        ]

    def restore(self) -> None:
        for function, attributes, tables in self._kept:
            vars(function).update(attributes)
            for table, entries in tables:
                table.clear()
                table.update(entries)

    def forget(self) -> None:
        """Let the next call trace anew."""
        for function, attributes, tables in self._kept:
            vars(function).update(dict.fromkeys(attributes))
            for table, _ in tables[:2]:
                table.clear()


def registered_gradients() -> Callable[[], None]:
    """A function that has TensorFlow forget the gradients that are registered from now on.

    It keeps the gradient of each custom operation that is traced, and the whole graph with it.
    """
    operations = sys.modules.get("tensorflow.python.framework.ops")
    holder = getattr(operations, "gradient_registry", None)
    registry: dict[str, Any] = getattr(holder, "_registry", {})
    before = frozenset(registry)

    def forget() -> None:
        for name in list(registry):
            if name not in before and name.startswith(TRACED_GRADIENTS):
                del registry[name]

    return forget


def _tables(cache: Any) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The dictionaries of a function cache, with copies: traces, dispatch, its inner tables."""
    outer = [getattr(cache, name, None) for name in ("_primary", "_dispatch_dict")]
    found = [table for table in outer if isinstance(table, dict)]
    for inner in list(found[-1].values()) if len(found) == 2 else []:
        inner_tables = [
            getattr(inner, name, None) for name in ("_dispatch_table", "_dispatch_cache")
        ]
        found += [table for table in inner_tables if isinstance(table, dict)]
    return [(table, dict(table)) for table in found]
