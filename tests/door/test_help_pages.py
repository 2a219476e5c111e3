"""`--bn-explain` and `--bn-checks`: answers without tests, a model or TensorFlow."""

import subprocess
import sys

import pytest

from pytest_bnconsistency.checks.registry import CHECKS
from pytest_bnconsistency.rules.catalogue import ALL


@pytest.fixture
def broken(pytester):
    """A project that can't be collected, and whose options are wrong."""
    pytester.makepyfile("raise RuntimeError('collected')")
    pytester.makeini("[pytest]\nbn_rows = many")
    return pytester


@pytest.mark.parametrize("also", [[], ["-q"], ["--collect-only"], ["-p", "xdist", "-n", "2"]])
def test_the_page_of_a_rule(broken, also):
    result = broken.runpytest("--bn-explain", "bn201", *also)
    assert result.ret == 0
    assert result.outlines[0] == "# BN201 stale-moving-statistics"
    assert "## Remedy" in result.outlines
    assert not result.stderr.str()


@pytest.mark.parametrize("args", [["--bn-explain=all"], ["--bn-explain"], ["--bn-explain", "-q"]])
def test_all_rules(broken, args):
    result = broken.runpytest(*args)
    assert result.ret == 0
    assert [line.split()[0] for line in result.outlines] == [rule.id for rule in ALL]


def test_the_checks_and_what_each_needs(broken):
    result = broken.runpytest("--bn-checks")
    assert result.ret == 0
    for check in CHECKS.values():
        result.stdout.fnmatch_lines(
            [f"{check.name}: {check.property}", f"  needs  {check.needs}", "  helps  *"]
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BN3011", "expected one of BN301, BN302, BN303, BN304, BN305, BN306"),
        ("BN999", "pytest --bn-explain all names them"),
        ("stale-moving-statistic", "did you mean 'stale-moving-statistics'[?]"),
    ],
)
def test_no_such_rule(broken, name, expected):
    result = broken.runpytest("--bn-explain", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --bn-explain: there is no rule {name!r}; {expected}"])
    result.stdout.no_fnmatch_line("*")


@pytest.mark.every_case
@pytest.mark.parametrize("option", ["--bn-explain=BN201", "--bn-checks"])
def test_no_tensorflow_is_needed(tmp_path, option):
    """Nor anything that takes long to import."""
    code = (
        "import sys, pytest; ended = pytest.main(sys.argv[1:]); heavy = {'tensorflow', 'keras', "
        "'tf_keras', 'hypothesis'} & set(sys.modules); sys.exit(f'{heavy}' if heavy else ended)"
    )
    command = [sys.executable, "-c", code, "-p", "no:hypothesispytest", option]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
