"""A model's life as a state machine: at its end, the checks must hold.

TestLife = strategies.lifecycle_machine(build).TestCase
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pytest_bnconsistency.assertions import check_consistency
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import ConsistencyFailure, DataError
from pytest_bnconsistency.models import subject_of
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.settings import CheckName
from pytest_bnconsistency.strategies.frozen_layers import FrozenLayers
from pytest_bnconsistency.strategies.training_data import ROWS, given_data, some_data

STEPS = 16
INVARIANTS: tuple[CheckName, ...] = ("inference_purity", "batch_invariance", "frozen_stability")
_LAYERS = st.runner().flatmap(lambda machine: st.sampled_from(machine.frozen.paths))


class Lifecycle(RuleBasedStateMachine):
    """Trains, predicts, evaluates, freezes, unfreezes, compiles, saves and loads one model.

    At the end of its life inference must be pure, no row may depend on its batch, and what was
    frozen, and not unfrozen by its name, must stay frozen. Every point of a life is the end of a
    shorter one. `set_trainable` and `compile_model` are what a project does to freeze and to
    compile: override them with your own.
    """

    factory: Callable[[], Any]
    data: Any = None
    steps: ClassVar[int] = STEPS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.TestCase.settings = settings(
            deadline=None, stateful_step_count=cls.steps, suppress_health_check=list(HealthCheck)
        )

    def __init__(self) -> None:
        super().__init__()
        cls = type(self)
        self.model = cls.factory()
        subject = subject_of(self.model)
        cls.data = cls.data or some_data(subject)
        if not subject.compiled:
            self.model.compile("sgd", "mean_squared_error")
        self.frozen = FrozenLayers(self.model)

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
        try:
            subject_of(self.model).fit(self._batch(), ROWS)
        except Exception:
            # Keras says aloud that an optimizer was made for other weights: no silent fault.
            self.compile_model(self.model)

    @rule()
    def predict(self) -> None:
        """Inference through `predict`."""
        subject_of(self.model).entries()["predict"](self._batch().x)

    @rule()
    def evaluate(self) -> None:
        """Loss and metrics."""
        subject_of(self.model).evaluate(self._batch(), ROWS)

    @rule(layer=_LAYERS)
    def freeze(self, layer: str) -> None:
        """Freeze a layer with statistics, what holds one, or the model."""
        self.set_trainable(self.model, self.frozen.freeze(self.model, layer), False)

    @rule(layer=_LAYERS)
    def unfreeze(self, layer: str) -> None:
        """Unfreeze what is frozen, or what holds it, where it lies in nothing frozen."""
        found = self.frozen.unfreeze(self.model, layer)
        if found is not None:
            self.set_trainable(self.model, found, True)

    @rule()
    def compile(self) -> None:
        """Compile, with nothing else changed."""
        self.compile_model(self.model)

    @rule()
    def save_and_load(self) -> None:
        """Go on with the model that comes back from a file."""
        packages = [base.__module__.partition(".")[0] for base in type(self.model).__mro__]
        library = next(package for package in packages if package in ("keras", "tf_keras"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            try:
                self.model.save(path)
                self.model = importlib.import_module(library).models.load_model(path)
            except Exception:
                return  # code of the user's own that does not say how it is saved

    # Each name is a rule of its own: what changes most is drawn most.
    _fit_2 = _fit_3 = fit
    _freeze_2 = freeze
    _unfreeze_2 = unfreeze

    def teardown(self) -> None:
        batch = self._batch()
        for check in INVARIANTS:
            frozen = None
            if check == "frozen_stability":
                frozen = self.frozen.flagged_otherwise(self.model)
            try:
                report = check_consistency(
                    self.model, batch.x, batch.y, checks=[check], frozen=frozen
                )
            except DataError:
                continue  # what `fit` refuses, where all is frozen, it says aloud
            if not report.ok:
                result = report[check]
                raise ConsistencyFailure(text.render(result), [result])

    def _batch(self) -> Data:
        data: Data = type(self).data
        return data.take(np.arange(ROWS) % data.rows)


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
            "lifecycle_machine was given a model or none; every life begins with a new one: give "
            "a function that builds one, such as build or lambda: build(3)"
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
