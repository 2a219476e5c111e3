"""What `tf.saved_model.load` returns, and single signatures of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, flatten, map_nest
from pytest_bnconsistency.errors import UnsupportedSubjectError
from pytest_bnconsistency.models.base import Subject
from pytest_bnconsistency.models.calls import Part
from pytest_bnconsistency.models.function import called, spec_of
from pytest_bnconsistency.models.owned_objects import MODES
from pytest_bnconsistency.models.refusals import as_sentence

DEFAULT = "serving_default"
"""The signature that says what a call says."""


class SavedModelSubject(Subject):
    """A loaded SavedModel: its call, else `serve`, else its default or only signature.

    No layer can be seen. The variables' names say which layer held them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.name = "saved_model"
        self._endpoint, self.spoken = _endpoint(model)
        self._functions = list(_concrete(self._endpoint))
        if not self._functions:
            raise UnsupportedSubjectError(
                "the SavedModel has a call without a trace; expected one that was saved with "
                "signatures, or exported by model.export(path)"
            )
        self.mode, self._only = _modes(self._endpoint, self._functions)
        signatures = getattr(model, "signatures", {}).values()
        try:
            captured = [v for f in (*self._functions, *signatures) for v in f.graph.variables]
        except AssertionError as error:
            raise UnsupportedSubjectError(
                "the signature's variables are gone; expected the loaded SavedModel to be kept: "
                "loaded = tf.saved_model.load(path), then loaded.signatures[name]"
            ) from error
        self._variables = list({id(v): v for v in captured}.values())
        layers: dict[str, list[Any]] = {}
        for variable in self._variables:
            layers.setdefault(variable.name.rpartition("/")[0], []).append(variable)
        self._direct = layers.pop("", [])
        self._parts = [Part(layer, mine.copy) for layer, mine in layers.items()]

    @classmethod
    def accepts(cls, model: Any) -> bool:
        loaded = hasattr(model, "signatures") and hasattr(model, "tensorflow_version")
        return loaded or _is_part(model)

    @property
    def modeless(self) -> str:
        argument = "was saved without a training mode: it can't be told to train"
        return "" if self.mode else f"the SavedModel {argument}"

    @property
    def layerless(self) -> str:
        return "a SavedModel shows no layers, and so no momentum or epsilon"

    def inputs(self) -> Nest | None:
        args, kwargs = self._functions[0].structured_input_signature
        given = args[0] if args else kwargs
        if not args and len(kwargs) == 1:
            given = next(iter(kwargs.values()))
        leaves = flatten(given)
        if not all(isinstance(leaf, tf.TensorSpec) and leaf.shape.rank for leaf in leaves):
            return None
        return map_nest(spec_of, given)

    def call(self, x: Nest, training: bool | None) -> Nest:
        run = functools.partial(_positional(self._endpoint), **self._only)
        return called(self.spoken, run, self.mode, x, training)

    def entries(self) -> Mapping[str, Callable[[Nest], Nest]]:
        found = {}
        for name, signature in getattr(self.model, "signatures", {}).items():
            if name != self.spoken and signature is not self._endpoint and name != "serve":
                found[name] = _on_arrays(name, _positional(signature))
        return found

    def endpoints(self) -> list[str]:
        return [name for name in self.entries() if name != DEFAULT]

    def variables(self) -> list[Any]:
        """Those whose names tell no layer."""
        return self._direct

    def sublayers(self, layer: Any) -> list[Any]:
        return self._parts if layer is self.whole else []

    def roots(self) -> list[Any]:
        return [self._variables]


def _endpoint(model: Any) -> tuple[Any, str]:
    if isinstance(model, tf.types.experimental.ConcreteFunction):
        return model, "signature"
    if _is_part(model):
        return model, "endpoint"
    if callable(model):
        return model.__call__, "model"
    if callable(getattr(model, "serve", None)):
        return model.serve, "serve"
    signatures = dict(model.signatures)
    if DEFAULT in signatures:
        return signatures[DEFAULT], DEFAULT
    if len(signatures) != 1:
        known = ", ".join(signatures) or "none"
        raise UnsupportedSubjectError(
            f"the SavedModel can't be called and has no signature {DEFAULT} but {known}; "
            "expected one of them: give loaded.signatures[name]"
        )
    return next((signature, name) for name, signature in signatures.items())


def _is_part(model: Any) -> bool:
    """Whether it is a signature or a function of a loaded SavedModel."""
    kinds = tf.types.experimental
    return isinstance(model, kinds.ConcreteFunction) or (
        isinstance(model, kinds.GenericFunction) and hasattr(model, "concrete_functions")
    )


def _concrete(endpoint: Any) -> Iterator[Any]:
    if hasattr(endpoint, "structured_input_signature"):
        yield endpoint
    yield from getattr(endpoint, "concrete_functions", ())


def _modes(endpoint: Any, functions: list[Any]) -> tuple[str | None, dict[str, bool | None]]:
    """The argument of the mode, where both of its values were traced, and the only mode that it
    can be called in, as an argument, where it was saved in one alone.
    """
    parameters = list(inspect.signature(endpoint).parameters)
    for name in MODES:
        if name in parameters:
            position = parameters.index(name)
            values = set[bool | None]()
            for function in functions:
                args, kwargs = function.structured_input_signature
                value = args[position] if position < len(args) else kwargs.get(name)
                values |= {True, False} if isinstance(value, tf.TensorSpec) else {value}
            # None is a call that leaves it out.
            only = {name: values.pop()} if len(values) == 1 and None not in values else {}
            return name if values >= {True, False} else None, only
    return None, {}


def _positional(endpoint: Any) -> Callable[..., Nest]:
    """The endpoint as a function of one argument; signatures take their inputs by name."""
    args, kwargs = getattr(endpoint, "structured_input_signature", ((None,), {}))
    if args or not kwargs:
        return lambda x, **mode: endpoint(x, **mode)
    names = list(kwargs)

    def run(x: Nest) -> Nest:
        given = x if isinstance(x, Mapping) else dict(zip(names, flatten(x), strict=True))
        outputs = endpoint(**given)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    return run


def _on_arrays(name: str, run: Callable[[Nest], Nest]) -> Callable[[Nest], Nest]:
    def on_arrays(x: Nest) -> Nest:
        with as_sentence(name, x):
            return run(map_nest(tf.convert_to_tensor, x))

    return on_arrays
