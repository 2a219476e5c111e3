"""What `--bn-model` and `--bn-data` name: functions, models and arrays, not loaded before use."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_bnconsistency.errors import DataError, OptionError
from pytest_bnconsistency.models import files as model_files
from pytest_bnconsistency.settings import did_you_mean

MODEL, DATA = "--bn-model", "--bn-data"
EXAMPLES = {MODEL: "package.module:build", DATA: "package.module:load"}


@dataclass(frozen=True)
class Arguments:
    """What a function is called with, as `build(10, width=0.5)` says."""

    by_place: tuple[Any, ...]
    by_name: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """`package.module:name`: its file is known, but nothing is imported yet.

    `module` is None for a file that no module's name leads to.
    """

    option: str
    spec: str
    path: Path
    module: str | None
    attribute: str
    called: str
    arguments: Arguments | None = None

    @classmethod
    def find(cls, option: str, spec: str, folders: Iterable[Path]) -> Target:
        """The target `spec`; `folders` are put on `sys.path` where it takes them to find it."""
        is_file = re.match(r"((?:[A-Za-z]:)?[^:]+\.py):(.*)", spec, re.DOTALL)
        place, called = is_file.groups() if is_file else spec.partition(":")[::2]
        called = called.strip()
        attribute, arguments = _read_call(option, spec, called)
        folders = list(folders)
        if is_file:
            path = _existing(option, spec, place, folders)
            module = _name_of(path, folders)
            if not (path.parent / "__init__.py").exists() and str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))  # a script imports what lies beside it
            return cls(option, spec, path, module, attribute, called, arguments)
        if not all(name.isidentifier() for name in place.split(".")):
            raise _unreadable(option, spec)
        found = _search(place, folders)
        if found is None:
            raise OptionError(
                f"{option} is {spec!r}, and there is no Python file of a module {place!r}; "
                "expected one that can be imported from the root or the current folder"
            )
        return cls(option, spec, found, place, attribute, called, arguments)

    @property
    def name(self) -> str:
        """The last part of a node id, in which pytest gives `::` and `[` a meaning."""
        return self.called.replace("::", ":").translate(str.maketrans("[]", "()"))

    @property
    def line(self) -> int:
        """The line in which it is defined, counted from 0, found without running the file."""
        try:
            nodes = ast.parse(self.path.read_bytes()).body
        except (OSError, SyntaxError, ValueError):
            return 0
        line = 0
        for part in self.attribute.split("."):
            node = next((node for node in nodes if part in _defined(node)), None)
            if node is None:
                break
            line, nodes = node.lineno - 1, getattr(node, "body", [])
        return line

    def load(self) -> Any:
        """What the target names, called if it is a function or a class, or has arguments."""
        found = self._found()
        if self.arguments is not None and callable(found):
            return self._called(found, self.arguments)
        if not callable(found):
            wanted = "a function or a model" if self.option == MODEL else "a function"
            raise OptionError(
                f"{self.option} is {self.spec!r}, which is {type(found).__name__}; "
                f"expected {wanted}"
            )
        # A model can be called, too, but not to get a model.
        return self._called(found, Arguments((), {})) if makes(found) else found

    def own_data(self) -> Any:
        """The attribute `data` of what builds the model, called; None if it has none."""
        found = self._found()
        if not makes(found):
            return None
        data = getattr(found, "__dict__", {}).get("data")
        if isinstance(found, type):
            data = found.data if isinstance(data, (staticmethod, classmethod)) else None  # type: ignore[attr-defined]
        return data() if callable(data) else data

    def own_options(self) -> Mapping[str, Any]:
        """The attribute `options` of the function that builds the model."""
        found = self._found()
        options: Mapping[str, Any] = (
            vars(found).get("options", {}) if inspect.isfunction(found) else {}
        )
        return options

    def _called(self, found: Callable[..., Any], arguments: Arguments) -> Any:
        try:
            # What a wrapper hands on is its own affair.
            signature = inspect.signature(found, follow_wrapped=False)
        except (TypeError, ValueError):  # not everything says what it takes
            return found(*arguments.by_place, **arguments.by_name)
        try:
            signature.bind(*arguments.by_place, **arguments.by_name)
        except TypeError as error:
            place = self.spec.rstrip().removesuffix(self.called)
            takes = ", ".join(signature.parameters) or "no arguments"
            other = next((n for n in arguments.by_name if n not in signature.parameters), None)
            why = error if other is None or repr(other) in str(error) else f"no argument {other!r}"
            raise OptionError(
                f"{self.option} is {self.spec!r}, and {self.attribute} takes {takes} ({why}); "
                f"expected '{place}{self.attribute}({_needed(signature)})'"
            ) from None
        return found(*arguments.by_place, **arguments.by_name)

    def _found(self) -> Any:
        module = self._imported()
        try:
            return operator.attrgetter(self.attribute)(module)
        except AttributeError:
            hint = did_you_mean(self.attribute, known) if (known := _offered(module)) else ""
            raise OptionError(
                f"{self.option} is {self.spec!r}, and {module.__name__} has no "
                f"{self.attribute!r}{hint}"
            ) from None

    def _imported(self) -> ModuleType:
        if self.module is not None:
            return importlib.import_module(self.module)
        for module in list(sys.modules.values()):
            if getattr(module, "__file__", None) == str(self.path):
                return module
        name = re.sub(r"\W", "_", f"bnconsistency {self.path}")
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None or spec.loader is None:
            raise OptionError(f"{self.option} is {self.spec!r}, which is no Python file")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


@dataclass(frozen=True)
class SavedFile:
    """A model in a file, or in the folder of a SavedModel; `path` is what pytest collects."""

    spec: str
    folder: Path
    line: int = 0

    @classmethod
    def find(cls, spec: str, folders: Iterable[Path], trusted: bool) -> SavedFile | None:
        """The file `spec`, None where it is not named as one."""
        found = next((f / spec for f in folders if (f / spec).exists()), Path(spec))
        if not model_files.is_model_file(found):
            return None
        if not found.exists():
            raise OptionError(f"{MODEL} is {spec!r}, and there is no such file")
        if model_files.can_run_code(found) and not trusted:
            raise OptionError(
                f"{MODEL} is {spec!r}, and loading it can run code that somebody put in; if "
                "you know where it comes from, give --bn-trust-files; or save it as .keras"
            )
        return cls(spec, Path(os.path.abspath(found)))

    @property
    def path(self) -> Path:
        return self.folder / model_files.SAVED_MODEL if self.folder.is_dir() else self.folder

    @property
    def name(self) -> str:
        return self.folder.stem

    def load(self) -> Any:
        return model_files.load(self.folder)

    def own_data(self) -> Any:
        return None

    def own_options(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Archive:
    """A file `.npz` with `x` and `y`, or `x_<name>` for each of several inputs.

    `x_train`, `y_train`, `x_test` and `y_test` are two sets, as Keras' own data has them.
    """

    spec: str
    path: Path

    @classmethod
    def find(cls, spec: str, folders: Iterable[Path]) -> Archive | None:
        """The file `spec`, None where it is not named as one."""
        if not spec.endswith(".npz"):
            return None
        return cls(spec, _existing(DATA, spec, spec, list(folders)))

    def _arrays(self) -> dict[str, Any]:
        import numpy as np

        try:
            # A pickle can run code. And numpy leaves open what it can't read.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        except Exception as error:
            raise DataError(f"{DATA}: {self.path.name} is no readable npz ({error})") from error

    def load(self) -> Any:
        arrays = self._arrays()
        x, y = (_nest(arrays, name) for name in "xy")
        if x is None:
            raise DataError(
                f"{DATA}: {self.path.name} has no array 'x' but {', '.join(arrays) or 'none'}; "
                "expected x and y, or x_<input> for each input"
            )
        sets = {"train", "test"}
        if isinstance(x, dict) and isinstance(y, dict) and set(x) == sets == set(y):
            return (x["train"], y["train"]), (x["test"], y["test"])
        weight = arrays.get("sample_weight")
        if weight is not None and y is not None:
            return x, y, weight
        return x if y is None else (x, y)


def _read_call(option: str, spec: str, text: str) -> tuple[str, Arguments | None]:
    """The dotted name and the arguments that `text` gives; nothing of it is run."""
    try:
        node: ast.expr = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        raise _unreadable(option, spec) from None
    arguments = None
    if isinstance(node, ast.Call):
        arguments = Arguments(
            tuple(_literal(option, spec, argument) for argument in node.args),
            {word.arg or "**": _literal(option, spec, word.value) for word in node.keywords},
        )
        if "**" in arguments.by_name:
            raise _no_literal(option, spec, "**")
        node = node.func
    name = ast.unparse(node)
    if not all(part.isidentifier() for part in name.split(".")):
        raise _unreadable(option, spec)
    return name, arguments


def _literal(option: str, spec: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise _no_literal(option, spec, ast.unparse(node)) from None


def _no_literal(option: str, spec: str, what: str) -> OptionError:
    return OptionError(
        f"{option} is {spec!r}, and {what} is no plain value; expected arguments such as 4, "
        "'relu', (1, 2), width=0.5 or pretrained=True"
    )


def _unreadable(option: str, spec: str) -> OptionError:
    return OptionError(
        f"{option} is {spec!r}; expected a module and a name: {EXAMPLES[option]!r}, or a file "
        f"and a name: {EXAMPLES[option].replace('package.module', 'folder/file.py')!r}"
    )


def _existing(option: str, spec: str, place: str, folders: list[Path]) -> Path:
    for folder in folders:
        if (folder / place).is_file():
            return Path(os.path.abspath(folder / place))
    raise OptionError(f"{option} is {spec!r}, and there is no such file in {folders[0]}")


def _search(module: str, folders: Iterable[Path], wanted: Path | None = None) -> Path | None:
    """The file of `module`, `wanted` if a file is; a folder in which it lies goes on the path."""
    path = _file_of(module)
    for folder in map(str, folders):
        if path is not None and wanted in (None, path):
            return path
        sys.path.insert(0, folder)
        path = _file_of(module)
        if path is None or wanted not in (None, path):
            sys.path.remove(folder)
    return path if wanted in (None, path) else None


def _name_of(path: Path, folders: list[Path]) -> str | None:
    """The module that the file `path` is, where a name leads to it from one of the folders."""
    top = path.parent
    while (top / "__init__.py").is_file() and top != top.parent:
        top = top.parent
    for folder in (*folders, top):
        if not path.is_relative_to(folder):
            continue
        parts = path.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and all(part.isidentifier() for part in parts):
            name = ".".join(parts)
            if _search(name, [folder], path) == path:
                return name
    return None


def _file_of(module: str) -> Path | None:
    """The source of `module`, found without running it or the packages that it lies in."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(os.path.abspath(spec.origin))


def _offered(module: ModuleType) -> tuple[str, ...]:
    """What a wrong name may have meant: what can be called, and what the module defines first."""
    known = {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }
    # Of a model the attribute says where its class is from.
    own = [
        name
        for name, value in known.items()
        if not makes(value) or getattr(value, "__module__", "") == module.__name__
    ]
    return tuple(own or known)


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning to."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    named = {
        name.id
        for target in targets
        if target
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    aliases = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []
    return named | {alias.asname or alias.name for alias in aliases}


def _needed(signature: inspect.Signature) -> str:
    """The arguments without which nothing can be called that has `signature`."""
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return ", ".join(
        "..." if parameter.kind is parameter.POSITIONAL_ONLY else f"{parameter.name}=..."
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in optional
    )


def makes(found: Any) -> bool:
    """Whether `found` is called to get a model, and is none itself."""
    return isinstance(found, (type, functools.partial)) or inspect.isroutine(found)


def _nest(arrays: Mapping[str, Any], name: str) -> Any:
    if name in arrays:
        return arrays[name]
    prefix = f"{name}_"
    return {
        key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)
    } or None
