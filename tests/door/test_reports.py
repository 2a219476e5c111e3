"""Reports of whole runs: what is in them, however the run was made and however it ended."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from pytest_bnconsistency import __version__
from pytest_bnconsistency.__main__ import main

TESTS = """
    import pytest
    from pytest_bnconsistency import ConsistencySuite
    from conftest import FakeModel

    def test_fails(bn_check, fake):
        bn_check.all(fake(train_eval_agreement="failed", frozen_stability="vacuous"), rows=5)

    @pytest.mark.parametrize("size", [1, 2, 10])
    @pytest.mark.bnconsistency(steps=3)
    def test_passes(bn_check, fake, size):
        bn_check.batch_invariance(fake())

    @pytest.mark.xfail
    def test_known(bn_check, fake):
        bn_check.batch_invariance(fake(batch_invariance="failed"))

    def test_misuse(bn_check):
        bn_check.batch_invariance("no model")

    @pytest.fixture
    def checked(bn_check, fake):
        bn_check.batch_invariance(fake())

    def test_in_a_fixture(checked):
        pass

    class TestSuite(ConsistencySuite):
        checks = ["frozen_stability"]
        def model(self):
            return FakeModel()

        def test_batch_invariance(self):
            super().test_batch_invariance()

    def test_own():
        pass
"""
MODELS = """
    from conftest import FakeModel

    def leaky():
        return FakeModel(batch_invariance="failed")

    def raising():
        raise ValueError("no weights")
"""
ARGS = ("--bn-model=models:leaky", "--bn-model=models:raising", ".", "--bn-batch-size=7")


@pytest.fixture
def shop(project):
    project.makepyfile(test_shop=TESTS, models=MODELS)
    project.makeini("[pytest]\nbn_max_rows = 99\n")
    return project


def record(project, name="run.json"):
    return json.loads((project.path / name).read_text(encoding="utf-8"))


def without_times(run):
    run["run"].update(started="", seconds=0)
    for model in run["models"]:
        for check in model["checks"]:
            check["seconds"] = 0
    return json.dumps(run)


def test_the_record_of_a_run(shop):
    result = shop.runpytest(*ARGS, "--bn-report=json:run.json")
    result.assert_outcomes(passed=3 + 1 + 2 + 1 + 2, failed=2, errors=2, xfailed=1, skipped=2)
    run = record(shop)
    assert run["run"] | {"started": "", "seconds": 0} == {
        "started": "",
        "seconds": 0,
        "exit_status": 1,
        "complete": True,
        "stopped": "",
        "crashed": [],
        "not_run": [],
        "folder": "",
    }
    assert run["counts"] == {
        "models": 8,
        "checks": 13,
        "passed": 9,
        "failed": 2,
        "vacuous": 1,
        "not applicable": 0,
        "failing": 2,
        "expected": 1,
        "ignored": 0,
        "warnings": 0,
        "errors": 2,
    }
    assert [model["title"] for model in run["models"]] == [
        "models:leaky",
        "test_shop.py::test_fails",
        "test_shop.py::test_passes[1]",
        "test_shop.py::test_passes[2]",
        "test_shop.py::test_passes[10]",
        "test_shop.py::test_known",
        "test_shop.py::test_in_a_fixture",
        "test_shop.py::TestSuite",
    ]
    assert [(error["kind"], error["title"], error["line"]) for error in run["errors"]] == [
        ("error", "models:raising", 6),
        ("misuse", "test_shop.py::test_misuse", 17),
    ]
    leaky, fails, passes = run["models"][:3]
    assert (leaky["path"], leaky["line"], leaky["name"]) == ("models.py", 3, "fake")
    first = leaky["checks"][0]
    assert (first["check"], first["verdict"], first["outcome"]) == (
        "batch_invariance",
        "failed",
        "fail",
    )
    assert first["findings"][0]["rule"] == "BN101"
    assert first["evidence"]["number"] == 0.5
    sources = {name: one["source"] for name, one in fails["checks"][0]["settings"].items()}
    assert (sources["rows"], sources["batch_size"]) == ("call", "command line")
    assert (sources["max_rows"], sources["seed"]) == ("ini", "default")
    assert passes["checks"][0]["settings"]["steps"] == {"value": 3, "source": "marker"}
    assert run["versions"]["pytest"] == pytest.__version__
    result.stdout.fnmatch_lines(
        [
            "=* bnconsistency =*",
            "8 models, 13 checks: 9 passed, 2 failed, 1 inconclusive, 1 failed as expected; "
            "2 errors",
            "reports    json run.json",
        ]
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "args",
    [
        ("-n2", "--dist=loadfile"),
        ("-n0",),
        ("-n2", "--dist=load"),
        ("-n2", "--dist=loadscope"),
        ("-p", "no:cacheprovider"),
        ("--import-mode=importlib", "-p", "no:xdist"),
        ("-p", "no:terminal"),
        ("-W", "error", "--strict-markers", "--strict-config"),
    ],
    ids=" ".join,
)
def test_however_it_runs_the_record_is_the_same(shop, args):
    given = [arg for arg in ARGS if "raising" not in arg]  # each worker tells it, with load
    shop.runpytest(*given, "--bn-report=json:first.json")
    again = shop.runpytest_subprocess(*given, *args, "--bn-report=json:run.json")
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    assert without_times(record(shop)) == without_times(record(shop, "first.json"))


@pytest.mark.thorough
def test_optimised_python_reports_the_same(shop):
    shop.runpytest(*ARGS, "--bn-report=json:first.json")
    command = [sys.executable, "-O", "-m", "pytest", "-W", "ignore", *ARGS]
    subprocess.run([*command, "--bn-report=json:run.json"], cwd=shop.path, capture_output=True)
    assert without_times(record(shop)) == without_times(record(shop, "first.json"))


@pytest.mark.thorough
def test_a_worker_that_dies_is_told(project):
    project.makepyfile(
        """
        import os

        def test_first(bn_check, fake): bn_check.batch_invariance(fake())
        def test_dies(): os._exit(3)
        def test_last(bn_check, fake): bn_check.batch_invariance(fake())
        """
    )
    args = ("-n1", "--max-worker-restart=0", "--bn-report=json:run.json", "--bn-report=md:run.md")
    result = project.runpytest_subprocess(*args)
    assert result.ret != pytest.ExitCode.OK
    run = record(project)
    (crash,) = run["run"]["crashed"]
    assert crash["test"].endswith("::test_dies")
    assert [test.partition("::")[2] for test in run["run"]["not_run"]] == ["test_last"]
    assert not run["run"]["complete"]
    assert [model["title"].partition("::")[2] for model in run["models"]] == ["test_first"]
    assert "**Missing:**" in (project.path / "run.md").read_text(encoding="utf-8")
    result.stdout.fnmatch_lines(["missing *test_dies*", "missing *1 test did not run*test_last"])


STOPPED = """
    import sys, time

    def test_first(bn_check, fake): bn_check.batch_invariance(fake())
    def test_stops():
        sys.modules.setdefault("tensorflow", sys)  # its first words are no news at the end
        {stop}
    def test_last(bn_check, fake): bn_check.batch_invariance(fake())
