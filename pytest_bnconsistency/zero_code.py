"""`pytest --bn-model package.module:factory`: tests for a model that has no test file."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import operator
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bnconsistency import model_files
from pytest_bnconsistency.errors import BNConsistencyError, DataError, OptionError
from pytest_bnconsistency.settings import did_you_mean

if TYPE_CHECKING:
    from pytest_bnconsistency.checks import Case, Check

OPTIONS = (
    (
        "model",
        "MODULE:FACTORY|FILE",
        True,
        "check the model that a function returns, or that is an attribute of a module: "
        "'package.module:build'; or that a file holds: 'model.keras'",
    ),
    (
        "data",
        "MODULE:FUNCTION|FILE.npz",
        False,
        "data for the models: a function that returns x, (x, y), (x, y, sample_weight) or a "
        "tf.data.Dataset; or a file with the arrays x and y",
    ),
    ("check", "NAMES", True, "names of the checks of the models, separated by commas"),
)
TRUST = "trust_files"
TRUST_HELP = "load models from .h5 files and SavedModels, which can run code (default: no)"


@dataclass(frozen=True)
class Target:
    """`package.module:attribute`: its file is known, but nothing is imported yet."""

    option: str
    spec: str
    path: Path

    @classmethod
    def find(cls, option: str, spec: str, folders: Iterable[Path]) -> Target:
        """The target `spec`; `folders` are put on `sys.path` where it takes them to find it."""
        module, colon, attribute = spec.partition(":")
        names = [*module.split("."), *attribute.split(".")]
        if not colon or not all(name.isidentifier() for name in names):
            example = "package.module:build" if option == "--bn-model" else "package.module:load"
            raise OptionError(f"{option} is {spec!r}; expected a module and a name: {example!r}")
        path = _file_of(module)
        for folder in map(str, folders):
            if path is None:
                sys.path.insert(0, folder)
                path = _file_of(module)
                if path is None:
                    sys.path.remove(folder)
        if path is None:
            raise OptionError(
                f"{option} is {spec!r}, and there is no Python file of a module {module!r}; "
                "expected one that can be imported from the root or the current folder"
            )
        return cls(option, spec, path)

    @property
    def attribute(self) -> str:
        return self.spec.partition(":")[2]

    def load(self) -> Any:
        """What the target names, called if it is a function or a class."""
        name = self.spec.partition(":")[0]
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise self._raised(f"importing {name}", error) from error
        try:
            found = operator.attrgetter(self.attribute)(module)
        except AttributeError:
            public = tuple(name for name in vars(module) if not name.startswith("_"))
            hint = did_you_mean(self.attribute, public) if public else ""
            raise OptionError(
                f"{self.option} is {self.spec!r}, and {name} has no {self.attribute!r}{hint}"
            ) from None
        if not callable(found):
            wanted = "a function or a model" if self.option == "--bn-model" else "a function"
            raise OptionError(
                f"{self.option} is {self.spec!r}, which is {type(found).__name__}; "
                f"expected {wanted}"
            )
        # A model can be called, too, but not to get a model.
        if not isinstance(found, (type, functools.partial)) and not inspect.isroutine(found):
            return found
        try:
            return found()
        except BNConsistencyError:
            raise
        except Exception as error:
            raise self._raised(self.spec, error) from error

    def _raised(self, what: str, error: Exception) -> BNConsistencyError:
        """One sentence with the last line of the user's own file that took part."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == self.path]
        where = f" ({self.path.name}:{lines[-1]})" if lines else ""
        reason = str(error).strip().partition("\n")[0]
        return BNConsistencyError(
            f"{self.option}: {what} raised {type(error).__name__}: {reason}{where}"
        )


@dataclass(frozen=True)
class SavedFile:
    """A model in a file, or in the folder of a SavedModel; `path` is what pytest collects."""

    spec: str
    folder: Path

    @classmethod
    def find(cls, spec: str, folders: Iterable[Path], trusted: bool) -> SavedFile | None:
        """The file `spec`, None where it is not named as one."""
        found = next((f / spec for f in folders if (f / spec).exists()), Path(spec))
        if not model_files.is_model_file(found):
            return None
        if not found.exists():
            raise OptionError(f"--bn-model is {spec!r}, and there is no such file")
        if model_files.can_run_code(found) and not trusted:
            raise OptionError(
                f"--bn-model is {spec!r}, and loading it can run code that somebody put in; if "
                "you know where it comes from, give --bn-trust-files; or save it as .keras"
            )
        return cls(spec, Path(os.path.abspath(found)))

    @property
    def path(self) -> Path:
        return self.folder / model_files.SAVED_MODEL if self.folder.is_dir() else self.folder

    @property
    def attribute(self) -> str:
        return self.folder.stem

    def load(self) -> Any:
        return model_files.load(self.folder)


@dataclass(frozen=True)
class Archive:
    """A file `.npz` with `x` and `y`, or `x_<name>` for each of several inputs."""

    path: Path

    def load(self) -> Any:
        import numpy as np

        try:
            # A pickle can run code.
            with np.load(self.path, allow_pickle=False) as archive:
                arrays = dict(archive)
        except Exception as error:
            raise DataError(f"--bn-data: {self.path.name} is no readable npz ({error})") from error
        x, y = (_nest(arrays, name) for name in "xy")
        if x is None:
            raise DataError(
                f"--bn-data: {self.path.name} has no array 'x' but {', '.join(arrays) or 'none'}; "
                "expected x and y, or x_<input> for each input"
            )
        return x if y is None else (x, y)


