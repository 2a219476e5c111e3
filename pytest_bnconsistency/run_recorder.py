"""What a run leaves behind: its reports, and what the screen says at its end.

Workers send their results along with pytest's own reports; all is put together and written once,
where no worker is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from pytest_bnconsistency import ini, libraries
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.words import printable

if TYPE_CHECKING:
    from pytest_bnconsistency.reporting.formats import Output

Reported: TypeAlias = "pytest.TestReport | pytest.CollectReport"


def register(config: pytest.Config, accepted: Iterable[str]) -> None:
    """Record the run, unless this is a worker of it.

    `accepted` is what the ini file ignores in the whole project.

    Raises:
        BNConsistencyError: a report can't be made as it was asked for.
    """
    if hasattr(config, "workerinput"):
        return
    written = config.getoption("bn_report")
    specs = written or ini.words(config, "report")
    outputs: list[Output] = []
    if specs:
        from pytest_bnconsistency.reporting import formats

        option = "--bn-report" if written else "bn_report"
        outputs = formats.outputs(specs, config.invocation_params.dir, option)
    config.pluginmanager.register(
        RunRecorder(config, outputs, set(accepted)), "bnconsistency-run-recorder"
    )


def drop_noise(config: pytest.Config) -> None:
    """Leave the start of TensorFlow out of what pytest prints when it gives up its capture.

    A conftest that imports it would bury the one sentence that a run ends with.
    """
    capture = config.pluginmanager.get_plugin("capturemanager")
    if "tensorflow" not in sys.modules or capture is None or not capture.is_globally_capturing():
        return
    from pytest_bnconsistency.reporting.startup_noise import without_noise

    for stream, captured in zip(
        (sys.stdout, sys.stderr), capture.read_global_capture(), strict=True
    ):
        stream.write(without_noise(captured))


class RunRecorder:
    """Collects what tests report, and makes the record of it."""

    def __init__(self, config: pytest.Config, outputs: list[Output], accepted: set[str]) -> None:
        self.config, self.outputs, self.accepted = config, outputs, accepted
        self.begun = time.time()
        self.tests: dict[tuple[str, str, int], list[Reported]] = {}
        """The reports about a test that hold something of ours, by worker, test, and how many of
        the same id failed before."""
        self._alike = Counter[tuple[str, str]]()
        self.collected: dict[str, None] = {}
        self.finished: set[str] = set()
        self.collection_errors: list[dict[str, Any]] = []
        self.crashed: list[dict[str, str]] = []
        self.stopped = ""
        self.record: dict[str, Any] | None = None
        self.written: list[Output] = []
        self.unwritten: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self.outputs:
            self.collected.update(dict.fromkeys(item.nodeid for item in session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Iterable[str]) -> None:
        if self.outputs:
            self.collected.update(dict.fromkeys(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            place = {"title": report.nodeid, "test": report.nodeid, "line": 1}
            path = report.nodeid.partition("::")[0]
            said = _message(report)
            self.collection_errors.append(
                {"kind": "collection", **place, "path": path, "message": said}
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None]:
        yield
        self._keep(report)
        if report.when == "call" and getattr(report, "bn_error", None):
            _count_as_error(self.config, report)

    def _keep(self, report: pytest.TestReport) -> None:
        phase = str(report.when)
        if phase == "???":  # xdist, about a worker that died
            self.crashed.append({"test": report.nodeid, "message": printable(_message(report))})
        if self.outputs and phase in ("teardown", "???"):
            self.finished.add(report.nodeid)
        named = (getattr(report, "worker_id", ""), report.nodeid)
        test = (*named, self._alike[named])
        if phase == "setup" and test in self.tests:
            if any(one.failed for one in self.tests[test]):  # for pytest, too, it stays failed
                self._alike[named] += 1
                test = (*named, self._alike[named])
            else:
                del self.tests[test]  # run again
        is_ours = hasattr(report, "bn_entries") or getattr(report, "bn_error", None)
        if is_ours or test in self.tests:
            self.tests.setdefault(test, []).append(report)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.stopped = printable(": ".join(filter(None, (excinfo.typename, str(excinfo.value)))))

    def pytest_internalerror(self, excrepr: Any) -> None:
        self.stopped = "an internal error of pytest"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Make the record and write it; one report that can't be written keeps back no other."""
        if not (self.tests or self.outputs) or self.config.getoption("collectonly"):
            return
        self.record = self._record(session)
        for output in self.outputs:
            why = _why_unwritten(output, self.record)
            if why:
                self.unwritten.append(why)
            else:
                self.written.append(output)
        if self.unwritten and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if not self.config.pluginmanager.has_plugin("terminalreporter"):
            sys.stderr.writelines(f"{printable(line)}\n" for line in self.unwritten)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.record is None:
            return
        from pytest_bnconsistency.reporting import annotations

        for title, lines in self._sections(self.record).items():
            for position, line in enumerate(lines):
                if not position:
                    terminalreporter.section(title)
                terminalreporter.line(printable(line))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in annotations.lines(self.record):
                terminalreporter.line(line)

    def pytest_unconfigure(self) -> None:
        if self.record is not None and not self.stopped:  # pytest gave up its capture by then
            drop_noise(self.config)

    def _sections(self, record: dict[str, Any]) -> dict[str, Iterable[str]]:
        """What the end of a run says, by title."""
        from pytest_bnconsistency.reporting import summary, text

        verbosity = self.config.get_verbosity()
        reports = [f"{output.name} {self._near(output.path)}" for output in self.written]
        ends = summary.lines(record, reports)
        return {
            "bnconsistency: evidence": self._evidence(verbosity),
            "bnconsistency: unusual, and not failed": text.warning_lines(
                (entry["test"], entry) for _, entry in self._entries()
            ),
            "bnconsistency: ignored on purpose": text.ignored_lines(
                [(entry["test"], entry) for _, entry in self._entries()], self._elsewhere()
            ),
            "bnconsistency: models": text.model_lines(self._models()),
            "bnconsistency": [*(ends if verbosity >= 0 else ()), *self.unwritten],
        }

    def _evidence(self, verbosity: int) -> Iterator[str]:
        """What checks that passed rest on, with -v."""
        from pytest_bnconsistency.reporting import text

        for outcome, entry in self._entries() if verbosity >= 1 else ():
            if outcome == "passed" and entry["table"]:
                check = entry["check"]
                yield f"{entry['test']}{'' if entry['test'].endswith(check) else f' {check}'}"
                yield from text.table_lines(entry["table"], verbose=verbosity >= 2)

    def _elsewhere(self) -> set[str]:
        """What the ini file accepts for the whole project, if only a part of it ran."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        given = self.config.getoption("bn_given") or ()
        is_part = (
            self.config.option.file_or_dir
            or any(kind == "model" for kind, _ in given)  # in place of those of the ini file
            or (terminal and terminal.stats.get("deselected"))
            or self.crashed
            or self.stopped
        )
        return self.accepted if is_part else set()

    def _matched_elsewhere(self, entries: Iterable[dict[str, Any]]) -> set[str]:
        """Entries of `ignore` that match a finding of another check, or may do so."""
        ignored = (one for entry in entries for one in entry["ignored"])
        return self._elsewhere().union(*(one["entries"] for one in ignored))

    def _models(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Of each model without a test file, by check: the outcome, and why, if it is no pass."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        models: dict[str, dict[str, tuple[str, str]]] = {}
        for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
            for report in terminal.stats.get(outcome, ()) if terminal else ():
                about = getattr(report, "bn_about", None)
                if about is None or report.when == "teardown":
                    continue
                model, check = about
                models.setdefault(model, {})[check] = outcome, _message(report)
        return models

    def _record(self, session: pytest.Session) -> dict[str, Any]:
        from pytest_bnconsistency.reporting.record import Ending, build

        not_run = [test for test in self.collected if test not in self.finished]
        early = session.shouldfail or session.shouldstop if not_run else ""
        ending = Ending(
            started=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(self.begun)),
            seconds=time.time() - self.begun,
            exit_status=int(session.exitstatus),
            folder=_folder(self.config.rootpath),
            stopped=self.stopped or printable(str(early or "")),
            crashed=self.crashed,
            not_run=not_run,
        )
        entries = [{**entry, "outcome": _outcome(test, entry)} for test, entry in self._entries()]
        matched = self._matched_elsewhere(entries)
        for entry in entries:
            entry["unmatched"] = [one for one in entry["unmatched"] if one not in matched]
        return build(
            entries, [*self._errors(), *self.collection_errors], ending, libraries.versions()
        )

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The results, each with the outcome of its test."""
        for reports in self.tests.values():
            outcome = _outcome_of_test(reports)
            for report in reports:
                for entry in json.loads(getattr(report, "bn_entries", "[]")):
                    yield outcome, entry

    def _errors(self) -> Iterator[dict[str, Any]]:
        for reports in self.tests.values():
            for report in reports:
                error = getattr(report, "bn_error", None)
                if error:
                    path, line, _ = report.location or (report.nodeid, 0, "")
                    place = {"path": path.replace(os.sep, "/"), "line": (line or 0) + 1}
                    yield {**error, "test": report.nodeid, **place}

    def _near(self, path: Path) -> str:
        """A path as the user would write it."""
        with contextlib.suppress(ValueError):
            return str(path.relative_to(self.config.invocation_params.dir))
        return str(path)


