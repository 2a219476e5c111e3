"""`pytest --bn-model package.module:factory`: tests for a model that has no test file."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bnconsistency import ini
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.models import files as model_files
from pytest_bnconsistency.shared_models import SharedModel
from pytest_bnconsistency.targets import DATA, MODEL, Archive, SavedFile, Target
from pytest_bnconsistency.words import first_line, printable

if TYPE_CHECKING:
    from pytest_bnconsistency.checks import Check


@dataclass(frozen=True)
class Named:
    """A model that was named, with its data: of the command line, or by default that of the ini.

    In between comes the attribute `data` of the function that builds the model.
    """

    target: Target | SavedFile
    data: Target | Archive | None
    default: Target | Archive | None

    @property
    def data_spec(self) -> str | None:
        return None if self.data is None else self.data.spec

    def load(self) -> Any:
        if self.data is None and (own := self.target.own_data()) is not None:
            return own
        source = self.data or self.default
        return None if source is None else source.load()


def register(config: pytest.Config, baseline: bool) -> None:
    """Add the models of the command line, or else of the ini file, to the run.

    `baseline` says that they are compared with their baselines where no checks are named.
    """
    given: list[tuple[str, str]] = config.getoption("bn_given") or []
    on_command_line = _names_models(given)
    if not on_command_line:
        given = [*(("model", spec) for spec in ini.words(config, "model")), *given]
    names = _names(config)
    checks = _checks(names, baseline)
    if not _names_models(given):
        if given or config.getoption("bn_check"):
            flag = DATA if given else "--bn-check"
            raise OptionError(f"{flag} is for models, and none is named; give {MODEL}, too")
        return
    models = _named(config, given, on_command_line)
    config.pluginmanager.register(ZeroCode(models, checks, bool(names)))
    _collect(config, dict.fromkeys(model.target.path for model in models), on_command_line)


def _names_models(given: Iterable[tuple[str, str]]) -> bool:
    return any(kind == "model" for kind, _ in given)


def _collect(config: pytest.Config, files: Iterable[Path], on_command_line: bool) -> None:
    """Have pytest collect the models' files, alone or beside the paths of the run."""
    if on_command_line and not config.option.file_or_dir:
        config.args[:] = map(str, files)
    elif on_command_line or not config.option.file_or_dir:
        config.args += [str(file) for file in files if not _is_covered(file, config)]


def _names(config: pytest.Config) -> list[str]:
    """The names of the checks that were asked for, those of the command line before the ini's."""
    by_default = ini.words(config, "checks") or ini.words(config, "check")
    given = config.getoption("bn_check")
    listed = given or by_default
    names = [name for entry in listed for name in re.split(r"[,\s]+", entry) if name]
    if given and not names:
        raise OptionError(
            f"--bn-check is {given[0]!r}; expected names of checks, separated by commas"
        )
    return names


