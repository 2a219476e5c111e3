"""The traces of `tf.function`s: to put them back, or to forget them for a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CONFIGURED = ("_variable_creation_config", "_no_variable_creation_config", "_created_variables")
# TensorFlow keeps traces under names that are not public; where a name is gone, traces stay.


class Traces:
    """The traces that some `tf.function`s hold at one moment.

    A trace that is made under a flag outlives the flag: left behind, it would run in the user's
    next step.
    """

    def __init__(self, functions: Iterable[Any]) -> None:
        self._functions = list({id(f): f for f in functions}.values())
        self._held = [
            (
                function,
                {name: getattr(function, name, None) for name in CONFIGURED},
                _tables(cache),
            )
            for function in self._functions
            if (cache := getattr(function, "_function_cache", None)) is not None
        ]

    def restore(self) -> None:
        for function, attributes, tables in self._held:
            vars(function).update(attributes)
            for table, entries in tables:
                table.clear()
                table.update(entries)

    def forget(self) -> None:
        """Let the next call trace anew."""
        for function, attributes, tables in self._held:
            vars(function).update(dict.fromkeys(attributes))
            for table, _ in tables[:2]:
                table.clear()


def _tables(cache: Any) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The dictionaries of a function cache, with copies: traces, dispatch, its inner tables."""
    outer = [getattr(cache, name, None) for name in ("_primary", "_dispatch_dict")]
    found = [table for table in outer if isinstance(table, dict)]
    for inner in list(found[-1].values()) if len(found) == 2 else []:
        held = [getattr(inner, name, None) for name in ("_dispatch_table", "_dispatch_cache")]
        found += [table for table in held if isinstance(table, dict)]
    return [(table, dict(table)) for table in found]