def _why_unwritten(output: Output, record: dict[str, Any]) -> str:
    """Write a report; why it can't be written, if so."""
    try:
        output.write(record)
    except (OSError, BNConsistencyError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return f"{output.name} report {output.path} not written: {why}"
    return ""


def _outcome_of_test(reports: Iterable[Reported]) -> str:
    """What the test as a whole came to: the first phase that did not pass says so."""
    for report in reports:
        if hasattr(report, "wasxfail"):
            return "xfailed" if report.skipped else "xpassed"
        if not report.passed:
            return report.outcome
    return "passed"


def _outcome(test: str, entry: dict[str, Any]) -> str:
    """What a check did to its test, which may want that it fails."""
    is_wanted = entry["outcome"] == "fail" and test != "failed"
    return "expected" if is_wanted else str(entry["outcome"])


def _message(report: Reported) -> str:
    """Why a test did not pass, in a line."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ").partition("\n")[0]
    crash = getattr(report.longrepr, "reprcrash", None)
    said = getattr(crash, "message", "") or str(report.longrepr or "")
    lines = [line for line in said.splitlines() if line.strip()]
    if isinstance(report, pytest.CollectReport):
        return lines[-1].removeprefix("E ").strip() if lines else ""
    return lines[0] if lines else ""


def _count_as_error(config: pytest.Config, report: pytest.TestReport) -> None:
    """Misuse is an error in JUnit's file, though it happens while the test runs."""
    from _pytest.junitxml import xml_key  # the only way to it

    xml = config.stash.get(xml_key, None)
    if xml is None:
        return
    with contextlib.suppress(AttributeError, LookupError):  # of a pytest that is built otherwise
        node = xml.node_reporter(report).nodes[-1]
        if node.tag == "failure":
            node.tag = "error"
            xml.stats["failure"] -= 1
            xml.stats["error"] += 1


def _folder(root: Path) -> str:
    """The path of pytest's root in the repository that holds it, "" if it is the same."""
    for parent in (root, *root.parents):
        if (parent / ".git").exists():
            folder = root.relative_to(parent).as_posix()
            return "" if folder == "." else folder
    return ""
