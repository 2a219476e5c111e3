"""The door: options, marker, fixture and hooks. Every pytest session loads it, so it is light."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import types
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from pytest_bnconsistency import baseline_recorder, ini, run_recorder, settings
from pytest_bnconsistency.context import Door, Progress, door
from pytest_bnconsistency.errors import BNConsistencyError, ConsistencyFailure, OptionError
from pytest_bnconsistency.ini import LAYERS, MARKER
from pytest_bnconsistency.settings import Layer
from pytest_bnconsistency.shared_models import Skip
from pytest_bnconsistency.words import first_line, printable

if TYPE_CHECKING:
    from pytest_bnconsistency.assertions import BnCheck
    from pytest_bnconsistency.results import CheckResult

ExceptionInfo: TypeAlias = pytest.ExceptionInfo[BaseException]

OUTCOMES = pytest.StashKey[dict[str, dict[str, None]]]()
"""What came of the checks in a test: the outcomes, each with what was said of it, once."""
ENTRIES = pytest.StashKey[list[dict[str, Any]]]()
"""The results of a test as the record holds them, until a report takes them along."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(MARKER, "bnconsistency: checks of how a model normalizes")
    for name, option in settings.FIELDS.items():
        text = option.metadata["help"]
        if option.default is not None:
            text += f" (default: {str(option.default).lower()})"
        often: Any = {"action": "append"} if "lines" in option.metadata else {}
        group.addoption(_flag(name), dest=f"bn_{name}", metavar="VALUE", help=text, **often)
        parser.addini(f"bn_{name}", text, default=None)
    for name, metavar, text in ini.OPTIONS:
        # Which data belongs to which model is told by their order.
        dest, kind = ("bn_given", _kind(name)) if name != "check" else ("bn_check", str)
        group.addoption(
            _flag(name), dest=dest, type=kind, action="append", metavar=metavar, help=text
        )
        parser.addini(f"bn_{name}", text, type="linelist", default=None)
    parser.addini("bn_checks", ini.OPTIONS[-1][-1], type="linelist", default=None)
    group.addoption("--bn-explain", nargs="?", const="all", metavar="RULE", help=ini.EXPLAIN_HELP)
    group.addoption(
        "--bn-checks", dest="bn_list_checks", action="store_true", help=ini.CHECKS_HELP
    )
    report, metavar, text = ini.REPORT
    group.addoption(_flag(report), action="append", metavar=metavar, help=text)
    parser.addini(f"bn_{report}", text, type="linelist", default=None)
    baseline_recorder.add_options(group)
    trust, text = ini.TRUST, ini.TRUST_HELP
    group.addoption(_flag(trust), dest=f"bn_{trust}", action="store_true", help=text)
    parser.addini(f"bn_{trust}", text, default=None)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """What is asked of the plugin itself is answered without a test run."""
    rule = config.getoption("bn_explain")
    if rule is None and not config.getoption("bn_list_checks"):
        return None
    from pytest_bnconsistency import help_pages

    try:
        answer = help_pages.checks() if rule is None else help_pages.explanation(rule)
    except OptionError as error:
        run_recorder.drop_noise(config)
        raise pytest.UsageError(f"--bn-explain: {error}") from None
    sys.stdout.write(answer)
    run_recorder.drop_noise(config)
    return 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(option=value, ...): options of the checks in this test, without their prefix: "
        f"{', '.join(settings.FIELDS)}",
    )
    config.stash[LAYERS] = Layer("command line", {}), Layer("ini", {})
    try:
        config.stash[LAYERS] = (
            _layer("command line", _flag, lambda name: config.getoption(f"bn_{name}")),
            _layer("ini", "bn_{}".format, lambda name: ini.value(config, name)),
        )
        run_recorder.register(config, config.stash[LAYERS][1].get("ignore") or ())
        baseline_recorder.register(config)
        ini.trusts_files(config)  # a wrong value is told, whatever models there are
        if ini.names_models(config):
            from pytest_bnconsistency import model_collector as zero_code

            zero_code.register(config, settings.resolve(*config.stash[LAYERS]).baseline)
    except BNConsistencyError as error:
        if config.getoption("help") or config.getoption("markers"):
            return  # which help to correct it
        run_recorder.drop_noise(config)
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Any:
    suites = sys.modules.get("pytest_bnconsistency.suite")
    return suites.collected(collector, name, obj) if suites else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    def record(result: CheckResult, outcome: str) -> None:
        item.stash[ENTRIES].append(_entry(item, result, outcome))
        item.user_properties.extend(_properties(result))
        said = printable("; ".join(part for part in (result.summary, result.hint) if part))
        item.stash[OUTCOMES].setdefault(outcome, {})[said] = None

    marks = tuple(Layer("marker", mark.kwargs) for mark in item.iter_markers(MARKER))
    item.stash[ENTRIES] = []
    around = Door(
        options=(*marks, *item.config.stash[LAYERS]),
        record=record,
        progress=_Progress(item.config),
        verbose=item.config.getoption("verbose", 0) >= 2,
        reproduce=_reproduce(item),
        reports=bool(item.config.getoption("bn_report") or ini.words(item.config, "report")),
        baselines=baseline_recorder.baselines_of(item),
    )
    token = door.set(around)
    try:
        return (yield)
    finally:
        door.reset(token)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[OUTCOMES] = {}
    for mark in item.iter_markers(MARKER):
        if mark.args:
            raise OptionError(
                f"@pytest.mark.{MARKER} was given {mark.args[0]!r} without a name; expected "
                f"options by name: @pytest.mark.{MARKER}(rows=16)"
            )
        settings.resolve(mark.kwargs)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test is skipped at its end, if its checks had nothing to say: what it asserts counts."""
    result = yield
    outcomes = item.stash[OUTCOMES]
    if outcomes.keys() == {"skip"}:
        raise Skip("; ".join(outcomes["skip"]))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.bn_about = getattr(item, "bn_about", None)  # type: ignore[attr-defined]
    baseline_recorder.hand_over(item, report)
    if item.stash[ENTRIES]:
        # As text: names in it may hold what does not pass between processes otherwise.
        report.bn_entries = json.dumps(item.stash[ENTRIES])  # type: ignore[attr-defined]
        item.stash[ENTRIES] = []
    if call.excinfo is not None:
        _report(item, call.excinfo, report)
    return report


def _report(item: pytest.Item, excinfo: ExceptionInfo, report: pytest.TestReport) -> None:
    """Put into `report` what the checks in a test raised, as its user should read it."""
    error = excinfo.value
    if isinstance(error, Skip) and isinstance(report.longrepr, tuple):
        report.longrepr = (*_place(item), f"Skipped: {error}")
    if not report.failed:
        return
    if isinstance(error, (BNConsistencyError, ConsistencyFailure)):
        report.longrepr = _text(item, excinfo)
        report.sections = list(_without_noise(report.sections))
    elif hasattr(item, "bn_arguments"):
        report.longrepr = item.repr_failure(excinfo)  # in each phase
    report.bn_error = _error(item, excinfo)  # type: ignore[attr-defined]


def _error(item: pytest.Item, excinfo: ExceptionInfo) -> dict[str, str] | None:
    """What kept a check from running, if that is so: one that failed did run."""
    error, said = excinfo.value, first_line(excinfo.value)
    title = getattr(item, "bn_title", item.nodeid)
    if isinstance(error, BNConsistencyError):
        return {"kind": "misuse", "title": title, "message": said}
    if isinstance(error, ConsistencyFailure) or not hasattr(item, "bn_is_check"):
        return None
    return {"kind": "error", "title": title, "message": f"{excinfo.typename}: {said}"}


def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, str] | None:
    # What kept a check from running, in a test's body as well, is no property that fails to hold.
    if report.failed and getattr(report, "bn_error", None):
        return "error", "E", "ERROR"
    return None


@pytest.fixture(scope="session")
def bn_check() -> BnCheck:
    """The checks as methods: `bn_check.batch_invariance(model)`, ..., `bn_check.all(model)`."""
    from pytest_bnconsistency.assertions import BnCheck

    return BnCheck()


@pytest.fixture(scope="session")
def bn_baseline() -> Callable[..., CheckResult]:
    """Compare a model with its baseline: `bn_baseline(model, x, y)`; the test gives the name."""
    from pytest_bnconsistency.assertions import bn_baseline

    return bn_baseline


class _Progress(Progress):
    """What a check is doing, past pytest's capture and on terminals only."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")
        self._capture = config.pluginmanager.get_plugin("capturemanager")

    def log(self, line: str) -> None:
        """The terminal tells; a test's log is for what the test says."""

    def show(self, line: str) -> None:
        if self._terminal is None or self._capture is None or not self._terminal.isatty:
            return
        with self._capture.global_and_fixture_disabled():
            width = shutil.get_terminal_size().columns - 1
            self._terminal.ensure_newline()  # what pytest wrote there stays
            self._terminal.flush()
            # Beside pytest, which reckons how much of a line it has written.
            sys.stdout.write(f"\r{line[:width]:{width}}\r")
            sys.stdout.flush()


