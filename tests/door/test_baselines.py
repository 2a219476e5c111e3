"""Baselines at pytest's side: where they lie, who writes them, and what is told of them."""

import json
from pathlib import Path

import pytest

import pytest_bnconsistency.checks.baseline.check  # noqa: F401 - inner runs share it with us

HERE = Path(__file__).parent
FAKES = ("fake_checks.py", "fake_baselines.py")
KEPT = '\nMORE["baseline"] = registry.CHECKS["baseline"]\n'
TEST = """
from conftest import FakeModel

def test_net(bn_baseline):
    bn_baseline(FakeModel({}))
"""
UPDATE = "--bn-update-baseline"
MODELS = """
from conftest import FakeModel

def net():
    return FakeModel()
"""


@pytest.fixture
def project(project, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    (project.path / "conftest.py").write_text(
        "\n\n".join((HERE / name).read_text(encoding="utf-8") for name in FAKES) + KEPT,
        encoding="utf-8",
    )
    return project


def put(project, facts="", name="test_net"):
    project.makepyfile(**{name: TEST.format(facts)})


def baselines(project):
    return {
        path.relative_to(project.path).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(project.path.glob("[!.]*/*.json"))
    }


def test_a_missing_one_is_an_error_that_says_how_to_record_it(project):
    put(project)
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *test_net.py::test_net has no baseline: there is no file "
            "bn-baseline/test_net.test_net.json; record it with pytest --bn-update-baseline=new*"
        ]
    )
    assert not baselines(project)


def test_it_is_recorded_compared_and_recorded_anew(project):
    put(project)
    result = project.runpytest(f"{UPDATE}=new")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["bn-baseline/test_net.test_net.json: new, * lines"])
    project.runpytest().assert_outcomes(passed=1)
    before = baselines(project)

    put(project, "facts={'momentum': 0.9}")
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *BN701 inventory-changed: bn: momentum is 0.9, was 0.99"])
    project.runpytest(f"{UPDATE}=new").assert_outcomes(failed=1)
    assert baselines(project) == before

    result = project.runpytest(UPDATE, "test_net.py")  # the path is no value of the option
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["  -inventory bn: momentum 0.99", "  +inventory bn: momentum 0.9"]
    )
    project.runpytest().assert_outcomes(passed=1)
    assert baselines(project) != before


def test_two_models_of_one_test_need_a_name_each(project):
    def two(first, second, names=("", "")):
        calls = [
            f"    bn_baseline(FakeModel(facts={{'momentum': {momentum}}}){name})"
            for momentum, name in zip((first, second), names, strict=True)
        ]
        head = TEST.rpartition("    bn_baseline")[0].replace("test_net", "test_two")
        project.makepyfile(test_net=head + "\n".join(calls))

    told = "E *two models of test_net.py::test_two record unlike facts in one baseline, *"
    two(0.9, 0.5)
    result = project.runpytest(f"{UPDATE}=new")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([told])
    two(0.9, 0.9)
    project.runpytest(f"{UPDATE}=new").assert_outcomes(passed=1)
    before = baselines(project)
    two(0.9, 0.5)  # the first one is as the file says
    result = project.runpytest(UPDATE)
    result.stdout.fnmatch_lines([told])
    two(0.9, 0.5, (", baseline_name='first'", ", baseline_name='second'"))
    project.runpytest(f"{UPDATE}=new").assert_outcomes(passed=1)
    project.runpytest().assert_outcomes(passed=1)
    assert baselines(project).items() > before.items()


