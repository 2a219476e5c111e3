"""One class becomes a set of tests."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_bnconsistency.errors import OptionError, UnsupportedSubjectError
from pytest_bnconsistency.ini import LAYERS, MARKER
from pytest_bnconsistency.settings import CheckName, Layer, Options, resolve
from pytest_bnconsistency.shared_models import SharedModel
from pytest_bnconsistency.targets import makes

__tracebackhide__ = True  # the user's own frames are what counts
FIXTURE = "_bn_given"
_FIXTURE = type(pytest.fixture(lambda: None)) if pytest.version_tuple >= (8, 4) else ()
_uses_fixtures = pytest.mark.usefixtures(FIXTURE)


class ConsistencySuite:
    """Subclass it and say what the model is; each check becomes a test of the subclass.

    The model is built once for all tests of the class, for each set of parameters. `model` and
    `data` may take fixtures and parameters as arguments, or be fixtures themselves, or be the
    model and the data as they are. A check that could not have seen a
    violation, or finds nothing to check, is skipped, unless `checks` names it: then it fails. A
    class without a model of its own, that others derive from, is no set of tests.

    Example:
        class TestMyModel(ConsistencySuite):
            def model(self):
                return build()

            def data(self):
                return x_train, y_train
    """

    __test__ = False
    checks: ClassVar[Sequence[CheckName] | None] = None
    """Names of the checks; all of them by default."""
    options: ClassVar[Options] = {}
    """Fields of `Settings`, as strong as a call's own."""
    _is_explicit: ClassVar[bool] = True
    _shared: ClassVar[list[_Given]] = []
    _given: _Given | None = None

    def model(self, *fixtures: Any, **more_fixtures: Any) -> Any:
        """The model under test."""
        raise UnsupportedSubjectError(
            f"{type(self).__name__} has no model; expected a method model(self) that returns one"
        )

    def data(self, *fixtures: Any, **more_fixtures: Any) -> Any:
        """`x`, `(x, y)`, `(x, y, sample_weight)` or a data set; None leaves it to the checks."""
        return None

    @_uses_fixtures
    def test_batch_invariance(self) -> None:
        """A row's result does not depend on its batch."""
        self._judge("batch_invariance")

    @_uses_fixtures
    def test_inference_purity(self) -> None:
        """Inference changes nothing and means one thing."""
        self._judge("inference_purity")

    @_uses_fixtures
    def test_train_eval_agreement(self) -> None:
        """Evaluation says what training said."""
        self._judge("train_eval_agreement")

    @_uses_fixtures
    def test_frozen_stability(self) -> None:
        """What is declared frozen stays frozen."""
        self._judge("frozen_stability")

    @_uses_fixtures
    def test_statistics_health(self) -> None:
        """The stored statistics are usable."""
        self._judge("statistics_health")

    @_uses_fixtures
    def test_baseline(self) -> None:
        """The model behaves as its baseline in the repository says."""
        self._judge("baseline")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._shared = []
        cls._is_explicit = "__test__" in vars(cls)
        if not cls._is_explicit:
            cls.__test__ = True
        for name, test in vars(cls).items():
            if name in _TESTS and inspect.isfunction(test):
                _uses_fixtures(test)
        setattr(cls, FIXTURE, _fixture(_arguments(cls, "model"), _arguments(cls, "data")))

    def _judge(self, check: str) -> None:
        __tracebackhide__ = True
        from pytest_bnconsistency.checks import named

        given = self._given or _Given(self, {}, (), ())
        given.shared.judge(named([check])[0], given.place, self.options)


class _Given:
    """What the tests of a class share that are given the same parameters and fixtures."""

    def __init__(
        self,
        suite: ConsistencySuite,
        known: Mapping[str, Any],
        to_model: Sequence[str],
        to_data: Sequence[str],
    ) -> None:
        self.known, self.suite, self.place = known, suite, ""
        self.shared = SharedModel(
            lambda: self._model(to_model),
            lambda: self._said("data", to_data),
            suite.checks is not None,
        )

    def _model(self, arguments: Sequence[str]) -> Any:
        from pytest_bnconsistency.checks import named

        named(self.suite.checks)  # what is wrong with them, the first test tells
        return self._said("model", arguments)

    def _said(self, name: str, arguments: Sequence[str]) -> Any:
        """What the class says by a method, a fixture or an attribute called `name`."""
        said = getattr(self.suite, name)
        if _is_fixture(said):
            return self.known[name]
        return said(**{name: self.known[name] for name in arguments}) if makes(said) else said

    def is_for(self, known: Mapping[str, Any]) -> bool:
        return self.known.keys() == known.keys() and all(
            value is known[name] for name, value in self.known.items()
        )


