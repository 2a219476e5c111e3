"""Who writes to some variables while a training step runs, or is traced."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_bnconsistency.subjects.held import LIBRARIES
from pytest_bnconsistency.subjects.watching import PATCHING

METHODS = ("assign", "assign_add", "assign_sub")
OURS = __name__.partition(".")[0]


@dataclass(frozen=True)
class Writer:
    """`by` is an optimizer or a callback; None where code of the user's writes by itself."""

    kind: Literal["optimizer", "callback", "code"]
    by: Any
    place: str

    @property
    def label(self) -> str:
        if self.kind == "code":
            return f"the code at {self.place}"
        return f"the {self.kind} {type(self.by).__name__}"


@contextlib.contextmanager
def writers_of(variables: Sequence[Any], *, let: bool = True) -> Iterator[dict[int, list[Writer]]]:
    """Within it, writes to `variables` are noted down by the variable's identity.

    With `let=False` they are left out. What was traced before is not seen: trace anew inside.
    """
    found: dict[int, list[Writer]] = {id(variable): [] for variable in variables}
    kinds = {type(variable) for variable in variables}
    methods = {
        (next(base for base in kind.__mro__ if name in vars(base)), name)
        for kind in kinds
        for name in METHODS
    }

    def noting(original: Any) -> Any:
        def write(variable: Any, *args: Any, **kwargs: Any) -> Any:
            if id(variable) not in found:
                return original(variable, *args, **kwargs)
            writer = writer_at(sys._getframe(1))
            if writer is None:
                return original(variable, *args, **kwargs)
            if writer not in found[id(variable)]:
                found[id(variable)].append(writer)
            return original(variable, *args, **kwargs) if let else variable

        return write

    with PATCHING, contextlib.ExitStack() as restore:
        for owner, name in methods:
            original = owner.__dict__[name]
            restore.callback(setattr, owner, name, original)
            setattr(owner, name, noting(original))
        yield found


def writer_at(frame: types.FrameType | None) -> Writer | None:
    """Who stands behind a write; None where it is a probe, which restores what it tried."""
    place = ""
    while frame is not None:
        module = _module(frame)
        if module == OURS:
            break
        owner = frame.f_locals.get("self")
        if hasattr(owner, "apply_gradients"):
            return Writer("optimizer", owner, place)
        if hasattr(owner, "on_train_batch_end") and hasattr(owner, "set_model"):
            return Writer("callback", owner, place)
        if not place and module not in LIBRARIES:
            place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return Writer("code", None, place) if place else None


def place_of(frame: types.FrameType | None) -> str:
    """The file and the line of the user's own code behind a write, "" where there is none."""
    while frame is not None and _module(frame) != OURS:
        if _module(frame) not in LIBRARIES:
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _module(frame: types.FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
