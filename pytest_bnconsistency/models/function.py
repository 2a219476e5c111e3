"""Plain callables: `f(x, training=...)`, `f(x, is_training=...)` or `f(x)`."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, Spec, flatten, map_nest
from pytest_bnconsistency.errors import DataError, UnsupportedSubjectError
from pytest_bnconsistency.models.base import Subject
from pytest_bnconsistency.models.calls import Hook
from pytest_bnconsistency.models.layer_hooks import by_names, hooked_layers
from pytest_bnconsistency.models.owned_objects import (
    as_variable,
    default_mode,
    library_objects,
    mode_argument,
    reached,
    variables_in,
    variables_of,
)
from pytest_bnconsistency.words import brief_line

_NUMBERS, _TEXTS = (bool, int, float, np.number), (str, bytes)


class FunctionSubject(Subject):
    """Any callable that takes a batch: a function, a `tf.function`, an object, a Keras layer.

    Keras layers and modules that its code refers to are its layers. A function that refuses
    tensors gets arrays.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.name = str(
            getattr(model, "name", None) or getattr(model, "__name__", type(model).__name__)
        ).strip("<>")
        if not getattr(model, "built", True):
            raise UnsupportedSubjectError(
                f"{type(model).__name__} {self.name!r} is not built, so it has no weights yet; "
                "expected a model, or a layer that was called once"
            )
        if not _takes_rows(model):
            raise UnsupportedSubjectError(
                f"{self.name} takes no argument x; expected a function of x, or the model that "
                f"{self.name}() returns"
            )
        self.mode = mode_argument(model)
        self.mode_required = default_mode(model) is inspect.Parameter.empty
        self._arrays = False

    @classmethod
    def accepts(cls, model: Any) -> bool:
        return callable(model) and not isinstance(model, type)

    @property
    def layerless(self) -> str:
        return "" if self._referred_layers() else f"{self.name} refers to no layers"

    def inputs(self) -> Nest | None:
        return input_specs(self.model)

    def call(self, x: Nest, training: bool | None) -> Nest:
        eager, function = tf.executing_eagerly(), self.model
        if self.watched:
            function = getattr(function, "python_function", function)
        if eager and self._arrays:
            x = map_nest(np.asarray, x)
        try:
            return called(self.name, function, self.mode, x, training)
        except DataError:
            if not eager or self._arrays:
                raise
            outputs = called(self.name, function, self.mode, map_nest(np.asarray, x), training)
            self._arrays = True
            return outputs

    def variables(self) -> list[Any]:
        """Those that its code refers to, and none of its layers holds."""
        direct = [v for value in self._reached() for v in variables_in(value)]
        layers = self._referred_layers()
        theirs = {id(v) for layer in layers for v in variables_of(layer)}
        theirs_ = [v for v in self._holders() for v in variables_of(v)]
        found = {id(v): v for v in [*direct, *theirs_] if id(v) not in theirs}
        return list(found.values())

    def layers(self) -> list[Any]:
        return [self.whole, *self._referred_layers()]

    def sublayers(self, layer: Any) -> list[Any]:
        if isinstance(layer, tf.Module):
            return list(layer.submodules)
        inside = getattr(layer, "_flatten_layers", None)
        return list(inside(include_self=False)) if inside is not None else []

    def roots(self) -> list[Any]:
        own = [self.model] if _is_object(self.model) else library_objects(self.model)
        return [*own, self.variables()]

    @contextlib.contextmanager
    def watch(self, hook: Hook) -> Iterator[None]:
        modules = [
            type(value) for value in self._referred_layers() if isinstance(value, tf.Module)
        ]
        with self._as_one_layer(hook), hooked_libraries(hook, modules, self.model, by_names):
            yield

    def _reached(self) -> list[Any]:
        return [] if _is_object(self.model) else reached(self.model)

    def _holders(self) -> list[Any]:
        """Objects of the user's own that may hold variables: the callable, a bound self."""
        objects = [self.model] if _is_object(self.model) else self._reached()
        return [v for v in objects if as_variable(v) is None and not isinstance(v, type)]

    def _referred_layers(self) -> list[Any]:
        found: dict[int, Any] = {}
        for value in self._holders():
            theirs_ = list(getattr(value, "__dict__", {}).values())
            for candidate in [value, *theirs_]:
                if candidate is not self.model and _is_layer(candidate):
                    found[id(candidate)] = candidate
                    found.update((id(inner), inner) for inner in self.sublayers(candidate))
        return list(found.values())


