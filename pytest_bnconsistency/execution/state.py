"""Snapshot everything that a run can change, and restore it bitwise."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.traces import Traces, registered_gradients
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import (
    as_variable,
    cells_of,
    library_objects,
    methods_of,
    traced_functions,
)

_OPAQUE = (type, types.ModuleType, str, bytes, int, float, complex, bool, np.ndarray, tf.Tensor)
_FOREIGN = ("numpy", "tensorflow.python", "tensorflow.core", "threading", "weakref", "optree")

_TABLES = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)
_NATIVE = ("pybind11_builtins", "nanobind")


class Variables:
    """The values of some `tf.Variable`s at one moment.

    The values share the variables' buffers until a variable is written to: a snapshot of a
    large model costs no memory.
    """

    def __init__(self, variables: list[Any]) -> None:
        self._values: dict[int, tuple[Any, Any]] = {}
        self.add(variables)

    def add(self, variables: list[Any]) -> None:
        """Take in variables that became known later and have not changed since."""
        for variable in variables:
            if id(variable) not in self._values and (value := _value_of(variable)) is not None:
                self._values[id(variable)] = (variable, value)

    def changes(self) -> list[tuple[Any, Any]]:
        """The variables whose bits are not what they were, each with its value now, a tensor."""
        now = [(variable, value, _read(variable)) for variable, value in self._values.values()]
        return [(variable, new) for variable, value, new in now if not _alike(new, value)]

    def moved(self) -> list[Any]:
        """The variables whose bits are not what they were."""
        return [variable for variable, _ in self.changes()]

    def restore(self, moved: Sequence[Any] | None = None) -> None:
        """Put the values back: of those that are known to have `moved`, or of all that did."""
        for variable in self.moved() if moved is None else moved:
            variable.assign(self._values[id(variable)][1], read_value=False)

    def value(self, variable: Any) -> Array:
        array: Array = self._values[id(variable)][1].numpy()
        return array


@contextlib.contextmanager
def restored(variables: Sequence[Any]) -> Iterator[None]:
    """Within it, variables may change; they are as before on the way out."""
    before = Variables(list(variables))
    try:
        yield
    finally:
        before.restore()


def _alike(now: Any, before: Any) -> bool:
    """Whether two tensors that were read from a variable have the same bits."""
    try:
        a, b = np.asarray(memoryview(now)), np.asarray(memoryview(before))
    except (TypeError, ValueError):  # dtypes that Python's buffers don't know
        return same_bits(now.numpy(), before.numpy())
    # A variable is written into a buffer of its own while somebody holds the one before.
    return a.__array_interface__["data"] == b.__array_interface__["data"] or same_bits(a, b)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays are alike to the last bit, NaN and signed zeros included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype == object:
        return bool(np.array_equal(a, b))
    return bool(
        np.array_equal(
            np.ascontiguousarray(a).reshape(-1).view(np.uint8),
            np.ascontiguousarray(b).reshape(-1).view(np.uint8),
        )
    )


@contextlib.contextmanager
def preserve_state(subject: Subject, step: Any = None) -> Iterator[Variables]:
    """All of the subject's state is restored on the way out, also after a KeyboardInterrupt.

    That is: variables, optimizer slots, metrics and seed generators; every attribute and
    container of the objects below the subject's roots (flags, compiled functions, histories), and
    of those that `step`, a training step of the user's, refers to; the traces of both; the global
    random generators of Python, numpy, TensorFlow and Keras.
    """
    attributes = _Attributes([*subject.roots(), *([] if step is None else library_objects(step))])
    owners = (subject.training_function(), subject.predict_function, step)
    traces = Traces(f for owner in owners for f in traced_functions(owner))
    variables = Variables(attributes.variables)
    of_the_process = [*_random_generators(), _variable_scope()]
    forget_gradients = registered_gradients()
    try:
        yield variables
    finally:
        attributes.restore()
        traces.restore()
        forget_gradients()
        variables.restore()
        for restore in of_the_process:
            restore()


def reachable_variables(subject: Subject) -> list[Any]:
    """Every variable that can be reached from the subject's roots."""
    return _Attributes(subject.roots()).variables


class _Attributes:
    """The attributes and the contents of all objects that can be reached from some roots."""

    def __init__(self, roots: list[Any]) -> None:
        self.variables: list[Any] = []
        self._restore: list[Callable[[], None]] = []
        self._classes: set[type] = set()
        seen: set[int] = set()
        keep: list[Any] = []
        stack = list(roots)
        while stack:
            value = stack.pop()
            if value is None or isinstance(value, _OPAQUE) or id(value) in seen:
                continue
            if _is_handle(value):
                continue
            seen.add(id(value))
            keep.append(value)
            stack.extend(self._enter(value))
        self._keep = keep

    def restore(self) -> None:
        for restore in self._restore:
            restore()

    def _enter(self, value: Any) -> list[Any]:
        variable = as_variable(value)
        if variable is not None:
            self.variables.append(variable)
            if variable is not value:
                self._enter_object(value)  # a Keras variable has a flag of its own
            return []
        if isinstance(value, tf.random.Generator):
            self.variables.append(value.state)
            return []
        if (as_now := _to_be_as_now(value)) is not None:
            self._restore.append(as_now)
            return []
        if isinstance(value, Mapping):  # TensorFlow's own hold a dictionary, for all they hold
            value = getattr(value, "__wrapped__", getattr(value, "_storage", value))
        if isinstance(value, (dict, list, set, tuple, frozenset)):
            return self._enter_container(value)
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, types.FunctionType):
            return list(cells_of(value))
        if type(value).__module__.startswith(_FOREIGN):
            return []
        return self._enter_object(value) + self._enter_class(type(value))

    def _enter_class(self, owner: type) -> list[Any]:
        if owner in self._classes:
            return []
        self._classes.add(owner)
        return _hidden_in_methods(owner)

    def _enter_container(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            entries = dict(value)
            self._restore.append(lambda: _refill_dict(value, entries))
            return list(entries.values())
        if isinstance(value, list):
            items = list(value)
            self._restore.append(lambda: _refill_list(value, items))
            return items + self._enter_object(value)
        if isinstance(value, set):
            members = set(value)
            self._restore.append(lambda: _refill_set(value, members))
            return list(members)
        return list(value)

    def _enter_object(self, value: Any) -> list[Any]:
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict):
            return []
        before = {key: value_ for key, value_ in attributes.items() if not _is_handle(value_)}
        self._restore.append(lambda: _refill_attributes(attributes, before))
        return list(before.values())