def test_a_check_that_sees_less_and_a_new_warning(project):
    put(project)
    project.runpytest(UPDATE)
    put(project, "train_eval_agreement='vacuous', frozen_stability='failed'")
    result = project.runpytest("-vv")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *BN704 check-sees-less: train_eval_agreement: verdict is inconclusive, was passed",
            "E *BN705 new-warning: dense: BN101 rows-mix is a finding, was none",
        ]
    )
    put(project, "train_eval_agreement='vacuous'")
    project.runpytest(UPDATE)
    put(project)
    result = project.runpytest()
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [["-n0"], ["-n2"]])
def test_other_weights_that_nobody_asked_for_are_told_at_the_end(project, workers):
    pytest.importorskip("xdist")
    put(project, "weights={'size': 1.0}")
    project.runpytest(UPDATE)
    told = "bn-baseline/test_net.test_net.json: the weights are others, so that*not compared*"
    result = project.runpytest(*workers)
    result.stdout.no_fnmatch_line(told)
    put(project, "weights={'size': 2.0}")
    result = project.runpytest(*workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([told])
    put(project, "weights={'size': 2.0}), weights=('retrained'")
    result = project.runpytest(*workers)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line(told)


def test_under_ci_it_is_recorded_only_if_asked_twice(project, monkeypatch):
    monkeypatch.setenv("CI", "true")
    put(project)
    result = project.runpytest(UPDATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*under CI=true would record what nobody has looked at*"])
    assert not baselines(project)
    project.runpytest(UPDATE, UPDATE).assert_outcomes(passed=1)
    assert baselines(project)


def test_another_value_is_refused(project):
    result = project.runpytest(f"{UPDATE}=all")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize("workers", [["-n0"], ["-n2"]])
def test_workers_hand_over_and_one_process_writes(project, workers):
    pytest.importorskip("xdist")
    for number in range(4):
        put(project, f"facts={{'momentum': 0.{number}}}", f"test_{number}")
    result = project.runpytest(*workers, UPDATE)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["bn-baseline/test_3.test_net.json: new, * lines"])
    assert list(baselines(project)) == [
        f"bn-baseline/test_{number}.test_net.json" for number in range(4)
    ]
    project.runpytest(*workers).assert_outcomes(passed=4)


def test_two_tests_never_write_one_file(project):
    for momentum in (0.9, 0.8):
        code = TEST.format(f"facts={{'momentum': {momentum}}}")
        code = code.replace("test_net", f"test_{momentum}".replace(".", "_"))
        named = code.replace("))\n", "), baseline_name='net')\n")
        project.makepyfile(**{f"test_{str(momentum)[-1]}": named})
    result = project.runpytest(UPDATE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["bn-baseline/net.json not written: *record unlike facts in it*"])
    assert not baselines(project)


def test_one_that_no_test_compares_is_told_and_deleted_on_request(project):
    put(project)
    put(project, name="test_old")
    project.runpytest(UPDATE)
    (project.path / "test_old.py").unlink()
    (project.path / "bn-baseline" / "notes.json").write_text("{}", encoding="utf-8")
    unused = "bn-baseline/test_old.test_net.json"
    result = project.runpytest("--bn-baseline-prune", "test_net.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--bn-baseline-prune deleted nothing: some tests did not run*"])
    result = project.runpytest()
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"{unused}: no test compares it; --bn-baseline-prune deletes it"])
    result = project.runpytest("--bn-baseline-prune")
    result.stdout.fnmatch_lines([f"{unused} deleted: no test compares it"])
    assert list(baselines(project)) == [
        "bn-baseline/notes.json",
        "bn-baseline/test_net.test_net.json",
    ]
    assert project.runpytest().stdout.str().count("no test compares") == 0


def test_one_with_a_name_that_no_file_may_have_is_told(project):
    put(project)
    project.makepyfile(test_old=TEST.format("").replace("test_net", "test_" + "net" * 100))
    project.runpytest(UPDATE).assert_outcomes(passed=2)
    (project.path / "test_old.py").unlink()
    result = project.runpytest()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["bn-baseline/test_old.test_netnet*.json: no test compares it; *"])


@pytest.mark.parametrize(
    "words",
    [
        ["--collect-only"],
        ["--setup-plan"],
        ["--fixtures"],
        ["--ignore", "test_old.py"],
        ["--ignore-glob", "*old.py"],
        ["--deselect", "test_old.py"],
        ["-k", "net and not old"],
        ["-n", "1", "-k", "not old"],
        ["-n", "1", "--deselect", "test_old.py"],
        ["--bn-model", "models:net"],
    ],
    ids=" ".join,
)
def test_a_run_of_some_tests_deletes_nothing(project, words):
    project.makepyfile(models=MODELS)
    put(project)
    put(project, name="test_old")
    project.runpytest(UPDATE)
    before = baselines(project)
    assert len(before) == 2
    result = project.runpytest(*words)
    result.stdout.no_fnmatch_line("*no test compares it*")
    result = project.runpytest(*words, "--bn-baseline-prune")
    result.stdout.fnmatch_lines(["--bn-baseline-prune deleted nothing: *"])
    assert baselines(project) == before