def _flag(name: str) -> str:
    return f"--bn-{name.replace('_', '-')}"


def _kind(name: str) -> Callable[[str], tuple[str, str]]:
    return lambda spec: (name, spec)


def _without_noise(sections: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What was captured, but for what TensorFlow says as it starts."""
    from pytest_bnconsistency.reporting.startup_noise import without_noise

    for title, captured in sections:
        said = without_noise(captured)
        if said.strip() or said == captured:
            yield title, said


def _entry(item: pytest.Item, result: CheckResult, outcome: str) -> dict[str, Any]:
    from pytest_bnconsistency.reporting.record import Place, check_entry

    place = Place(
        title=getattr(item, "bn_title", item.nodeid),
        test=item.nodeid,
        path=item.location[0].replace(os.sep, "/"),
        line=(item.location[1] or 0) + 1,
        reproduce=_reproduce(item),
        shared=getattr(item, "bn_shared", False),
    )
    return check_entry(result, outcome, place)


def _properties(result: CheckResult) -> Iterator[tuple[str, str]]:
    """The result in pairs, for JUnit's and other reports of pytest's."""
    yield "bn.check", printable(result.check)
    yield "bn.verdict", result.verdict.value
    for finding in result.findings:
        yield "bn.rule", printable(finding.rule)
        yield "bn.layer", printable(finding.layer)


def _layer(source: str, spell: Callable[[str], str], read: Callable[[str], Any]) -> Layer:
    """The options that one source gives, parsed; `spell` is how that source writes a name."""
    given = {name: read(name) for name in settings.FIELDS}
    layer = {}
    for name, value in given.items():
        if value is None:
            continue
        try:
            layer[name] = settings.parse(name, value)
            if name == "replay":
                from pytest_bnconsistency.data.recipes import Recipe

                Recipe.parse(value)  # which the settings know nothing of
        except BNConsistencyError as error:
            raise OptionError(f"{spell(name)}: {error}") from None
    return Layer(source, layer)


def _reproduce(item: pytest.Item) -> str:
    """The command that runs `item` again, from the folder in which the user stands."""
    config = item.config
    command_line, _ = config.stash[LAYERS]
    words = list[str]()
    for name, value in command_line.items():
        for given in str(value).splitlines():
            words += [f"{_flag(name)}={given}"] if given.startswith("-") else [_flag(name), given]
    words += item.bn_arguments() if hasattr(item, "bn_arguments") else []
    for flag, given in (("-c", config.option.inifilename), ("--rootdir", config.option.rootdir)):
        words += [flag, str(given)] if given else []
    for override in config.option.override_ini or ():
        words += ["-o", override] if override.startswith("bn_") else []
    return " ".join([_program(config), _node(item), *map(shlex.quote, words)])


def _program(config: pytest.Config) -> str:
    """What the user started: `python -m pytest` puts the current folder on the path."""
    started = getattr(config, "workerinput", {}).get("mainargv", sys.argv)
    is_module = Path(*started[:1]).parts[-2:] == ("pytest", "__main__.py")
    return "python -m pytest" if is_module else "pytest"


def _node(item: pytest.Item) -> str:
    """The node id from here on, quoted for a shell; Windows knows double quotes only."""
    place, colons, rest = str(item.nodeid).partition("::")
    here = item.config.invocation_params.dir
    with contextlib.suppress(ValueError):  # of another drive, to which there is no way from here
        place = Path(os.path.relpath(item.config.rootpath / place, here)).as_posix()
    node = f"{place}{colons}{rest}"
    return shlex.quote(node) if set(node) & set('"$`\\!') else f'"{node}"'


def _text(item: pytest.Item, excinfo: ExceptionInfo) -> Any:
    """The error's own text below the user's line, without our frames and the name of its class."""
    users = _users_part(excinfo)
    if users is not None:
        shown: Any = item.repr_failure(users)
    else:
        shown = excinfo.getrepr(style="value")
        shown.reprcrash.path, shown.reprcrash.lineno = _place(item)
    if hasattr(shown, "chain"):
        shown.chain = shown.chain[-1:]
    if hasattr(shown, "reprcrash"):
        name = f"{excinfo.type.__module__}.{excinfo.type.__qualname__}: "
        for entry in shown.reprtraceback.reprentries:
            entry.lines = [line.replace(name, "", 1) for line in entry.lines]
            entry.reprfuncargs = None  # arrays, for the most part
        shown.reprcrash.message = str(excinfo.value)
    return shown


def _place(item: pytest.Item) -> tuple[str, int]:
    """Where a test is written, for what has no line of its own."""
    path, line, _ = item.reportinfo()
    return os.fspath(path), (line or 0) + 1


def _users_part(excinfo: ExceptionInfo) -> ExceptionInfo | None:
    """The same error, raised by the user's line that called us; None if pytest called us."""
    calls: list[types.TracebackType] = []
    ended = False
    entry: types.TracebackType | None = excinfo.tb
    while entry is not None:
        package = _package(entry)
        if package in ("_pytest", "pluggy"):
            calls, ended = [], False
        elif package == __package__ or ended:
            ended = True
        else:
            calls.append(entry)
        entry = entry.tb_next
    cut = None
    for entry in reversed(calls):
        cut = types.TracebackType(cut, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return cut and pytest.ExceptionInfo.from_exc_info((excinfo.type, excinfo.value, cut))


def _package(entry: types.TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
