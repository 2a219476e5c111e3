"""A model's life as a state machine: what must hold at every point of it.

TestLife = strategies.lifecycle_machine(build).TestCase
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, control, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.models import subject_of
from pytest_bnconsistency.strategies.life import Layers, Life, Problem, Step, given_data, some_data

STEPS = 16
Script = tuple[Step, ...]


@dataclass(frozen=True)
class Failure:
    """A script that failed, and the fewest of its steps that fail in the same way."""

    problem: Problem
    script: Script
    fewest: Script


class Lifecycle(RuleBasedStateMachine):
    """Trains, predicts, evaluates, freezes, unfreezes, compiles, saves and loads one model.

    At every point of it: what was frozen, and not unfrozen by its name, keeps its bits in `fit`;
    inference moves no state of a layer; a row's result does not depend on other rows.

    The steps are written down first and lived at the end, or where a rule of your own asks for
    `self.model`: a life that was lived before is not lived again, and of one that fails the
    fewest steps that do are found and told. `set_trainable` and `compile_model` are what a project
    does to freeze and to compile: override them with your own.
    """

    factory: Callable[[], Any]
    data: Any = None
    steps: ClassVar[int] = STEPS
    _layers: ClassVar[Layers | None] = None
    _outcomes: ClassVar[dict[Script, Problem | None]]
    _failures: ClassVar[list[Failure]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._outcomes, cls._failures = {}, []
        # Steps are taken out one by one here: that takes a tenth of the lives that shrinking does.
        given = settings()
        cls.TestCase.settings = settings(
            given,
            deadline=None,
            stateful_step_count=cls.steps,
            phases=[p for p in given.phases if p not in (Phase.shrink, Phase.explain)],
            suppress_health_check=list(HealthCheck),
        )

    def __init__(self) -> None:
        super().__init__()
        self._life: Life | None = None
        self._script: list[Step] = []
        cls = type(self)
        if cls._layers is None:
            subject = subject_of(cls.factory())
            cls._layers = Layers.of(subject)
            cls.data = cls.data or some_data(subject)
        self._known = cls._layers
        self._frozen = set(self._known.frozen)
        self._worth: set[str] = {"predict", "evaluate"}

    @property
    def model(self) -> Any:
        """The model at this point of its life, for rules of your own."""
        return self._live().model

    def set_trainable(self, model: Any, layer: Any, value: bool) -> None:
        """Freeze or unfreeze a layer of the model, or all of it, as the project does."""
        layer.trainable = value

    def compile_model(self, model: Any) -> None:
        """Compile the model again, as the project does."""
        try:
            model.compile_from_config(model.get_compile_config())
        except Exception:  # a loss of the user's own cannot be told from a config
            subject_of(model).rebuild_training()

    @rule()
    def fit(self) -> None:
        """A step of training."""
        self._change("fit")

    @rule()
    def predict(self) -> None:
        """Inference through `predict`."""
        self._look("predict")

    @rule()
    def evaluate(self) -> None:
        """Loss and metrics."""
        self._look("evaluate")

    @rule(layer=st.runner().flatmap(lambda self: st.sampled_from(self._freezable())))
    def freeze(self, layer: str) -> None:
        """Freeze a normaliser, what holds one, or the model."""
        if layer not in self._frozen and layer in self._known.around:
            self._frozen.add(layer)
            self._change("freeze", layer)

    @rule(layer=st.runner().flatmap(lambda self: st.sampled_from(self._unfreezable())))
    def unfreeze(self, layer: str) -> None:
        """Unfreeze what is frozen, or what holds it."""
        if layer in self._unfreezable() and self._frozen:
            self._frozen.discard(layer)
            self._change("unfreeze", layer)

    @rule()
    def compile(self) -> None:
        """Compile, with nothing else changed."""
        if "compile" in self._worth:
            self._change("compile")
            self._worth.discard("compile")

    @rule()
    def save_and_load(self) -> None:
        """Go on with the model that comes back from a file."""
        if "save_and_load" in self._worth:
            self._change("save_and_load")
            self._worth -= {"compile", "save_and_load"}

    def _freezable(self) -> list[str]:
        """What is not frozen yet; without any, a step that does nothing."""
        names = self._known.names
        return [name for name in names if name not in self._frozen] or names

    def _unfreezable(self) -> list[str]:
        """What is frozen or holds what is; without any, a step that does nothing."""
        return self._known.unfreezable(self._frozen) or self._known.names

    # Each name is a rule of its own: what changes most is drawn most.
    _fit_2 = _fit_3 = fit
    _freeze_2 = _freeze_3 = freeze
    _unfreeze_2 = _unfreeze_3 = unfreeze

    def teardown(self) -> None:
        script = tuple(self._script)
        if self._life is None and not _shown():
            _tell(self._outcome(script))
            return
        known = next((k for k in type(self)._failures if k.script == script), None)
        if known is not None:
            steps = [f"{name} {layer}".strip() for name, layer in known.fewest]
            note(f"fewest steps: {', '.join(steps)}")
            self._script = list(known.fewest)
        self._live()

    def _outcome(self, script: Script) -> Problem | None:
        """What is wrong with these steps, if anything; the fewest that fail are found as well."""
        failures = type(self)._failures
        failing = self._lived(script)
        if failing is None:
            return None
        start, problem = failing
        alike = [k.fewest for k in failures if k.problem.tell is problem.tell]
        if all(known.script != script for known in failures):
            fewest = alike[0] if alike else self._fewest(start, problem)
            failures.append(Failure(problem, script, fewest))
        return problem

    def _lived(self, script: Script) -> tuple[Script, Problem] | None:
        """The first steps of a script that fail, and how."""
        outcomes = type(self)._outcomes
        starts = [script[:length] for length in range(len(script) + 1)]
        for start in starts:
            known = outcomes.get(start)
            if known is not None:
                return start, known
        if script in outcomes:
            return None
        life = Life(self)
        for done, start in enumerate(starts):
            problem = life.do(script[done - 1]) if done else life.begin()
            # What tests the cause would keep the model.
            problem = outcomes[start] = problem and replace(problem, test=None)
            if problem is not None:
                return start, problem
        return None

    def _fewest(self, script: Script, problem: Problem) -> Script:
        """The steps without those, alone or in pairs, that it fails as well without."""
        while True:
            shorter = next(self._failing_alike(script, problem), None)
            if shorter is None:
                return script
            script = shorter

    def _failing_alike(self, script: Script, problem: Problem) -> Iterator[Script]:
        # A pair may be what a step that freezes and one that unfreezes need each other for.
        for count in (1, 2):
            for gone in itertools.combinations(reversed(range(len(script))), count):
                rest = tuple(step for place, step in enumerate(script) if place not in gone)
                failing = self._lived(rest) if self._known.allow(rest) else None
                if failing is not None and failing[1].tell is problem.tell:
                    yield failing[0]

    def _live(self) -> Life:
        """Live the steps that were written down since the last time."""
        if self._life is None:
            self._life = Life(self)
            _tell(self._life.begin())
        while self._script:
            _tell(self._life.do(self._script.pop(0)))
        return self._life

    def _change(self, name: str, layer: str = "") -> None:
        self._script.append((name, layer))
        self._worth = {"predict", "evaluate", "compile", "save_and_load"}

    def _look(self, name: str) -> None:
        """A step that changes nothing: twice in a row, it would see the same."""
        if name in self._worth:
            self._script.append((name, ""))
            self._worth.discard(name)


def lifecycle_machine(
    factory: Callable[[], Any], data: Any = None, *, steps: int = STEPS
) -> type[Lifecycle]:
    """A state machine of the life of the models that `factory` builds, for its `TestCase`.

    Args:
        factory: a function without arguments that returns a model, built; compiled if its own
            loss is to be used.
        data: `(x, y)` to train on; without it rows and targets are made that fit.
        steps: how many steps a life has at most.

    Raises:
        DataError: `factory` is a model, or the data cannot be used.
    """
    if not callable(factory) or (hasattr(factory, "predict") and not isinstance(factory, type)):
        raise DataError(
            "lifecycle_machine was given a model or none; every life begins anew: give a "
            "function that builds one, such as build or lambda: build(3)"
        )
    if steps < 1:
        raise DataError(f"steps={steps}; expected 1 or more")
    attributes = {
        "factory": staticmethod(factory),
        "data": None if data is None else given_data(data),
        "steps": steps,
        "__module__": __name__,
        "__doc__": Lifecycle.__doc__,
    }
    return type("LifecycleMachine", (Lifecycle,), attributes)


def _shown() -> bool:
    """Whether a failure is about to be shown: then its cause is tested, which takes time."""
    return not control.currently_in_test_context() or control.current_build_context().is_final


def _tell(problem: Problem | None) -> None:
    if problem is not None:
        problem.raise_()
