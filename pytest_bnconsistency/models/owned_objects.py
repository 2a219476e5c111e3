"""What objects hold and take: their variables, their mode, what a function's code refers to."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MODES = ("training", "is_training")
LIBRARIES = ("tensorflow", "keras", "tf_keras", "numpy", "builtins")
COUNTERS = ("_train_counter", "_test_counter", "_predict_counter", "_steps_per_execution")
"""On every model of tf_keras: they count its steps, or those at once, and are no layer state."""
HANDED_ON = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
DEPTH = 3
PLAIN = (str, int, float, bytes)
"""What most attributes are, and holds nothing."""


def as_variable(value: Any) -> Any | None:
    """The `tf.Variable` that `value` is or wraps, if it is initialised."""
    import tensorflow as tf

    if isinstance(value, tf.Variable):
        return value
    inner = getattr(value, "_value", None)
    return inner if isinstance(inner, tf.Variable) else None


def variable_name(owner: Any, variable: Any) -> str:
    """What the owner calls its `tf.Variable`: the attribute, or the variable's own name."""
    own = vars(owner).items() if hasattr(owner, "__dict__") else ()
    named = [name for name, value in own if as_variable(value) is variable]
    name = named[0] if named else str(variable.name).split(":")[0].rpartition("/")[2]
    return name.lstrip("_")


def variables_of(owner: Any) -> list[Any]:
    """The `tf.Variable`s among the attributes of `owner`, in containers and helpers as well.

    A helper is an object of a class of the user's that is neither a layer nor a module.
    """
    found: dict[int, Any] = {}

    def visit(value: Any, depth: int) -> None:
        if value is None or isinstance(value, PLAIN):
            return
        variable = as_variable(value)
        if variable is not None:
            found.setdefault(id(variable), variable)
        elif depth and isinstance(value, types.FunctionType):
            for item in cells_of(value):
                visit(item, 0)
        elif depth:
            for item in _items(value):
                visit(item, depth - 1)

    for name, value in list(getattr(owner, "__dict__", {}).items()):
        if name not in COUNTERS:
            visit(value, DEPTH - 1)
    return list(found.values())


def modules_of(owner: Any) -> list[Any]:
    """The plain modules among the attributes of `owner`, in containers as well."""
    attributes = list(getattr(owner, "__dict__", {}).values())
    every = [*attributes, *(item for value in attributes for item in _contained(value) or ())]
    return list(filter(is_plain_module, every))


def is_plain_module(value: Any) -> bool:
    """Whether it is a `tf.Module` that is no layer of Keras."""
    import tensorflow as tf

    return isinstance(value, tf.Module) and not hasattr(value, "call")


def _items(value: Any) -> list[Any]:
    """What a container or a helper holds."""
    contained = _contained(value)
    if contained is None:
        return list(vars(value).values()) if _is_helper(value) else []
    return contained


def _contained(value: Any) -> list[Any] | None:
    """What a container holds; None where `value` is none."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set)) else None


def _is_helper(value: Any) -> bool:
    """Whether `value` holds state for somebody else, and has no calls of its own to be watched."""
    import tensorflow as tf

    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (types.ModuleType, tf.Module))
        and not callable(value)
        and not hasattr(value, "apply_gradients")
        and not _from_library(value)
    )


def _from_library(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in LIBRARIES


def name_of(layer: Any) -> str:
    """A layer's name, else that of its class: a `tf.Module` may skip tf.Module's constructor."""
    return str(getattr(layer, "name", None) or type(layer).__name__)


def widens(layer: Any) -> bool:
    """Whether a layer that draws random numbers is dropout or noise, and does so at all."""
    return bool(getattr(layer, "rate", None) or getattr(layer, "stddev", None))


def is_of_library(layer: Any) -> bool:
    """Whether a layer runs a library's code only: that of its class, and of what it may call."""
    attributes = getattr(layer, "__dict__", {}).values()
    return _from_library(layer) and all(map(_calls_library_code, filter(callable, attributes)))


def _calls_library_code(value: Any) -> bool:
    """Whether `value`, a function or another object that can be called, is a library's."""
    if isinstance(value, functools.partial):
        return _calls_library_code(value.func)
    function = getattr(value, "__func__", value)
    if isinstance(function, types.FunctionType):
        return _is_library_code(function)
    return _from_library(value)


def mode_argument(layer: Any) -> str | None:
    """The name of the argument by which `layer` is told to train, None where it takes none."""
    taken = {parameter.name for parameter in parameters_of(layer)}
    return next((name for name in MODES if name in taken), None)


def default_mode(layer: Any) -> Any:
    """What `layer` takes `training` for where it is not told; None where it takes none."""
    name = mode_argument(layer)
    return next((p.default for p in parameters_of(layer) if p.name == name), None)


