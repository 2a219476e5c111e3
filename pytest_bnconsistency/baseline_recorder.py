"""What a run does to the baselines: they are written once, at its end, where no worker is.

Workers send what they recorded along with pytest's own reports.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from pytest_bnconsistency import ini, settings
from pytest_bnconsistency.context import Baselines, Update
from pytest_bnconsistency.errors import BaselineError, BNConsistencyError, OptionError
from pytest_bnconsistency.words import counted, listed, printable

UPDATE = "--bn-update-baseline"
SHOWN = 40
"""Lines of a diff that are printed without -v."""
WRITTEN = pytest.StashKey[dict[str, str]]()
"""What a test recorded: the text by its file."""
DESELECTED = "bn_deselected"
"""In what a worker says at its end: that it left tests out."""


def add_options(group: pytest.OptionGroup) -> None:
    # argparse knows an option by its whole text first: so the value takes no path for itself.
    for text, mode, said in (
        (UPDATE, "changed", "record the baselines anew where something moved, and print the diff"),
        (
            f"{UPDATE}=version",
            "version",
            "record what this version of Keras does otherwise beside the rest",
        ),
        (f"{UPDATE}=new", "new", "record the baselines that are missing, and no others"),
    ):
        group.addoption(
            text, dest="bn_update_baseline", action="append_const", const=mode, help=said
        )
    group.addoption(
        "--bn-baseline-prune",
        action="store_true",
        help="delete the baselines of models that no longer exist, after a run of all tests",
    )


def mode(config: pytest.Config) -> Update:
    """What is recorded.

    Raises:
        OptionError: a CI server would record what nobody looks at.
    """
    given = config.getoption("bn_update_baseline") or []
    if not given:
        return ""
    if os.environ.get("CI", "").lower() in ("true", "1") and len(given) < 2:
        raise OptionError(
            f"{UPDATE} under CI=true would record what nobody has looked at; record it on a "
            "machine of yours and commit it, or give the option twice"
        )
    return next(one for one in get_args(Update) if one in given)


def baselines_of(item: pytest.Item) -> Baselines:
    """What the checks in a test may do with baselines."""
    item.stash[WRITTEN] = {}

    def write(path: Path, text: str) -> None:
        if item.stash[WRITTEN].setdefault(str(path), text) != text:
            raise BaselineError(
                f"two models of {title} record unlike facts in one baseline, {path.name}; give "
                "each a name of its own, baseline_name='...'"
            )

    title = title_of(item)
    return Baselines(
        title=title,
        folder=str(item.config.rootpath),
        update=mode(item.config),
        write=write,
    )


def title_of(item: pytest.Item) -> str:
    return str(getattr(item, "bn_title", item.nodeid))


def hand_over(item: pytest.Item, report: pytest.TestReport) -> None:
    """Let a report take along what its test recorded."""
    report.bn_model = title_of(item)  # type: ignore[attr-defined]
    if item.stash[WRITTEN]:
        report.bn_baselines = json.dumps(item.stash[WRITTEN])  # type: ignore[attr-defined]
        item.stash[WRITTEN] = {}


def register(config: pytest.Config) -> None:
    """Collect what is recorded, unless this is a worker of the run.

    Raises:
        OptionError: nothing may be recorded here.
    """
    mode(config)
    is_worker = hasattr(config, "workerinput")
    plugin = Deselections(config) if is_worker else BaselineRecorder(config)
    config.pluginmanager.register(plugin, "bnconsistency-baselines")


class Deselections:
    """Tells the controller of a run that a worker left tests out: it collects none itself."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_deselected(self) -> None:
        self.config.workeroutput[DESELECTED] = True  # type: ignore[attr-defined]


