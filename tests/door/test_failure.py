"""What a person sees of a failure and of misuse."""

import json
import subprocess
import sys

import pytest

FAILING = """
    def helper(bn_check, model):
        bn_check.batch_invariance(model)

    def test_it(bn_check, fake):
        helper(bn_check, fake(batch_invariance="failed"))
"""


@pytest.mark.parametrize("style", ["auto", "long", "short"])
def test_a_failure_shows_its_text_and_the_users_line(project, style):
    project.makepyfile(FAILING)
    result = project.runpytest("-rf", f"--tb={style}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*bn_check.batch_invariance(model)*",
            "E * BN101 fake-leak: batch_invariance is off by 7",
            'E * reproduce  python -m pytest "test_a_failure_shows_its_*_users_line.py::test_it"',
            "FAILED *::test_it - BN101 fake-leak: batch_invariance is off by 7",
        ]
    )
    result.stdout.no_fnmatch_line("*assertions.py*")
    result.stdout.no_fnmatch_line("*ConsistencyFailure: *")


@pytest.mark.parametrize("style", ["line", "native", "no"])
def test_other_styles_work(project, style):
    project.makepyfile(FAILING)
    result = project.runpytest(f"--tb={style}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_it - BN101 fake-leak: *"])


def test_reproduce_carries_the_command_line(project):
    project.makepyfile(FAILING)
    result = project.runpytest("--bn-rows=4", "--bn-frozen=back bone/*")
    result.stdout.fnmatch_lines(["*::test_it\" --bn-rows 4 --bn-frozen 'back bone/[*]'"])


def test_reproduce_starts_pytest_as_the_user_did(project, monkeypatch):
    project.makepyfile(FAILING)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    project.runpytest().stdout.fnmatch_lines(['E * reproduce  pytest "*.py::test_it"'])


def test_misuse_in_a_test_is_an_error(project):
    project.makepyfile(
        """
        def test_it(bn_check):
            bn_check.batch_invariance("no model")
        """
    )
    result = project.runpytest("-ra", "-v")
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*::test_it ERROR *",
            '>*bn_check.batch_invariance("no model")',
            "E * 'no model' is no model; expected a FakeModel",
            "ERROR *::test_it - 'no model' is no model; expected a FakeModel",
        ]
    )
    result.stdout.no_fnmatch_line("*Error: *")
    result.stdout.no_fnmatch_line("*registry.py*")


def test_a_check_that_raises_is_an_error_for_pytest_and_for_us(project):
    project.makepyfile(
        models="""
        from conftest import FakeModel

        def build():
            return FakeModel(batch_invariance="no verdict")
        """
    )
    result = project.runpytest("--bn-model=models:build", "--junitxml=junit.xml")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["1 model, 2 checks: 2 passed; 1 error"])
    junit = (project.path / "junit.xml").read_text(encoding="utf-8")
    assert 'errors="1" failures="0"' in junit


def test_misuse_in_a_fixture_and_in_a_unittest(project):
    project.makepyfile(
        """
        import unittest
        import pytest
        from pytest_bnconsistency import assert_batch_invariance

        @pytest.fixture
        def checked():
            assert_batch_invariance(1)

        def test_fixture(checked):
            pass

        class TestCase(unittest.TestCase):
            def test_method(self):
                assert_batch_invariance(1)
        """
    )
    result = project.runpytest("-ra")
    result.assert_outcomes(errors=2)
    result.stdout.no_fnmatch_line("*registry.py*")
    result.stdout.fnmatch_lines_random(
        [
            "ERROR *::test_fixture - 1 is no model; expected a FakeModel",
            "ERROR *::test_method - 1 is no model; expected a FakeModel",
        ]
    )


