"""What stands around an assertion: nothing in a script, a test item under pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.results import CheckResult


@dataclass(frozen=True)
class Door:
    """Where options come from, and where results go.

    `options` are the layers of settings below the call's own, the strongest first. `skip` is
    called with the reason of a result that is skipped; it raises where skipping is known.
    `reproduce` is the command that runs the same test again.
    """

    options: tuple[Mapping[str, Any], ...] = ()
    record: Callable[[CheckResult], None] = lambda result: None
    skip: Callable[[str], object] = lambda reason: None
    verbose: bool = False
    reproduce: str = ""


door: ContextVar[Door] = ContextVar("door", default=Door())  # noqa: B039 - it is frozen
