"""Who writes to some variables while a training step runs, or is traced."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_bnconsistency.models.layer_hooks import PATCHING
from pytest_bnconsistency.models.owned_objects import LIBRARIES

METHODS = ("assign", "assign_add", "assign_sub")
GENERATED, CONVERTED = "__autograph_generated_file", "tf__"
OURS = __name__.partition(".")[0]


@dataclass(frozen=True)
class Writer:
    """`by` is an optimizer or a callback; None where code of the user's writes by itself.

    `inside` are the objects, by identity, whose calls were running.
    """

    kind: Literal["optimizer", "callback", "code"]
    by: Any
    place: str
    inside: frozenset[int] = frozenset()

    @property
    def label(self) -> str:
        if self.kind == "code":
            return f"the code at {self.place}"
        return f"the {self.kind} {type(self.by).__name__}"


Intercept = Callable[[Any, types.FrameType, Callable[[], Any]], Any]
"""What a write to a variable gives, by the frame that asked for it and what would carry it out."""


@contextlib.contextmanager
def writers_of(variables: Sequence[Any], *, let: bool = True) -> Iterator[dict[int, list[Writer]]]:
    """Within it, writes to `variables` are noted down by the variable's identity.

    With `let=False` they are left out. What was traced before is not seen: trace anew inside.
    """
    found: dict[int, list[Writer]] = {id(variable): [] for variable in variables}

    def note(variable: Any, frame: types.FrameType, write: Callable[[], Any]) -> Any:
        writer = writer_at(frame)
        if writer is None:
            return write()
        if writer not in found[id(variable)]:
            found[id(variable)].append(writer)
        return write() if let else variable

    with intercepted(variables, note):
        yield found


@contextlib.contextmanager
def intercepted(variables: Sequence[Any], intercept: Intercept) -> Iterator[None]:
    """Within it, writes to `variables` go through `intercept`: as they run, or are traced."""
    watched = {id(variable) for variable in variables}
    methods = {
        (next(base for base in kind.__mro__ if name in vars(base)), name)
        for kind in {type(variable) for variable in variables}
        for name in METHODS
    }

    def through(original: Any) -> Any:
        def write(variable: Any, *args: Any, **kwargs: Any) -> Any:
            if id(variable) not in watched:
                return original(variable, *args, **kwargs)
            return intercept(
                variable, sys._getframe(1), lambda: original(variable, *args, **kwargs)
            )

        return write

    with PATCHING, contextlib.ExitStack() as restore:
        for owner, name in methods:
            original = owner.__dict__[name]
            restore.callback(setattr, owner, name, original)
            setattr(owner, name, through(original))
        yield


def writer_at(frame: types.FrameType | None) -> Writer | None:
    """Who stands behind a write; None where it is a probe, which restores what it tried."""
    place, inside = "", calls_around(frame)
    while frame is not None:
        module = _module(frame)
        if module == OURS:
            break
        owner = _receiver(frame)
        if hasattr(owner, "apply_gradients"):
            return Writer("optimizer", owner, place)
        if hasattr(owner, "on_train_batch_end") and hasattr(owner, "set_model"):
            return Writer("callback", owner, place)
        if not place and module not in LIBRARIES:
            place = _place(frame)
        frame = frame.f_back
    return Writer("code", None, place, inside) if place else None


def calls_around(frame: types.FrameType | None) -> frozenset[int]:
    """The objects, by identity, whose `__call__` a frame is of, or runs in."""
    found = set()
    while frame is not None:
        if frame.f_code.co_name.endswith("__call__"):
            found.add(id(_receiver(frame)))
        frame = frame.f_back
    return frozenset(found)


def _receiver(frame: types.FrameType) -> Any:
    """What a method was called on, whatever it calls its first argument."""
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    is_method = hasattr(type(first), code.co_name.removeprefix(CONVERTED))
    return first if is_method else frame.f_locals.get("self")


def place_of(frame: types.FrameType | None) -> str:
    """The file and the line of the user's own code behind a write, "" where there is none."""
    while frame is not None and _module(frame) != OURS:
        if _module(frame) not in LIBRARIES:
            return _place(frame)
        frame = frame.f_back
    return ""


def _module(frame: types.FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _place(frame: types.FrameType) -> str:
    """The user's line; of code that AutoGraph wrote anew, the file and the function."""
    file = frame.f_code.co_filename
    if not Path(file).name.startswith(GENERATED):
        return f"{Path(file).name}:{frame.f_lineno}"
    own: types.FrameType | None = frame
    while own is not None:
        code, known = own.f_code, own.f_globals.get("__file__")
        if known and code.co_filename == file and code.co_name.startswith(CONVERTED):
            return f"{Path(known).name}, in {code.co_name.removeprefix(CONVERTED)}"
        own = own.f_back
    return "a traced function"
