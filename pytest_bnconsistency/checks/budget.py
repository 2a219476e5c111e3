"""How long it is looked for causes, and what is told meanwhile."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from pytest_bnconsistency.context import door
from pytest_bnconsistency.words import brief_line, listed

Found = TypeVar("Found")

SLOWED = 4
"""So many times the seconds may pass on the clock, where other processes take the processor."""


class Budget:
    """The time that a check has to explain its failure.

    It runs from the first question on. A try that has begun goes on to its end. Seconds are those
    in which this process works, so that what is found does not hang on what else the machine does.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.refused = 0
        self._begun: tuple[float, float] | None = None

    def may(self, what: str) -> bool:
        """Whether there is time for one more try, `what`; if so, it is told."""
        if self._spent() >= self.seconds:
            self.refused += 1
            return False
        door.get().progress.doing(f"looking for the cause: {what}")
        return True

    def _spent(self) -> float:
        clock, worked = time.monotonic(), time.process_time()
        if self._begun is None:
            self._begun = clock, worked
        passed = clock - self._begun[0]
        return min(passed, max(worked - self._begun[1], passed / SLOWED))


# Around a check, so that what explains need not hand it down through every function.
_budget: ContextVar[Budget] = ContextVar("budget", default=Budget(math.inf))  # noqa: B039


@contextlib.contextmanager
def diagnosing(seconds: float) -> Iterator[None]:
    """Within it, all that is tried shares so much time."""
    token = _budget.set(Budget(seconds))
    try:
        yield
    finally:
        _budget.reset(token)


class Tries:
    """What is tried to explain one finding, as far as there is time: the check's or `budget`.

    `made` are the tries that were made, `broken` those of them that an error of ours ended.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.made: list[str] = []
        self.broken: list[str] = []
        self._budget = budget or _budget.get()
        self._refused = self._budget.refused

    @property
    def cut(self) -> bool:
        """Whether there was no time for something since the first of these tries."""
        return self._budget.refused > self._refused

    @property
    def complete(self) -> bool:
        """Whether all that was to be tried was, to its end."""
        return not self.cut and not self.broken

    def may(self, what: str) -> bool:
        """Whether there is time to try one more thing; `what` is for a reader."""
        if not self._budget.may(what):
            return False
        if what not in self.made:
            self.made.append(what)
        return True

    def found(self, what: str, look: Callable[[], Found], otherwise: Found) -> Found:
        """What `look` finds; `otherwise` where there is no time for it, or it breaks.

        A cause is lost sooner than a verdict.
        """
        if not self.may(what):
            return otherwise
        try:
            return look()
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(at.filename).name}:{at.lineno}"
            self.broken.append(what)
            warnings.warn(
                f"pytest-bnconsistency broke while it looked for a cause ({what}): "
                f"{type(error).__name__}: {brief_line(error)} ({where}); the verdict stands, "
                "please report this",
                stacklevel=2,
            )
            return otherwise

    def without_cause(self, complete: str) -> str:
        """The cause's text where none is established; `complete` where all was tried."""
        if not self.cut:
            broken = f" (an error of this plugin ended what was tried: {listed(self.broken)})"
            return complete + broken * bool(self.broken)
        made = f"tried: {listed(self.made)}" if self.made else "nothing was tried"
        return f"not established within {self._budget.seconds:g} s; {made}; {MORE_TIME}"


MORE_TIME = "give a larger diagnosis_seconds for more"