_TESTS = [name for name in vars(ConsistencySuite) if name.startswith("test_")]


def _is_fixture(found: object) -> bool:
    """Whether `@pytest.fixture` made it: an object of its own since pytest 8.4."""
    return isinstance(found, _FIXTURE) or hasattr(found, "_pytestfixturefunction")


def _arguments(cls: type[ConsistencySuite], method: str) -> list[str]:
    """The fixtures that `model` or `data` of `cls` takes as arguments, or is."""
    found = getattr(cls, method)
    if _is_fixture(found):
        return [method]
    if not makes(found):
        return []
    known = inspect.signature(found).parameters.values()
    bound = isinstance(inspect.getattr_static(cls, method), (staticmethod, classmethod))
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        parameter.name
        for parameter in list(known)[0 if bound else 1 :]
        if parameter.kind in kinds and parameter.default is parameter.empty
    ]


def _fixture(to_model: list[str], to_data: list[str]) -> Any:
    """A fixture that hands to a test what it shares with others, and asks for their fixtures."""

    def given(self: ConsistencySuite, request: pytest.FixtureRequest, **fixtures: Any) -> None:
        node: Any = request.node
        known = {**getattr(getattr(node, "callspec", None), "params", {}), **fixtures}
        shared = type(self)._shared
        if not shared:
            node.getparent(pytest.Class).addfinalizer(shared.clear)
        same = next((one for one in shared if one.is_for(known)), None)
        if same is None:
            same = _Given(self, known, to_model, to_data)
            shared.append(same)
        same.suite, same.place = self, node.nodeid
        self._given = same

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = dict.fromkeys(("self", "request", *to_model, *to_data))
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    given.__signature__ = signature  # type: ignore[attr-defined]
    return pytest.fixture(name=FIXTURE)(given)


class SuiteClass(pytest.Class):
    """The tests of a suite that its `checks` name, or that it writes itself."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        from pytest_bnconsistency.checks import named

        suite: type[ConsistencySuite] = self.obj
        marks = [Layer("marker", mark.kwargs) for mark in self.iter_markers(MARKER)]
        baseline = False
        with contextlib.suppress(OptionError):  # each test tells it
            baseline = resolve(suite.options, *marks, *self.config.stash[LAYERS]).baseline
        wanted = {f"test_{check.name}" for check in named(None, baseline=baseline)}
        with contextlib.suppress(OptionError):  # the same
            wanted = {f"test_{check.name}" for check in named(suite.checks, baseline=baseline)}
        place = _place(suite)
        for node in super().collect():
            name = getattr(node, "originalname", None)
            _entitle(node, self.nodeid)
            inherited = getattr(suite, str(name), None) is getattr(ConsistencySuite, str(name), 0)
            if not inherited:
                yield node
            elif name in wanted:
                _put(node, place)
                yield node


def collected(
    collector: Any, name: str, found: object
) -> pytest.Collector | list[pytest.Collector] | None:
    """How pytest collects a class that is a suite: not at all, if others have to complete it."""
    if not inspect.isclass(found) or not issubclass(found, ConsistencySuite):
        return None
    is_complete = found.__test__ and not inspect.isabstract(found)
    if is_complete and not found._is_explicit:
        # Of what two of these say a test, one may be missing: a name, a model, no class below.
        has_model = found.model is not ConsistencySuite.model
        said = (bool(collector.classnamefilter(name)), has_model, not found.__subclasses__())
        is_complete = sum(said) >= 2
    return SuiteClass.from_parent(collector, name=name, obj=found) if is_complete else []


def _place(suite: type[ConsistencySuite]) -> tuple[Path, int]:
    """The user's class, of whatever test is written in this file."""
    try:
        return Path(inspect.getfile(suite)), inspect.getsourcelines(suite)[1] - 1
    except (OSError, TypeError):
        return Path(inspect.getfile(suite)), 0


def _entitle(node: Any, suite: str) -> None:
    """Say which model a test is about: that of the class, under its parameters."""
    callspec = getattr(node, "callspec", None)
    node.bn_title = f"{suite}[{callspec.id}]" if callspec else suite
    node.bn_shared = getattr(node, "originalname", None) in _TESTS


def _put(node: Any, place: tuple[Path, int]) -> None:
    domain = node.getmodpath()
    node.reportinfo = lambda: (*place, domain)
    node.bn_is_check = True
