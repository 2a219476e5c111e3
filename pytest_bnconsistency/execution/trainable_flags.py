"""Who sets the flag `trainable` of layers while training runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.execution.variable_writers import Writer, place_of, writer_at
from pytest_bnconsistency.models.layer_hooks import PATCHING

FLAG = "trainable"


@dataclass(frozen=True, eq=False)
class Flagged:
    """A flag that was set to another value: which layer's, by whom, and at which line."""

    layer: Any
    value: bool
    writer: Writer
    place: str

    @property
    def label(self) -> str:
        at = f" at {self.place}" if self.place and self.writer.kind != "code" else ""
        return f"{self.writer.label}{at}"


@contextlib.contextmanager
def flags_set(
    layers: Sequence[Any], around: Sequence[Any], *, let: bool = True
) -> Iterator[list[Flagged]]:
    """Within it, what sets the flags of `layers` to another value is noted down, in order.

    They may be set by the flags of layers `around` them. With `let=False` they stay as they are.
    """
    found: list[Flagged] = []

    def noting(flag: Any) -> property:
        def write(layer: Any, value: Any) -> None:
            frame = sys._getframe(1)
            writer = writer_at(frame)
            before = [] if writer is None else [bool(each.trainable) for each in layers]
            flag.fset(layer, value)
            for each, was in zip(layers, before, strict=False):
                if writer is not None and bool(each.trainable) is not was:
                    found.append(Flagged(each, not was, writer, place_of(frame)))
                    if not let:
                        each.trainable = was

        return property(flag.fget, write, flag.fdel, flag.__doc__)

    with PATCHING, contextlib.ExitStack() as restore:
        kinds = {type(layer) for layer in [*layers, *around]}
        for owner in {owner for kind in kinds for owner in _owners(kind)}:
            flag = vars(owner)[FLAG]
            restore.callback(setattr, owner, FLAG, flag)
            setattr(owner, FLAG, noting(flag))
        yield found


def _owners(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if isinstance(vars(base).get(FLAG), property)]