"""


@pytest.mark.parametrize(
    ("stop", "args", "why", "missing"),
    [
        ("assert 0", ("-x",), "stopping after 1 failures", ["test_last"]),
        ("raise KeyboardInterrupt", (), "KeyboardInterrupt", ["test_last", "test_stops"]),
        ("import pytest; pytest.exit('enough')", (), "Exit: enough", ["test_last", "test_stops"]),
    ],
)
def test_a_run_that_breaks_off_says_what_is_missing(project, stop, args, why, missing):
    project.makepyfile(STOPPED.format(stop=stop))
    run = project.runpytest if args else project.runpytest_subprocess
    done = run(*args, "--bn-report=json:run.json")
    assert done.ret == (pytest.ExitCode.TESTS_FAILED if args else pytest.ExitCode.INTERRUPTED)
    run = record(project)
    assert run["run"]["stopped"].startswith(why)
    assert [test.partition("::")[2] for test in run["run"]["not_run"]] == missing
    assert run["counts"]["passed"] == 1
    assert not run["run"]["complete"]


@pytest.mark.thorough
@pytest.mark.parametrize("args", [(), ("-n1",)], ids=["alone", "n1"])
def test_ctrl_c(project, args):
    stop = "open('begun', 'w'); time.sleep(60)"
    project.makepyfile(STOPPED.format(stop=stop))
    command = [sys.executable, "-m", "pytest", *args, "--bn-report=json:run.json"]
    # A suite that runs in the background of a shell ignores Ctrl-C, and so would what it starts.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, text=True, preexec_fn=heeds
    )
    for _ in range(600):
        if (project.path / "begun").exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    done.send_signal(signal.SIGINT)
    said, _ = done.communicate(timeout=60)
    run = record(project)
    assert run["run"]["stopped"] == "KeyboardInterrupt"
    assert run["counts"]["passed"] == 1
    assert len(run["run"]["not_run"]) == 2
    assert "the run was stopped: KeyboardInterrupt" in said


PASSING = "def test_it(bn_check, fake): bn_check.batch_invariance(fake())"


@pytest.mark.parametrize("path", ["file/run.json", "folder", "/dev/full"])
def test_a_report_that_cannot_be_written_is_one_sentence(project, path, capsys):
    if path == "/dev/full" and not os.path.exists(path):
        pytest.skip("this system has no full device")
    (project.path / "file").write_text("", encoding="utf-8")
    (project.path / "folder").mkdir()
    project.makepyfile(PASSING)
    result = project.runpytest(f"--bn-report=md:{path}", "--bn-report=json:good.json")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["reports    json good.json", f"md report *{path} not written: *"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert main(["report", "good.json", f"md:{path}"]) == 2
    assert re.fullmatch(rf"md report .*{path} not written: .*\n", capsys.readouterr().err)
    assert not list(project.path.rglob("*.tmp"))


@pytest.mark.thorough
def test_without_a_terminal_the_sentence_is_still_told(project):
    project.makepyfile(PASSING)
    (project.path / "file").write_text("", encoding="utf-8")
    args = ("-p", "no:terminal", "--bn-report=json:file/run.json")
    result = project.runpytest_subprocess(*args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = "json report *file/run.json not written: file is a file, not a folder"
    result.stderr.fnmatch_lines([said])


def test_a_report_replaces_the_last_one_and_makes_its_folder(project):
    project.makepyfile(PASSING)
    for _ in range(2):
        project.runpytest("--bn-report=json:out/deep/run.json")
    assert record(project, "out/deep/run.json")["counts"]["passed"] == 1
    assert [path.name for path in (project.path / "out/deep").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bn-report=pdf:x"], "--bn-report is 'pdf:x'; expected FORMAT:PATH with a format of *"),
        (["--bn-report=run.json"], "--bn-report is 'run.json'; expected FORMAT:PATH *"),
        (["--bn-report=json:"], "--bn-report is 'json:'; expected FORMAT:PATH *"),
        (["--bn-report=json:$NOT_SET_HERE/x"], "*, and no such variable is set; give a path"),
        (
            ["--bn-report=json:a", "--bn-report=md:./a"],
            "--bn-report names './a' twice; expected a path for each report",
        ),
        (["-o", "bn_report=pdf:x"], "bn_report is 'pdf:x'; expected FORMAT:PATH *"),
    ],
)
def test_a_bad_report_is_one_sentence(pytester, args, message):
    result = pytester.runpytest(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert len([line for line in result.errlines if line]) == 1


TABLES = {
    "list": "[tool.pytest]\nbn_report = ['json:run.json', 'md:run.md']",
    "ini options": "[tool.pytest.ini_options]\nbn_report = ['json:run.json', 'md:run.md']",
    "string": "[tool.pytest]\nbn_report = 'json:run.json'",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_reports_in_the_ini_file(project, table):
    if "[tool.pytest]" in table and pytest.version_tuple < (9,):
        pytest.skip("this pytest has no native table")
    project.makepyfile(PASSING)
    project.makepyprojecttoml(table)
    project.runpytest("--strict-config").assert_outcomes(passed=1)
    assert (project.path / "run.json").exists()
    assert (project.path / "run.md").exists() == ("run.md" in table)
    (project.path / "run.json").unlink()
    project.runpytest("--bn-report=md:other.md")
    assert not (project.path / "run.json").exists()


def test_a_step_summary_is_added_to(project, monkeypatch):
    project.makepyfile(PASSING)
    (project.path / "summary").write_text("# Earlier\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary"))
    project.runpytest("--bn-report=md:$GITHUB_STEP_SUMMARY").assert_outcomes(passed=1)
    said = (project.path / "summary").read_text(encoding="utf-8")
    assert said.startswith("# Earlier\n### Normalization consistency: passed")


@pytest.mark.parametrize("where", ["true", "false", None])
def test_github_shows_failures_on_lines(shop, monkeypatch, where):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    if where:
        monkeypatch.setenv("GITHUB_ACTIONS", where)
    (shop.path / ".git").mkdir()
    (shop.path / "sub").mkdir()
    result = shop.runpytest(*ARGS)
    commands = [line for line in result.outlines if line.startswith("::")]
    if where != "true":
        assert not commands
        return
    assert [command.partition(",title")[0] for command in commands] == [
        "::error file=models.py,line=3",
        "::error file=test_shop.py,line=5",
        "::error file=models.py,line=6",
        "::error file=test_shop.py,line=17",
    ]
    assert "BN101 fake-leak::batch_invariance is off by 7%0Alayer: dense" in commands[0]


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_junit_has_flat_properties_and_tells_misuse_from_violations(shop, family):
    shop.runpytest(*ARGS, "--junitxml=junit.xml", "-o", f"junit_family={family}", "-Werror")
    (suite,) = ET.parse(shop.path / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("2", "2")
    cases = {case.get("name"): case for case in suite}
    assert [child.tag for child in cases["test_misuse"]] == ["error"]
    assert {child.tag for child in cases["test_fails"]} == {"properties", "failure"}
    pairs = [(p.get("name"), p.get("value")) for p in cases["test_fails"].iter("property")]
    assert pairs == [
        ("bn.check", "batch_invariance"),
        ("bn.verdict", "passed"),
        ("bn.check", "train_eval_agreement"),
        ("bn.verdict", "failed"),
        ("bn.rule", "BN101"),
        ("bn.layer", "dense"),
        ("bn.check", "frozen_stability"),
        ("bn.verdict", "vacuous"),
    ]


def test_a_test_that_runs_again_counts_once(project):
    """As plugins that repeat failed tests have it: several reports of one test."""
    again = """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
                runtestprotocol(item, nextitem=nextitem, log=True)
            return True
    """
    project.makepyfile(test_it=PASSING, again=again)
    project.syspathinsert()
    project.runpytest("-p", "again", "--bn-report=json:run.json")
    assert record(project)["counts"]["checks"] == 1


def test_a_failure_stays_in_the_reports_whatever_has_the_same_id(project):
    """As where a file is given twice, and fails the first time only."""
    first = """
        import pytest

        RUNS = []

        def test_it(bn_check, fake):
            RUNS.append(1)
            said = "failed" if len(RUNS) == 1 else "passed"
            bn_check.batch_invariance(fake(batch_invariance=said))
    """
    project.makepyfile(test_it=first)
    args = "test_it.py", "test_it.py", "--keep-duplicates", "--bn-report=json:run.json"
    project.runpytest(*args).assert_outcomes(passed=1, failed=1)
    assert record(project)["counts"]["failed"] == 1


def test_unused_it_says_and_writes_nothing(pytester):
    pytester.makepyfile("def test_it(): pass")
    bare = pytester.runpytest("-p", "no:bnconsistency").outlines
    lines = pytester.runpytest().outlines
    assert not any("bnconsistency" in line for line in lines if not line.startswith("plugins"))
    assert len(lines) - len(bare) in (0, 1)


def test_a_report_of_a_run_without_checks_is_empty(pytester):
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest("--bn-report=json:run.json", "--bn-report=md:run.md")
    assert record(pytester)["models"] == []


def test_what_was_not_collected_is_told(project):
    project.makepyfile(test_a=PASSING, test_b="import nothing_of_this_name")
    project.runpytest("--continue-on-collection-errors", "--bn-report=json:run.json")
    run = record(project)
    assert not run["run"]["complete"]
    (error,) = run["errors"]
    assert (error["kind"], error["path"]) == ("collection", "test_b.py")
    assert "nothing_of_this_name" in error["message"]


def convert(project, *args):
    command = [sys.executable, "-m", "pytest_bnconsistency", *args]
    return subprocess.run(command, cwd=project.path, capture_output=True, text=True)


@pytest.mark.thorough
def test_other_reports_are_made_of_a_json(shop):
    formats = ("json", "md", "sarif", "gitlab")
    shop.runpytest(*ARGS, *(f"--bn-report={name}:run.{name}" for name in formats))
    done = convert(shop, "report", "run.json", *(f"{name}:again.{name}" for name in formats))
    assert (done.returncode, done.stderr) == (0, "")
    for name in formats:
        again = (shop.path / f"again.{name}").read_bytes()
        assert again == (shop.path / f"run.{name}").read_bytes()


def test_help_and_version_are_answers(capsys):
    assert [main(["--help"]), main(["--version"])] == [0, 0]
    usage, formats, version = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: python -m pytest_bnconsistency report RUN.json FORMAT:PATH")
    assert (formats[:8], version) == ("formats:", __version__)


@pytest.mark.thorough
def test_a_bad_conversion_is_one_sentence(pytester):
    (pytester.path / "other.json").write_text("[]", encoding="utf-8")
    keys = ("versions", "run", "counts", "models", "errors")
    newer = {"schema_version": 9} | {key: {} for key in keys}
    (pytester.path / "newer.bn").write_text(json.dumps(newer), encoding="utf-8")
    damaged = newer | {"schema_version": 1}
    (pytester.path / "damaged.bn").write_text(json.dumps(damaged), encoding="utf-8")
    for args, message in [
        ((), "expected: python -m pytest_bnconsistency report RUN.json FORMAT:PATH ..."),
        (("report", "no.json", "md:x"), "no.json' can't be read: "),
        (("report", "other.json", "md:x"), "holds no report of this plugin"),
        (("report", "damaged.bn", "md:x"), "'damaged.bn' is damaged; expected what"),
        (("report", "newer.bn", "md:x"), "is of schema version 9, and this plugin reads 1; "),
        (("report", "other.json", "pdf:x"), "'pdf:x'; expected FORMAT:PATH"),
    ]:
        done = convert(pytester, *args)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