def given_mode(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool | None:
    """What a call with these arguments says about training, None where it says nothing."""
    if len(args) < 2 and kwargs.keys().isdisjoint(MODES):
        return None
    argument = mode_argument(layer)
    for name in MODES if argument is None else (argument,):
        if isinstance(kwargs.get(name), bool):
            return bool(kwargs[name])
    if argument is None:
        return None
    position = _position(layer, argument)
    value = args[position] if position < len(args) else None
    return value if isinstance(value, bool) else None


def with_mode(
    layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments with the mode set, by position where it was given so."""
    name = mode_argument(layer) or MODES[0]
    position = _position(layer, name)
    if position < len(args):
        return (*args[:position], training, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: training}


def _position(layer: Any, argument: str) -> int:
    return [parameter.name for parameter in parameters_of(layer)].index(argument)


def parameters_of(layer: Any) -> list[inspect.Parameter]:
    """What a call of a layer, or of a function, takes; none where that can't be told.

    Of a wrapper that hands on whatever it is given, what the code takes that it wraps, if that can
    be told a mode.
    """
    function = getattr(layer, "call", None) or layer
    found = _signature(function)
    if any(parameter.kind not in HANDED_ON for parameter in found):
        return found
    code = function if inspect.isroutine(function) else type(function).__call__
    plain = getattr(code, "__func__", code)
    return _wrapped(plain)[plain is not function :] or found


def _wrapped(code: Any) -> list[inspect.Parameter]:
    """The parameters of the code in the closure of a wrapper that takes a mode."""
    for inner in cells_of(code) if isinstance(code, types.FunctionType) else ():
        if not isinstance(inner, types.FunctionType):
            continue
        found = _signature(inner)
        takes_mode = any(parameter.name in MODES for parameter in found)
        if found := found if takes_mode else _wrapped(inner):
            return found
    return []


def _signature(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def reached(function: Any) -> list[Any]:
    """The objects that a function's code refers to: closures, globals, defaults, a bound self,
    classes of the user's.

    Functions among them are followed; what belongs to a library is not.
    """
    found: list[Any] = []
    seen: set[int] = set()
    stack = [function]
    while stack:
        value = stack.pop()
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, types.MethodType):
            stack += [value.__self__, value.__func__]
        elif isinstance(value, functools.partial):
            stack += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, weakref.ref):  # a method's tf.function holds its object so
            stack.append(value())
        elif hasattr(value, "python_function"):  # a tf.function
            stack.append(value.python_function)
        elif isinstance(value, types.FunctionType):
            if not _is_library_code(value):
                stack += _referred(value)
        elif not isinstance(value, (types.ModuleType, types.BuiltinFunctionType)) and not (
            isinstance(value, type) and _is_of_library(value)
        ):
            found.append(value)
    return found


def _referred(function: types.FunctionType) -> Iterator[Any]:
    yield from cells_of(function)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = _names(function.__code__)
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            yield value
        elif value.__name__.partition(".")[0] not in LIBRARIES:
            yield from (vars(value)[inner] for inner in names & vars(value).keys())


def cells_of(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds in its closure."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield cell.cell_contents


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def methods_of(kind: type) -> Iterator[Any]:
    """The methods of a class of the user's, and of those of the user's that it is derived from."""
    for base in kind.__mro__:
        if not _is_of_library(base):
            for value in vars(base).values():
                if isinstance(value, types.FunctionType) or hasattr(value, "python_function"):
                    yield value


def referred_variables(layer: Any) -> list[Any]:
    """The `tf.Variable`s that the code of `layer` refers to, in containers and classes as well."""
    own = filter(callable, getattr(layer, "__dict__", {}).values())
    code = [*methods_of(type(layer)), *(v for v in own if not _calls_library_code(v))]
    values = [v for function in code for v in reached(function)]
    values += [v for kind in _classes_of(layer) for v in vars(kind).values()]
    return list({id(v): v for value in values for v in variables_in(value)}.values())


def variables_in(value: Any) -> list[Any]:
    """The variable that `value` is, or those that it holds itself."""
    items = [value, *(_contained(value) or ()), *(vars(value).values() if _holds(value) else ())]
    return [v for v in map(as_variable, items) if v is not None]


def _holds(value: Any) -> bool:
    return isinstance(value, type) or _is_helper(value)


def _classes_of(layer: Any) -> list[type]:
    """The class of the user's, and those of the user's that it is derived from."""
    return [base for base in type(layer).__mro__ if not _is_of_library(base)]


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES


def library_objects(function: Any) -> list[Any]:
    """The variables, layers, modules, optimizers and metrics that a function's code refers to.

    Those in containers and in attributes of the user's own objects are among them.
    """
    found: dict[int, Any] = {}

    def visit(value: Any, depth: int) -> None:
        if as_variable(value) is not None or _is_library_object(value):
            found.setdefault(id(value), value)
        elif depth and not isinstance(value, (type, types.ModuleType)):
            contained, own = _contained(value), getattr(value, "__dict__", {})
            for item in list(own.values()) if contained is None else contained:
                visit(item, depth - 1)

    for value in reached(function):
        visit(value, DEPTH)
    return list(found.values())


def _is_library_object(value: Any) -> bool:
    """Whether `value` is of a class of TensorFlow's or Keras', or derived from one."""
    import tensorflow as tf

    if isinstance(value, (type, tf.Tensor, np.ndarray)) or hasattr(value, "python_function"):
        return False
    modules = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    return not modules.isdisjoint(("tensorflow", "keras", "tf_keras"))


def traced_functions(function: Any) -> Iterator[Any]:
    """The `tf.function`s that a function is made of or refers to."""
    yield from _traced(function, set())


def _traced(value: Any, seen: set[int]) -> Iterator[Any]:
    if not callable(value) or isinstance(value, type) or id(value) in seen:
        return
    seen.add(id(value))
    if hasattr(value, "get_concrete_function"):
        yield value
    for part in (getattr(value, "__wrapped__", None), *_parts_of(value)):
        yield from _traced(part, seen)


def _parts_of(value: Any) -> list[Any]:
    """What a callable is made of."""
    if hasattr(value, "get_concrete_function"):
        return [getattr(value, "python_function", None)]
    if isinstance(value, types.MethodType):
        owner, kind = value.__self__, type(value.__self__)
        compiled = [n for n, v in vars(kind).items() if hasattr(v, "get_concrete_function")]
        own = getattr(owner, "__dict__", {}).values()
        return [value.__func__, *(getattr(owner, name) for name in compiled), *own]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        return list(cells_of(value) if _is_library_code(value) else _referred(value))
    return []


def _is_library_code(function: types.FunctionType) -> bool:
    return (function.__module__ or "").partition(".")[0] in LIBRARIES
