"""`tf.Module`s, with `training` or `is_training` as an argument of their call, or with neither."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.errors import UnsupportedSubjectError
from pytest_bnconsistency.models.base import Subject
from pytest_bnconsistency.models.calls import Hook
from pytest_bnconsistency.models.function import called, hooked_libraries, input_specs
from pytest_bnconsistency.models.owned_objects import (
    default_mode,
    mode_argument,
    name_of,
)


class ModuleSubject(Subject):
    """A `tf.Module` that can be called. Modules in it that are called are its layers.

    Paths are those of attributes: `backbone/norms/0`.
    """

    def __init__(self, model: Any) -> None:
        if not callable(model):
            raise UnsupportedSubjectError(
                f"module {name_of(model)!r} can't be called; expected a method __call__(self, x): "
                "or give a function of x that runs it"
            )
        super().__init__(model)
        self.mode = mode_argument(model)
        self.mode_required = default_mode(model) is inspect.Parameter.empty
        self._paths = {
            id(module): "/".join(map(str, path))
            for path, module in model._flatten(
                predicate=lambda value: isinstance(value, tf.Module), with_path=True
            )
        }

    @classmethod
    def accepts(cls, model: Any) -> bool:
        return isinstance(model, tf.Module) and not isinstance(model, type)

    @property
    def layerless(self) -> str:
        return "" if self.model.submodules else f"{self.name} has no modules inside"

    def inputs(self) -> Nest | None:
        return input_specs(self.model.__call__)

    def call(self, x: Nest, training: bool | None) -> Nest:
        function = self.model.__call__
        if self.watched:
            function = getattr(function, "python_function", function)
        built = len(self.model.variables)
        outputs = called(self.name, function, self.mode, x, training)
        if len(self.model.variables) > built:
            raise UnsupportedSubjectError(
                f"module {self.name!r} makes its variables in its first call; expected a built "
                "module: call it once on a batch"
            )
        return outputs

    def layers(self) -> list[Any]:
        return [self.whole, *self.model.submodules]

    def path(self, layer: Any) -> str:
        return self._path([], layer)

    def sublayers(self, layer: Any) -> list[Any]:
        return list(getattr(layer, "submodules", ()))

    def variables(self) -> list[Any]:
        """Those that no module inside holds."""
        return self.owned_by(self.model)

    def roots(self) -> list[Any]:
        # A plain tf.Module is an object of a library, which nothing enters.
        modules = [self.model, *self.model.submodules]
        return [*modules, *(vars(module) for module in modules), list(self.model.variables)]

    @contextlib.contextmanager
    def watch(self, hook: Hook) -> Iterator[None]:
        modules = [type(module) for module in self.model.submodules]
        with self._as_one_layer(hook), hooked_libraries(hook, modules, self.model, self._path):
            yield

    def _path(self, parents: list[Any], layer: Any) -> str:
        if id(layer) in self._paths:
            return self._paths[id(layer)]
        above = self._path(parents[:-1], parents[-1]) + "/" if parents else ""
        return f"{above}{name_of(layer)}"
