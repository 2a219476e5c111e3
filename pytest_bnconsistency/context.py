"""What stands around an assertion: nothing in a script, a test item under pytest."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_bnconsistency.words import printable

if TYPE_CHECKING:
    from pytest_bnconsistency.results import CheckResult

LOGGER = logging.getLogger("pytest_bnconsistency")


class Progress:
    """A line on a terminal that says what long work is doing, after some seconds of it.

    It goes to the log as well, at level INFO.
    """

    PATIENCE, PAUSE = 5.0, 1.0

    def __init__(self) -> None:
        self._work = ""
        self._begun = self._shown = 0.0

    @contextlib.contextmanager
    def of(self, work: str) -> Iterator[None]:
        """Within it, what is told is part of this work."""
        self._work, self._begun, self._shown = work, time.monotonic(), 0.0
        try:
            yield
        finally:
            self._work = ""
            if self._shown:
                self.show("")

    def doing(self, what: str) -> None:
        if not self._work:
            return
        line, now = printable(f"{self._work}: {what}"), time.monotonic()
        self.log(line)
        if now - self._begun > self.PATIENCE and now - self._shown > self.PAUSE:
            self._shown = now
            self.show(line)

    def log(self, line: str) -> None:
        LOGGER.info(line)

    def show(self, line: str) -> None:
        """Put `line` where the last one stood; an empty one takes that away."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()


Update = Literal["", "changed", "version", "new"]
"""What is recorded, the most first after nothing."""


@dataclass(frozen=True)
class Baselines:
    """What a check is told of the baselines: where they lie and what may be done with them.

    `title` names the model, as the test does. `update` says what is recorded: what is missing
    (`new`), what a `version` does otherwise, or all that `changed`. `write` is given what stands
    in a file from now on.
    """

    title: str = ""
    folder: str = ""
    update: Update = ""
    write: Callable[[Path, str], None] = lambda path, text: None


@dataclass(frozen=True)
class Door:
    """Where options come from, and where results go.

    `options` are the layers of settings below the call's own, the strongest first. `record` is
    told each result, and what comes of it: `fail`, `skip`, `warn` or `pass`.
    `progress` is told what a check is doing.
    `reproduce` is the command that runs the same test again.
    `reports` says that what it is told is written into a report, with the facts of layers.
    `baselines` says what may be done with them.
    """

    options: tuple[Mapping[str, Any], ...] = ()
    record: Callable[[CheckResult, str], None] = lambda result, outcome: None
    progress: Progress = Progress()  # noqa: RUF009 - a line on a terminal
    verbose: bool = False
    reproduce: str = ""
    reports: bool = False
    baselines: Baselines = Baselines()


door: ContextVar[Door] = ContextVar("door", default=Door())  # noqa: B039 - it is frozen
