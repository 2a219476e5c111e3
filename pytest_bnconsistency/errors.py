"""Misuse, and the one exception that means a property does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_bnconsistency.words import printable

if TYPE_CHECKING:
    from pytest_bnconsistency.results import CheckResult


class BNConsistencyError(Exception):
    """The check could not run: the message says what was wrong, expected, and to write instead."""

    def __str__(self) -> str:
        return printable(super().__str__())


class MissingDependencyError(BNConsistencyError):
    """A library that the subject needs is not installed."""


class UnsupportedSubjectError(BNConsistencyError):
    """The object under test is nothing that can be checked."""


class DataError(BNConsistencyError):
    """`x` or `y` cannot be used with this model."""


class RefusedError(DataError):
    """The model raised on a batch; `refusal` is what it raised."""

    def __init__(self, message: str, refusal: Exception) -> None:
        super().__init__(message)
        self.refusal = refusal


class BaselineError(BNConsistencyError):
    """There is no baseline, or its file can't be used."""


class StepError(BNConsistencyError):
    """A training step of the user's own raised."""


class OptionError(BNConsistencyError):
    """An option or a check has an unknown name or a value that is out of range."""


class ConsistencyFailure(AssertionError):  # noqa: N818 - a public name
    """One or more properties do not hold.

    `results` holds every `CheckResult` that failed, each with all its findings. The message is
    the whole report of the failure, a verdict with numbers in its first line.
    """

    def __init__(self, message: str, results: Sequence[CheckResult]) -> None:
        super().__init__(message)
        self.results = tuple(results)
