"""A model that several tests share."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.words import first_line

if TYPE_CHECKING:
    from pytest_bnconsistency.checks import Check, CheckContext
    from pytest_bnconsistency.settings import Settings

__tracebackhide__ = True  # the user's own frames are what counts


class Skip(pytest.skip.Exception):  # type: ignore[name-defined,misc]
    """A test that has nothing to say, wherever in our code that is found."""


@dataclass
class SharedModel:
    """A model and its data, which several tests check, each under settings of its own.

    The model is built when the first test asks for it, and the data is read once for all tests
    with the same settings. `asked` says that the checks were asked for by name. What keeps a
    model from being checked is told by the first test that meets it; the others are skipped.
    """

    build: Callable[[], Any]
    load: Callable[[], Any]
    asked: bool
    _model: list[Any] = field(default_factory=list)
    _contexts: list[CheckContext] = field(default_factory=list)
    _reported: dict[object, str] = field(default_factory=dict)

    def prepare(self, place: str, options: Mapping[str, Any]) -> CheckContext:
        """The model with its data, under the settings of the test at `place`."""
        __tracebackhide__ = True
        from pytest_bnconsistency import assertions

        with self._reported_once(place):
            chosen = assertions.resolved(options)
        for context in self._contexts:
            if _alike(context.settings, chosen):
                return dataclasses.replace(context, settings=chosen)
        if "built" in self._reported and self._reported["built"] != place:
            _skip(self._reported["built"])
        try:
            if not self._model:
                self._model.append(self.build())
            data = self.load()
        except Exception:
            self._reported["built"] = place
            raise
        with self._reported_once(place):
            context = assertions.context_returned(self._model[0], data, chosen, asked=self.asked)
        self._contexts.append(context)
        return context

    def judge(self, check: Check, place: str, options: Mapping[str, Any]) -> None:
        """Run one check for the test at `place`, and let its verdict count."""
        __tracebackhide__ = True
        from pytest_bnconsistency import assertions

        context = self.prepare(place, options)
        with self._reported_once(place):
            result = check.run(context)
        assertions.enforce([result], context.settings, asked=self.asked)

    def forget(self) -> None:
        self._model.clear()
        self._contexts.clear()
        gc.collect()  # traces lie in cycles

    @contextlib.contextmanager
    def _reported_once(self, place: str) -> Iterator[None]:
        try:
            yield
        except BNConsistencyError as error:
            first = self._reported.setdefault(_what(error), place)
            if first != place:
                _skip(first)
            raise error.with_traceback(None)  # noqa: B904 - the sentence says all


def _alike(one: Settings, other: Settings) -> bool:
    """Whether settings differ in nothing but in what comes of a verdict."""
    outcomes = ("vacuous", "not_applicable", "ignore")
    return dataclasses.replace(one, **{name: getattr(other, name) for name in outcomes}) == other


def _what(error: BNConsistencyError) -> object:
    """The same for all checks that meet the same refusal, with batches of any size."""
    refusal = getattr(error, "refusal", error)
    return type(refusal), re.sub(r"\d+", "", first_line(refusal))


def _skip(place: str) -> None:
    raise Skip(f"not checked, for the same error as {place}")
