"""Stand in for the calls of layers, whoever holds them."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pytest_bnconsistency.models.calls import Call, Hook
from pytest_bnconsistency.models.owned_objects import given_mode, name_of

PATCHING = threading.RLock()
"""Held while the calls of a library's classes are replaced."""


@contextlib.contextmanager
def hooked_layers(
    classes: Iterable[tuple[type, bool]],
    hook: Hook,
    *,
    passes: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], bool],
    path: Callable[[list[Any], Any], str],
) -> Iterator[None]:
    """Within it, `__call__` of some classes goes through `hook`, in this thread.

    Layers held in closures go there, too. The classes must define `__call__` themselves; each
    comes with whether its instances are layers.

    Args:
        passes: calls that are not for the hook: those of the model itself, and those that build
            a graph and run nothing.
        path: the path of a layer below the layers that are running.
    """
    thread = threading.get_ident()
    parents: list[Any] = []
    called_with: list[bool | None] = []
    calls: Counter[int] = Counter()
    layer_classes = tuple(owner for owner, is_layer in classes if is_layer)

    def watched(owner: type, original: Any, is_layer: bool) -> Any:
        code = getattr(original, "python_function", original)  # cached traces show no calls

        @functools.wraps(code)
        def __call__(layer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            bound = code.__get__(layer, type(layer))
            if (
                threading.get_ident() != thread
                or isinstance(layer, layer_classes) != is_layer
                or (parents and parents[-1] is layer)  # a call of its parent class
                or passes(layer, args, kwargs)
            ):
                return bound(*args, **kwargs)
            calls[id(layer)] += 1
            called_with.append(given_mode(layer, args, kwargs))
            call = Call(
                layer,
                path(parents, layer),
                calls[id(layer)],
                is_layer,
                tuple(parents),
                tuple(called_with),
                args,
                kwargs,
            )
            parents.append(layer)
            try:
                return hook(call, lambda args, kwargs: bound(*args, **kwargs))
            finally:
                parents.pop()
                called_with.pop()

        return __call__

    with PATCHING, contextlib.ExitStack() as restore:
        for owner, is_layer in dict(classes).items():
            original = owner.__dict__["__call__"]
            restore.callback(setattr, owner, "__call__", original)
            setattr(owner, "__call__", watched(owner, original, is_layer))  # noqa: B010
        yield


def by_names(parents: list[Any], layer: Any) -> str:
    return "/".join(map(name_of, [*parents, layer]))
