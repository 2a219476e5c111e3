"""What stands around an assertion: nothing in a script, a test item under pytest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.results import CheckResult


class Progress:
    """A line on a terminal that says how far a long reading is, after some seconds of it."""

    PATIENCE, PAUSE = 5.0, 1.0

    def __init__(self) -> None:
        self._begun = self._shown = 0.0
        self._rows = 0

    def __call__(self, rows: int, total: int | None) -> None:
        now = time.monotonic()
        if rows <= self._rows or not self._begun:
            self._begun = now  # another reading
        self._rows = rows
        if now - self._begun > self.PATIENCE and now - self._shown > self.PAUSE:
            self._shown = now
            self.show(f"statistics of {rows} rows{f' of {total}' if total else ''} read")

    def show(self, line: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{line}")
            sys.stderr.flush()


@dataclass(frozen=True)
class Door:
    """Where options come from, and where results go.

    `options` are the layers of settings below the call's own, the strongest first. `record` is
    told each result, and what comes of it: `fail`, `skip`, `warn` or `pass`.
    `progress` is told the rows that were read so far, and how many there are where it is known.
    `reproduce` is the command that runs the same test again.
    """

    options: tuple[Mapping[str, Any], ...] = ()
    record: Callable[[CheckResult, str], None] = lambda result, outcome: None
    progress: Callable[[int, int | None], object] = Progress()  # noqa: RUF009 - a line on a terminal
    verbose: bool = False
    reproduce: str = ""


door: ContextVar[Door] = ContextVar("door", default=Door())  # noqa: B039 - it is frozen