class BaselineRecorder:
    """Writes the baselines, and tells of those that no test has."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.recorded: dict[str, dict[str, str]] = {}
        """The texts of each file, by test: two tests may want one file."""
        self.used: set[str] = set()
        self.partial: set[str] = set()
        """Files of which only a part was compared: the weights are others, and nobody said so."""
        self.titles: set[str] = set()
        self.has_run = False
        self.incomplete = False
        self.lines: list[str] = []
        self.failed = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.incomplete |= not report.passed

    def pytest_deselected(self) -> None:
        self.incomplete = True

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.incomplete |= DESELECTED in getattr(node, "workeroutput", {})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.titles |= {report.nodeid, str(getattr(report, "bn_model", ""))}
        for path, text in json.loads(getattr(report, "bn_baselines", "{}")).items():
            self.recorded.setdefault(path, {})[report.nodeid] = text
        for entry in json.loads(getattr(report, "bn_entries", "[]")):
            if entry["check"] == "baseline" and "file" in entry["evidence"]:
                self.used.add(entry["evidence"]["file"])
                if entry["evidence"].get("partial"):
                    self.partial.add(entry["evidence"]["file"])
        self.has_run |= report.when == "call"
        self.incomplete |= not report.passed

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for path, texts in sorted(self.recorded.items()):
            self.lines += self._written(Path(path), texts)
        self.lines += self._compared_in_part()
        self.lines += self._unused(session)
        if self.failed and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.lines:
            terminalreporter.section("bnconsistency: baselines")
        for line in self.lines:
            terminalreporter.line(printable(line))

    def _written(self, path: Path, texts: dict[str, str]) -> Iterator[str]:
        """Write a file, and say what moved in it."""
        from pytest_bnconsistency.checks.baseline import file

        shown = self._near(path)
        if len(set(texts.values())) > 1:
            self.failed = True
            yield (
                f"{shown} not written: {listed(texts)} record unlike facts in it; give each a "
                "name of its own, baseline_name='...'"
            )
            return
        (text,) = set(texts.values())
        try:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            if text == before:
                return
            file.save(path, text)
        except (OSError, ValueError) as error:
            self.failed = True
            yield f"{shown} not written: {getattr(error, 'strerror', None) or error}"
            return
        if not before:
            yield f"{shown}: new, {counted(len(text.splitlines()), 'line')}"
            return
        lines = file.diff(before, text, path)
        yield f"{shown}: {counted(len(lines), 'line')} changed"
        most = len(lines) if self.config.get_verbosity() >= 1 else SHOWN
        yield from (f"  {line}" for line in lines[:most])
        if len(lines) > most:
            yield f"  ... and {len(lines) - most} more (-v shows them)"

    def _compared_in_part(self) -> Iterator[str]:
        """Say which models have other weights: a seed that nobody sets must not go unseen."""
        if self.partial:
            files = listed((self._near(Path(path)) for path in sorted(self.partial)), most=3)
            yield (
                f"{files}: the weights are others, so that statistics and outputs were not "
                "compared (weights='same' makes that a failure)"
            )

    def _unused(self, session: pytest.Session) -> Iterator[str]:
        """Tell of the files that no test compares any more; delete them, if that is asked for."""
        prune = self.config.getoption("bn_baseline_prune")
        if not self._is_whole(session):
            if prune:
                self.failed = True
                yield (
                    "--bn-baseline-prune deleted nothing: some tests did not run, or did not "
                    "pass; expected a run of all tests, from the root of the project"
                )
            return
        for path in sorted(self._files()):
            if str(path) in self.used | self.recorded.keys():
                continue
            if prune:
                path.unlink()
                yield f"{self._near(path)} deleted: no test compares it"
            else:
                yield f"{self._near(path)}: no test compares it; --bn-baseline-prune deletes it"

    def _is_whole(self, session: pytest.Session) -> bool:
        """Whether all tests of the project ran and passed, as far as a run can know that."""
        option = self.config.option
        chosen = (option.file_or_dir, option.ignore, option.ignore_glob)
        by_us = (self.config.getoption("bn_given"), self.config.getoption("bn_check"))
        is_part = (
            any((*chosen, *by_us)) or self.config.invocation_params.dir != self.config.rootpath
        )
        stopped = session.shouldfail or session.shouldstop
        return self.has_run and not (is_part or stopped or self.incomplete)

    def _files(self) -> Iterator[Path]:
        """The baselines in the folders that are known, but for those of tests and models that
        exist.
        """
        layers = self.config.stash[ini.LAYERS]
        folder = self.config.rootpath / settings.resolve(*layers).baseline_dir
        folders = {folder, *(Path(path).parent for path in self.used)}
        for path in {path for known in folders for path in known.glob("*.json")}:
            model = _model_of(path)
            if model is not None and model not in self.titles and not self._is_given(model):
                yield path

    def _is_given(self, model: str) -> bool:
        """Whether it is a model that a command line may name: another run compares that."""
        is_function = "::" not in model and re.fullmatch(r"\S+:[\w.]+", model) is not None
        # Of a name that no file may have, `Path.exists` raises.
        return is_function or os.path.exists(self.config.rootpath / model)

    def _near(self, path: Path) -> str:
        root = self.config.rootpath
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _model_of(path: Path) -> str | None:
    """Which model a file is the baseline of; None if it is none."""
    from pytest_bnconsistency.checks.baseline import file

    try:
        return file.read(path).model
    except BNConsistencyError:
        return None