def called(
    name: str, function: Callable[..., Any], mode: str | None, x: Nest, training: bool | None
) -> Nest:
    """The outputs of a user's callable.

    Raises:
        DataError: it raised, outside a trace; while a trace is made, its own error goes through.
        UnsupportedSubjectError: what it returns are no arrays.
    """
    kwargs = {} if mode is None or training is None else {mode: training}
    try:
        outputs = function(x, **kwargs)
    except Exception as error:
        if not tf.executing_eagerly():
            raise
        raise DataError(
            f"{name}(x) raised {type(error).__name__}: {brief_line(error)}; expected x "
            f"as {name} takes it, rows first"
        ) from error
    return _as_arrays(name, outputs)


def _as_arrays(name: str, outputs: Any) -> Nest:
    """What a callable returns; a list of texts is one array.

    Arrays are such that no one else writes to: a view may be of a buffer that the next call fills.
    """
    if isinstance(outputs, Mapping):
        return {key: _as_arrays(name, part) for key, part in outputs.items()}
    if not isinstance(outputs, (list, tuple)):
        return map_nest(lambda leaf: _as_array(name, leaf), outputs)
    if outputs and all(isinstance(part, _TEXTS) for part in outputs):
        return np.array(outputs, object)
    if _is_list_of_rows(outputs):
        raise _no_arrays(name, f"a list of a {type(outputs[0]).__name__} for each row")
    return [_as_arrays(name, part) for part in outputs]


def _is_list_of_rows(outputs: Sequence[Any]) -> bool:
    """Whether it holds records, or lists, of Python's own numbers and texts."""
    nested = any(isinstance(part, (list, Mapping)) for part in outputs)
    return nested and all(isinstance(leaf, (*_NUMBERS, *_TEXTS)) for leaf in flatten(outputs))


def _as_array(name: str, output: Any) -> Any:
    if isinstance(output, Iterator):
        raise _no_arrays(name, f"a {type(output).__name__}")
    if not isinstance(output, np.ndarray):
        return output
    if output.dtype == object and not all(isinstance(o, _TEXTS) for o in output.flat):
        raise _no_arrays(name, f"an array of Python objects ({type(output.flat[0]).__name__})")
    return output.copy() if output.base is not None else output


def _no_arrays(name: str, returned: str) -> UnsupportedSubjectError:
    return UnsupportedSubjectError(
        f"{name}(x) returns {returned}; expected arrays or tensors with the rows first: join what "
        "is given for each row, as in np.array([...])"
    )


def input_specs(function: Any) -> Nest | None:
    """The inputs that a `tf.function` was declared with, its first argument."""
    signature = getattr(function, "input_signature", None)
    if not signature:
        return None
    first = signature[0]
    if not all(isinstance(leaf, tf.TensorSpec) and leaf.shape.rank for leaf in flatten(first)):
        return None
    return map_nest(spec_of, first)


def spec_of(tensor: Any) -> Spec:
    rows, *shape = tensor.shape
    return Spec(tuple(shape), tensor.dtype.name, tensor.name or "x", rows=rows)


@contextlib.contextmanager
def hooked_libraries(
    hook: Hook, modules: Iterable[type], model: Any, path: Callable[[list[Any], Any], str]
) -> Iterator[None]:
    """Watch the layers of the Keras generations in use, and modules of these classes."""
    keras = list(_keras_subjects())
    classes = {owner: is_layer for kind in keras for owner, is_layer in kind.watched_classes()}
    for module in modules:
        owner = next((base for base in module.__mro__ if "__call__" in vars(base)), None)
        if owner is not None and owner is not object:
            classes.setdefault(owner, True)

    def passes(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        return layer is model or any(kind.builds_graph(args, kwargs) for kind in keras)

    with hooked_layers(classes.items(), hook, passes=passes, path=path):
        yield


def _keras_subjects() -> Iterator[Any]:
    if "keras" in sys.modules and sys.modules["keras"].backend.backend() == "tensorflow":
        from pytest_bnconsistency.models.keras3 import Keras3Subject

        yield Keras3Subject
    if "tf_keras" in sys.modules:
        from pytest_bnconsistency.models.tf_keras import TfKerasSubject

        yield TfKerasSubject


def _is_layer(value: Any) -> bool:
    return isinstance(value, (tf.Module, *(kind.layer_class for kind in _keras_subjects())))


def _is_object(model: Any) -> bool:
    """Whether a callable is an object with state of its own, rather than code."""
    return not (
        inspect.isroutine(model) or hasattr(model, "func") or hasattr(model, "python_function")
    )


def _takes_rows(model: Any) -> bool:
    try:
        parameters = inspect.signature(getattr(model, "call", None) or model).parameters
    except (TypeError, ValueError):
        return True  # code that can't tell
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return any(parameter.kind not in kinds for parameter in parameters.values())