def _is_handle(value: Any) -> bool:
    """Whether `value` is an object of native code, which may count who else holds it.

    An interpreter of TFLite refuses to run while somebody does. It stays as it is.
    """
    return type(type(value)).__module__.partition(".")[0] in _NATIVE


def _to_be_as_now(value: Any) -> Callable[[], None] | None:
    """A function that has an object of a library give what it gives now; None for any other."""
    if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
        return _draws_again(value)
    return _as_filled(value) if isinstance(value, _TABLES) else None


def _draws_again(
    generator: np.random.Generator | np.random.RandomState | random.Random,
) -> Callable[[], None]:
    """A function that has a generator draw once more what it draws from now on."""
    if isinstance(generator, np.random.Generator):
        bits, now = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", now)
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    return functools.partial(generator.set_state, generator.get_state())


def _as_filled(table: Any) -> Callable[[], None]:
    """A function that has a lookup table hold what it holds now."""
    before = table.export()

    def restore() -> None:
        now = table.export()
        if not all(map(_alike, now, before)):
            table.remove(now[0])
            table.insert(*before)

    return restore


def _hidden_in_methods(owner: type) -> list[Any]:
    """What the methods of a class of the user's refer to: layers and variables, at times."""
    methods = list(methods_of(owner))
    cells = [cell for m in methods if isinstance(m, types.FunctionType) for cell in cells_of(m)]
    return cells + [found for method in methods for found in library_objects(method)]


def _refill_dict(target: dict[Any, Any], entries: dict[Any, Any]) -> None:
    if len(target) != len(entries) or any(
        key not in target or target[key] is not value for key, value in entries.items()
    ):
        dict.clear(target)
        dict.update(target, entries)


def _refill_attributes(target: dict[str, Any], entries: dict[str, Any]) -> None:
    _refill_dict(target, {**{k: v for k, v in target.items() if _is_handle(v)}, **entries})


def _refill_list(target: list[Any], items: list[Any]) -> None:
    if len(target) != len(items) or any(a is not b for a, b in zip(target, items, strict=True)):
        list.__setitem__(target, slice(None), items)


def _refill_set(target: set[Any], members: set[Any]) -> None:
    if target != members:
        target.clear()
        target.update(members)


def _random_generators() -> list[Callable[[], None]]:
    """Functions that put every global random generator back where it is now."""
    python, legacy = random.getstate(), np.random.get_state()
    restore: list[Callable[[], None]] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(legacy),
    ]
    # TensorFlow and Keras keep these under names that are not public; where a name is gone,
    # so is the state.
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "context", None)
    operation_seeds = getattr(context() if context else None, "_rng", None)
    if operation_seeds is not None:
        drawn = operation_seeds.getstate()
        restore.append(lambda: operation_seeds.setstate(drawn))
    holder = sys.modules.get("tensorflow.python.ops.stateful_random_ops")
    generator = getattr(holder, "global_generator", None)
    if generator is not None:
        state = tf.identity(generator.state)
        restore.append(lambda: generator.state.assign(state))
    keras_globals = sys.modules.get("keras.src.backend.common.global_state")
    if keras_globals is not None:
        tracked = vars(keras_globals.GLOBAL_STATE_TRACKER)
        entries = dict(tracked)
        # A name scope that raises where it begins is never taken off its stack.
        stacks = [(value, list(value)) for value in tracked.values() if isinstance(value, list)]
        names = tracked.get("object_name_uids")
        counts = dict(names) if names is not None else None
        seeds = as_variable(getattr(entries.get("global_seed_generator"), "state", None))
        seed = None if seeds is None else tf.identity(seeds)

        def restore_keras() -> None:
            _refill_dict(tracked, entries)
            for stack, values in stacks:
                _refill_list(stack, values)
            if names is not None and counts is not None:
                names.clear()
                names.update(counts)
            if seeds is not None:
                seeds.assign(seed)

        restore.append(restore_keras)
    return restore


def _variable_scope() -> Callable[[], None]:
    """A function that puts back the caching device of TensorFlow's variable scope.

    `tf.map_fn` leaves one where it raises in a trace; no strategy can be entered then.
    """
    scope = tf.compat.v1.get_variable_scope()
    before = scope.caching_device

    def restore() -> None:
        if scope.caching_device is not before:
            with tf.Graph().as_default():  # it can't be set outside of a graph
                scope.set_caching_device(before)

    return restore


def _read(variable: Any) -> Any:
    """Its value as a tensor.

    `read_value` of a plain variable is this operation inside of much else, and a snapshot of a
    network reads hundreds.
    """
    if type(variable) is not ResourceVariable:
        return variable.read_value()
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _value_of(variable: Any) -> Any | None:
    """Its value as a tensor; None before it has one, and once it was deleted."""
    try:
        return _read(variable)
    except (tf.errors.FailedPreconditionError, tf.errors.NotFoundError):
        return None