def test_a_run_of_a_folder_deletes_nothing(project, monkeypatch):
    put(project)
    project.runpytest(UPDATE)
    before = baselines(project)
    project.makeini("[pytest]\n")
    folder = project.mkdir("more")
    (folder / "test_more.py").write_text("def test_more():\n    pass\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    result = project.runpytest("--bn-baseline-prune")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["--bn-baseline-prune deleted nothing: *"])
    assert baselines(project) == before


def test_the_baseline_of_a_model_that_a_command_line_names_stays(project):
    project.makepyfile(models=MODELS)
    put(project)
    words = ["--bn-model", "models:net", "--bn-check", "baseline"]
    project.runpytest(*words, UPDATE).assert_outcomes(passed=1)
    project.runpytest(UPDATE)
    before = baselines(project)
    assert list(before) == ["bn-baseline/models.net.json", "bn-baseline/test_net.test_net.json"]
    result = project.runpytest("--bn-baseline-prune")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*no test compares it*")
    assert baselines(project) == before


def test_a_damaged_file_is_an_error_and_is_not_written_over(project):
    put(project)
    project.runpytest(UPDATE)
    (path,) = (project.path / "bn-baseline").iterdir()
    path.write_text(path.read_text().replace("0.99", "0.98"), encoding="utf-8")
    before = baselines(project)
    for option in ([], [UPDATE]):
        result = project.runpytest(*option)
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["E *line *: it is the checksum of other facts*"])
    assert baselines(project) == before


OPTIONS = """
import pytest
from conftest import FakeModel

@pytest.mark.bnconsistency(baseline_dir="of the marker")
def test_net(bn_baseline):
    bn_baseline(FakeModel(){})
"""


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("call", "marked", "line", "ini", "folder"),
    [
        (", baseline_dir='of the call'", True, True, True, "of the call"),
        ("", True, True, True, "of the marker"),
        ("", False, True, True, "of the line"),
        ("", False, False, True, "of the ini"),
        ("", False, False, False, "bn-baseline"),
    ],
)
def test_options_have_the_usual_precedence(project, call, marked, line, ini, folder):
    code = OPTIONS.format(call)
    if not marked:
        code = "\n".join(line for line in code.splitlines() if not line.startswith("@"))
    project.makepyfile(test_it=code)
    if ini:
        project.makeini("[pytest]\nbn_baseline_dir = of the ini\n")
    words = ["--bn-baseline-dir", "of the line"] if line else []
    project.runpytest(UPDATE, *words).assert_outcomes(passed=1)
    assert [Path(path).parent.name for path in baselines(project)] == [folder]


SUITE = """
from conftest import FakeModel
from pytest_bnconsistency import ConsistencySuite

class TestNet(ConsistencySuite):
    def model(self):
        return FakeModel()
"""


def test_models_without_a_test_file(project):
    project.makepyfile(models=MODELS)
    words = ["--bn-model", "models:net"]
    project.runpytest(*words).assert_outcomes(passed=3)
    asked = [*words, "--bn-check", "baseline"]
    project.runpytest(*asked).assert_outcomes(errors=1)
    result = project.runpytest(*asked, f"{UPDATE}=new")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["bn-baseline/models.net.json: new*"])
    verdicts = json.loads(baselines(project)["bn-baseline/models.net.json"])["verdicts"]
    assert {block["name"] for block in verdicts} == {
        "batch_invariance",
        "train_eval_agreement",
        "frozen_stability",
    }
    project.makeini("[pytest]\nbn_baseline = true\n")
    result = project.runpytest(*words, "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*::net::baseline PASSED*"])


def test_a_suite_has_a_test_of_it_on_request(project):
    project.makepyfile(test_suite=SUITE)
    project.runpytest().assert_outcomes(passed=3)
    result = project.runpytest("--bn-baseline", "true", UPDATE)
    result.assert_outcomes(passed=4)
    assert list(baselines(project)) == ["bn-baseline/test_suite.TestNet.json"]
    named = SUITE.replace("    def model", "    checks = ['baseline']\n\n    def model")
    project.makepyfile(test_suite=named)
    project.runpytest().assert_outcomes(passed=1)