class ZeroCode:
    """The hooks; they stand only where a model was named."""

    def __init__(self, models: Sequence[Named], checks: list[Check], asked: bool) -> None:
        self.models, self.checks, self.asked = models, checks, asked

    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> pytest.Collector | None:
        if any(model.target.path == file_path for model in self.models):
            return ModelFile.from_parent(parent, path=file_path, run=self)
        return None

    def pytest_pycollect_makemodule(
        self, module_path: Path, parent: pytest.Collector
    ) -> pytest.Collector | None:
        """pytest takes every file that is named for a test module; most models' are none."""
        patterns = parent.config.getini("python_files")
        if any(model.target.path == module_path for model in self.models) and not any(
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
        for named in self.run.models:
            if named.target.path == self.path:
                yield ModelNode.from_parent(
                    self, name=named.target.name, named=named, run=self.run
                )


class ModelNode(pytest.Collector):
    """One model: built when its first check runs, forgotten after its last."""

    def __init__(self, *, named: Named, run: ZeroCode, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.named, self.run, self.line = named, run, named.target.line
        self.shared = SharedModel(named.target.load, named.load, run.asked)

    def collect(self) -> Iterator[CheckItem]:
        for check in self.run.checks:
            yield CheckItem.from_parent(self, name=check.name, model=self, check=check)

    def teardown(self) -> None:
        self.shared.forget()


class CheckItem(pytest.Item):
    def __init__(self, *, model: ModelNode, check: Check, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model, self.check = model, check
        self.bn_about = (model.named.target.spec, check.name)
        self.bn_title, self.bn_is_check = model.named.target.spec, True
        self.bn_shared = True

    def setup(self) -> None:
        self.model.shared.prepare(self.nodeid, self._options())

    def runtest(self) -> None:
        __tracebackhide__ = True
        self.model.shared.judge(self.check, self.nodeid, self._options())

    def _options(self) -> Mapping[str, Any]:
        try:
            return self.model.named.target.own_options()
        except Exception:
            return {}  # what is wrong with the module, building the model tells

    def bn_arguments(self) -> list[str]:
        """The command line that this test needs besides its node id."""
        named = self.model.named
        words = [MODEL, named.target.spec]
        if isinstance(named.target, SavedFile) and model_files.can_run_code(named.target.folder):
            words.append("--bn-trust-files")
        if named.data is not None:
            words += [DATA, named.data.spec]
        return [*words, "--bn-check", self.check.name] if self.model.run.asked else words

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.model.line, f"{self.model.named.target.spec} {self.check.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What a user's own function raised, in the user's own frames."""
        option = self.config.getoption  # without a terminal there are none of these
        chosen = option("tbstyle", "auto")
        frames = _users_frames(excinfo)
        if chosen == "native" and frames:
            excinfo.traceback = frames  # that style does not filter
        shown: Any = excinfo.getrepr(
            showlocals=option("showlocals", False),
            style="value" if not frames else chosen if chosen in ("short", "native") else "long",
            tbfilter=not option("fulltrace", False) and _users_frames,
        )
        crash = getattr(shown, "reprcrash", None)
        if crash is not None:
            path, line = (frames[-1].path, frames[-1].lineno) if frames else self.reportinfo()[:2]
            crash.path, crash.lineno = str(path), line + 1
            said = printable(f"{excinfo.typename}: {first_line(excinfo.value)}")
            crash.message = f"{said} ({os.path.basename(path)}:{line + 1})"
        return shown


HERE = Path(__file__).parent
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of libraries, of this environment and of those that it sees."""


@functools.cache
def _libraries() -> tuple[Path, ...]:
    return HERE, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


def _users_frames(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    """The frames of the user's own code; those below ours, if all are a library's."""

    def is_own(entry: Any) -> bool:
        path = Path(entry.path)
        installed = INSTALLED & set(path.parts) or any(map(path.is_relative_to, _libraries()))
        return path.is_absolute() and not installed

    frames = list(excinfo.traceback)
    ours = [at for at, entry in enumerate(frames) if Path(entry.path).parent == HERE]
    below = excinfo.traceback[ours[-1] + 1 if ours else 0 :]
    return excinfo.traceback.filter(is_own) or below


def _named(
    config: pytest.Config, given: list[tuple[str, str]], on_command_line: bool
) -> list[Named]:
    """The models of the run with their data, each once."""
    folders = (config.invocation_params.dir, config.rootpath)
    trusted = ini.trusts_files(config)
    pairs = _paired(given)
    found = dict[tuple[Path, str], Named]()
    defaults = _defaults(config, pairs, on_command_line)
    for (model, data), default in zip(pairs, defaults, strict=True):
        target = SavedFile.find(model, folders, trusted) or Target.find(MODEL, model, folders)
        named = Named(target, _source(data, folders), _source(default, folders))
        first = found.setdefault((target.path, target.name), named)
        if first.data_spec != named.data_spec:
            raise OptionError(
                f"{MODEL} is {model!r} twice, with {first.data_spec} and {named.data_spec}; "
                f"expected one {DATA} for a model: write a function for each"
            )
    return list(found.values())


def _defaults(
    config: pytest.Config, pairs: Sequence[object], on_command_line: bool
) -> Sequence[str | None]:
    """The data that the ini file names for each model."""
    data = ini.words(config, "data")
    if len(data) <= 1:
        return [data[0] if data else None] * len(pairs)
    if on_command_line:
        return [None] * len(pairs)  # those of other models
    if len(data) != len(pairs):
        raise OptionError(
            f"bn_data has {len(data)} entries and bn_model {len(pairs)}; expected one for all, or "
            "one for each"
        )
    return data


def _source(spec: str | None, folders: Iterable[Path]) -> Target | Archive | None:
    if spec is None:
        return None
    return Archive.find(spec, folders) or Target.find(DATA, spec, folders)


def _paired(given: list[tuple[str, str]]) -> list[tuple[str, str | None]]:
    """Models with their data: that which is named next after them.

    As many data as models belong to each other in turn, in whichever order they stand. Data that
    is named before all models counts for those that none comes after.
    """
    models = [spec for kind, spec in given if kind == "model"]
    data = [spec for kind, spec in given if kind == "data"]
    if len(data) == len(models):
        return list(zip(models, data, strict=True))
    if any(one[0] == other[0] == "data" for one, other in itertools.pairwise(given)):
        raise OptionError(
            f"{DATA} is given {len(data)} times for {len(models)} models; expected it once for "
            "all of them, or after each"
        )
    following = data[0] if given[0][0] == "data" else None
    pairs: list[tuple[str, str | None]] = []
    for kind, spec in reversed(given):
        if kind == "data":
            following = spec
        else:
            pairs.insert(0, (spec, following))
    return pairs


def _checks(names: list[str], baseline: bool) -> list[Check]:
    from pytest_bnconsistency import checks

    return checks.named(names or None, baseline=baseline)


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