def test_an_expected_failure_stays_expected(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.xfail(strict=True)
        @pytest.mark.parametrize("misuse", [False, True])
        def test_it(bn_check, fake, misuse):
            bn_check.batch_invariance(1 if misuse else fake(batch_invariance="failed"))
        """
    )
    project.runpytest().assert_outcomes(xfailed=2)


@pytest.mark.parametrize("workers", [None, "2"])
def test_results_reach_the_reports_as_plain_data(project, workers):
    project.makepyfile(
        """
        def test_it(bn_check, fake):
            bn_check.all(fake(train_eval_agreement="vacuous"))

        def test_fails(bn_check, fake):
            bn_check.all(fake(train_eval_agreement="failed"))

        def test_misuse(bn_check):
            bn_check.all(None)
        """
    )
    extra = """
        def pytest_runtest_logreport(report):
            if report.when == "call":
                with open("seen.jsonl", "a") as file:
                    file.write(getattr(report, "bn_entries", "[]") + "\\n")
    """
    project.makepyfile(recorder=extra)
    args = ["-p", "recorder", *(["-n", workers] if workers else [])]
    result = project.runpytest_subprocess(*args, "-ra")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_fails - BN101 fake-leak: train_eval_agreement is off by 7*",
            "ERROR *::test_misuse - None is no model; expected a FakeModel",
        ]
    )
    lines = (project.path / "seen.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [json.loads(line) for line in lines]
    verdicts = {tuple(entry["verdict"] for entry in run) for run in seen}
    assert verdicts == {(), ("passed", "failed", "passed"), ("passed", "vacuous", "passed")}


@pytest.mark.thorough
def test_optimised_python_still_fails(project):
    project.makepyfile(FAILING)
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-W", "ignore"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "BN101 fake-leak" in done.stdout


def test_without_pytest_a_skip_is_a_result(project):
    project.makepyfile(
        script="""
        import conftest, pytest_bnconsistency
        conftest.check_context.subject_of = conftest.FakeSubject
        conftest.registry.CHECKS["batch_invariance"] = conftest.FakeCheck("batch_invariance")
        model = conftest.FakeModel(batch_invariance="not applicable")
        said = pytest_bnconsistency.assert_batch_invariance(model, not_applicable="skip")
        print(said.verdict)
        """
    )
    assert project.runpython("script.py").outlines == ["not applicable"]


def test_hypothesis_shows_the_users_line_and_the_example(project):
    project.makepyfile(
        """
        from hypothesis import given, settings, strategies as st

        @settings(database=None)
        @given(st.integers(2, 9))
        def test_it(bn_check, fake, rows):
            bn_check.batch_invariance(fake(batch_invariance="failed"), rows=rows)
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines_random(
        ["*bn_check.batch_invariance(fake(*", "*BN101 fake-leak: *", "*rows=2,*"]
    )
    result.stdout.no_fnmatch_line("*assertions.py*")


def test_the_start_of_tensorflow_does_not_bury_the_verdict(project):
    project.makepyfile(
        """
        import sys
        NOISE = "I0000 00:00:1795868179.945331   14872 port.cc:153] oneDNN is on\\n"

        def test_it(bn_check, fake):
            sys.stderr.write(NOISE)
            bn_check.batch_invariance(fake(batch_invariance="failed"))

        def test_says_more(bn_check, fake):
            sys.stderr.write(NOISE + "mine\\n")
            bn_check.batch_invariance(fake(batch_invariance="failed"))

        def test_of_others():
            sys.stderr.write(NOISE)
            assert 0
        """
    )
    assert "oneDNN" not in project.runpytest("-k", "test_it").stdout.str()
    said = project.runpytest("-k", "more").stdout.str()
    assert "mine" in said
    assert "oneDNN" not in said
    assert "oneDNN" in project.runpytest("-k", "others").stdout.str()


@pytest.mark.parametrize(
    "args",
    [("--bn-checks",), ("--bn-explain=no",), ("--bn-check=no",), ("-p", "xdist", "-n2", ".")],
    ids=" ".join,
)
def test_nor_does_a_conftest_that_imports_it(pytester, args):
    pytester.makeconftest(
        """
        import sys
        import tensorflow

        sys.stderr.write("I0000 00:00:1795868179.945331   14872 port.cc:153] oneDNN is on\\n")
        sys.stderr.write("mine\\n")
        """
    )
    pytester.makepyfile(
        """
        from pytest_bnconsistency import assert_statistics_health

        def test_it():
            assert_statistics_health(lambda x: x, not_applicable="pass")
        """
    )
    run = pytester.runpytest_subprocess if "-n2" in args else pytester.runpytest
    result = run(*args)
    said = result.stderr.lines + result.outlines
    assert "mine" in said
    assert not [line for line in said if "oneDNN" in line]