def register(config: pytest.Config) -> None:
    """Add the models of the command line, or else of the ini file, to the run."""
    on_command_line = bool(config.getoption("bn_model"))
    specs = config.getoption("bn_model") or config.getini("bn_model")
    if not specs:
        return
    folders = (config.invocation_params.dir, config.rootpath)
    trusted = config.getoption(f"bn_{TRUST}") or config.getini(f"bn_{TRUST}")
    models = [
        SavedFile.find(spec, folders, trusted) or Target.find("--bn-model", spec, folders)
        for spec in dict.fromkeys(specs)
    ]
    listed = config.getoption("bn_check") or config.getini("bn_check") or []
    names = [name.strip() for entry in listed for name in entry.split(",")]
    data = _data(config, folders)
    config.pluginmanager.register(ZeroCode(models, data, _checks(names), bool(names)))

    files = dict.fromkeys(model.path for model in models)
    if on_command_line and not config.option.file_or_dir:
        config.args[:] = map(str, files)
    elif on_command_line or not config.option.file_or_dir:
        config.args += [str(file) for file in files if not _is_covered(file, config)]


def arguments(item: pytest.Item) -> list[str]:
    """The command line that `item` needs besides its node id."""
    if not isinstance(item, CheckItem):
        return []
    words = ["--bn-model", item.model.target.spec]
    if isinstance(item.model.target, SavedFile) and model_files.can_run_code(
        item.model.target.folder
    ):
        words.append("--bn-trust-files")
    if given := item.config.getoption("bn_data"):
        words += ["--bn-data", given]
    return [*words, "--bn-check", item.check.name] if item.model.asked else words


class ZeroCode:
    """The hooks; they stand only where a model was named."""

    def __init__(
        self,
        models: Sequence[Target | SavedFile],
        data: Target | Archive | None,
        checks: list[Check],
        asked: bool,
    ) -> None:
        self.models, self.data, self.checks, self.asked = models, data, checks, asked

    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> pytest.Collector | None:
        if any(model.path == file_path for model in self.models):
            return ModelFile.from_parent(parent, path=file_path, run=self)
        return None

    def pytest_pycollect_makemodule(
        self, module_path: Path, parent: pytest.Collector
    ) -> pytest.Collector | None:
        """pytest takes every file that is named for a test module; most models' are none."""
        patterns = parent.config.getini("python_files")
        if any(model.path == module_path for model in self.models) and not any(
            module_path.match(pattern) for pattern in patterns
        ):
            return NoModule.from_parent(parent, path=module_path)
        return None


class NoModule(pytest.Module):
    def collect(self) -> list[pytest.Item | pytest.Collector]:
        return []


class ModelFile(pytest.File):
    def __init__(self, *, run: ZeroCode, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run = run

    def collect(self) -> Iterator[ModelNode]:
        for target in self.run.models:
            if target.path == self.path:
                yield ModelNode.from_parent(
                    self, name=target.attribute, target=target, run=self.run
                )


class ModelNode(pytest.Collector):
    """One model: built when its first check runs, forgotten after its last."""

    case: Case | None = None

    def __init__(self, *, target: Target | SavedFile, run: ZeroCode, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target, self.run, self.asked = target, run, run.asked

    def collect(self) -> Iterator[CheckItem]:
        for check in self.run.checks:
            yield CheckItem.from_parent(self, name=check.name, model=self, check=check)

    def setup(self) -> None:
        from pytest_bnconsistency import assertions

        given = None if self.run.data is None else self.run.data.load()
        x = assertions.one_batch(given)
        self.case = assertions.case(self.target.load(), x, None, {}, asked=self.asked)

    def teardown(self) -> None:
        self.case = None


class CheckItem(pytest.Item):
    def __init__(self, *, model: ModelNode, check: Check, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model, self.check = model, check

    def runtest(self) -> None:
        from pytest_bnconsistency import assertions

        if self.model.case is None:
            raise RuntimeError("a check runs after its model's setup")
        assertions.judge(self.check, self.model.case)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.model.target.spec} {self.check.name}"


def _checks(names: list[str]) -> list[Check]:
    from pytest_bnconsistency import checks

    return checks.named(names or None)


def _is_covered(file: Path, config: pytest.Config) -> bool:
    """Whether a path of the run leads to `file`; pytest loses tests if it is told twice.

    Somebody who names a node in a model's file wants that node only.
    """
    closed = [*config.getini("norecursedirs"), "site-packages"]
    for arg in config.args:
        given = Path(os.path.abspath(config.invocation_params.dir / arg.partition("::")[0]))
        if not file.is_relative_to(given):
            continue
        for name in file.relative_to(given).parts[:-1]:
            if any(fnmatch.fnmatch(name, pattern) for pattern in closed):
                raise OptionError(
                    f"--bn-model lies in {file}, and from {arg!r} pytest does not enter {name!r}; "
                    "expected --bn-model without paths, in a run of its own"
                )
        return True
    return False


def _data(config: pytest.Config, folders: Iterable[Path]) -> Target | Archive | None:
    given, base = config.getoption("bn_data"), config.invocation_params.dir
    if not given:
        given, base = config.getini("bn_data"), config.rootpath
    if not given:
        return None
    if not given.endswith(".npz"):
        return Target.find("--bn-data", given, folders)
    path = base / given
    if not path.is_file():
        raise OptionError(f"--bn-data is {given!r}, and there is no such file in {base}")
    return Archive(path)


def _file_of(module: str) -> Path | None:
    """The source of `module`, found without running it or the packages that it lies in."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
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


def _nest(arrays: Mapping[str, Any], name: str) -> Any:
    if name in arrays:
        return arrays[name]
    prefix = f"{name}_"
    return {
        key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)
    } or None
