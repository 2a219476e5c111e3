"""Settings from every format that pytest reads, good ones and bad ones."""

import subprocess
import sys

import pytest

from pytest_bnconsistency import settings
from pytest_bnconsistency.checks import registry

TEST = """
    def test_it(bn_check, fake):
        evidence = bn_check.batch_invariance(fake(batch_invariance="vacuous")).evidence
        assert (evidence["rows"], evidence["loss_tolerance"]) == (16, 0.25)
"""
TABLES = {
    "native": "[tool.pytest]\nbn_rows = 16\nbn_loss_tolerance = 0.25\nbn_vacuous = 'warn'\n",
    "native strings": "[tool.pytest]\nbn_rows = '16'\nbn_loss_tolerance = '0.25'\n"
    "bn_vacuous = 'warn'\n",
    "ini options": "[tool.pytest.ini_options]\nbn_rows = 16\nbn_loss_tolerance = 0.25\n"
    "bn_vacuous = 'warn'\n",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_numbers_in_a_toml_file(project, table):
    project.makepyprojecttoml(table)
    project.makepyfile(TEST)
    if "[tool.pytest]" in table and pytest.version_tuple < (9,):
        pytest.skip("this pytest has no native table")
    project.runpytest("-Wignore", "--strict-config").assert_outcomes(passed=1)


@pytest.mark.parametrize("kind", ["pytest", "pytest.ini_options"])
@pytest.mark.parametrize("names", ["['batch_invariance', 'baseline']", "'baseline, none'"])
def test_a_list_of_names_in_a_toml_file(project, kind, names):
    if kind == "pytest" and pytest.version_tuple < (9,):
        pytest.skip("this pytest has no native table")
    project.makepyprojecttoml(f"[tool.{kind}]\nbn_baseline_checks = {names}\n")
    project.makepyfile(
        f"""
        def test_it(bn_check, fake):
            found = bn_check.batch_invariance(fake()).evidence["baseline_checks"]
            assert found == {names.strip("[]").replace("'", "")!r}
        """
    )
    project.runpytest("-Wignore", "--strict-config").assert_outcomes(passed=1)


NATIVE_MODELS = [
    "bn_model = ['models:build']\nbn_data = 'models:data'\nbn_checks = ['batch_invariance']",
    "bn_model = 'models:build'\nbn_data = ['models:data']\nbn_checks = 'batch_invariance'",
]


@pytest.mark.parametrize("kind", ["pytest", "pytest.ini_options"])
@pytest.mark.parametrize("table", NATIVE_MODELS, ids=["list", "string"])
def test_models_in_a_toml_file(project, kind, table):
    if kind == "pytest" and pytest.version_tuple < (9,):
        pytest.skip("this pytest has no native table")
    project.makepyprojecttoml(f"[tool.{kind}]\nbn_trust_files = true\n{table}\n")
    project.makepyfile(
        models="""
        from conftest import FakeModel
        def build(): return FakeModel()
        def data(): return [[1.0], [2.0]]
        """
    )
    result = project.runpytest("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["models.py::build::batch_invariance PASSED*"])


@pytest.mark.parametrize("name", ["bn_check", "bn_checks"])
@pytest.mark.parametrize(
    "listed",
    [
        "batch_invariance frozen_stability",
        "batch_invariance, frozen_stability",
        "batch_invariance,frozen_stability",
        "\n    batch_invariance\n    frozen_stability",
    ],
)
def test_names_of_checks_in_the_ini_file(project, name, listed):
    project.makeini(f"[pytest]\nbn_model = models:m\n{name} = {listed}\n")
    project.makepyfile(models="from conftest import FakeModel\nm = FakeModel()")
    project.runpytest().assert_outcomes(passed=2)


@pytest.mark.parametrize("names", ["batch_invariance frozen_stability", "healthy_statistics"])
def test_names_of_checks_on_the_command_line(project, names):
    if names == "healthy_statistics":
        project = _without_fakes(project)
    project.makepyfile(models="def m(x): return x")
    result = project.runpytest("--bn-model=models:m", "--bn-check", names, "--collect-only", "-q")
    wanted = {"healthy_statistics": "statistics_health"}.get(names, names).split()
    assert [line for line in result.outlines if "::" in line] == [
        f"models.py::m::{name}" for name in wanted
    ]


def _without_fakes(project):
    (project.path / "conftest.py").unlink()
    return project


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bn-padding=nan"], "--bn-padding: option 'padding' is 'nan'; expected a number"),
        (["--bn-loss-tolerance=nan"], "*'loss_tolerance' is 'nan'; expected a number"),
        (["--bn-output-tolerance=-1"], "*is '-1'; expected 0 or more"),
        (["--bn-loss-tolerance=inf"], "*'loss_tolerance' is 'inf'; expected a finite number"),
        (["--bn-decisions-tolerance=3"], "*is '3'; expected 0 to 1: 0.03 is 3 %"),
        (
            ["--bn-baseline-checks=foo"],
            "--bn-baseline-checks: *unknown check 'foo'; *",
        ),
        (["-o", "bn_baseline_checks=foo"], "bn_baseline_checks: *names an unknown check 'foo'; *"),
        (["--bn-replay=x rows"], "--bn-replay: 'x rows' is no recipe of a batch; expected *"),
        (["-o", "bn_replay=foo"], "bn_replay: 'foo' is no recipe of a batch; expected *"),
        (["-o", "bn_trust_files=maybe"], "option 'bn_trust_files' is 'maybe'; expected true or *"),
        (["--bn-rows=1e999"], "*'rows' is '1e999'; expected a whole number"),
        (["--bn-check=nonsense"], "unknown check 'nonsense'; expected one of *"),
        (["--bn-check=batch_invariant"], "unknown check 'batch_invariant'; did you mean *"),
        (["--bn-check=batch_invariance"], "--bn-check is for models, and none is named; *"),
        (["-o", "bn_padding=nan"], "bn_padding: option 'padding' is 'nan'; expected a number"),
        (["-o", "bn_check=nonsense"], "unknown check 'nonsense'; *"),
        (["-o", "bn_not_applicable=no"], "bn_not_applicable: *'no'; expected one of fail, *"),
        (
            ["-o", "bn_trust_files=perhaps", "--bn-model=m.keras"],
            "option 'bn_trust_files' is 'perhaps'; expected true or false",
        ),
    ],
)
def test_a_bad_value_is_one_sentence(pytester, args, message):
    (pytester.path / "m.keras").write_text("")
    result = pytester.runpytest(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert len([line for line in result.errlines if line]) == 1


def test_the_names_of_checks_that_settings_know_are_those_there_are():
    assert set(settings.CHECK_NAMES) == {*registry.CHECKS, *registry.ALIASES}


BAD = ["bn_rows = 'many'", "bn_check = 'nonsense'", "bn_padding = 'nan'", "bn_model = 'no.model'"]


@pytest.mark.parametrize("flag", ["--help", "--markers", "--version"])
@pytest.mark.parametrize("line", BAD)
def test_help_is_there_whatever_the_ini_file_says(pytester, flag, line):
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{line}\n")
    result = pytester.runpytest(flag)
    assert result.ret == pytest.ExitCode.OK
    if flag == "--help":
        result.stdout.fnmatch_lines(["*--bn-rows=VALUE*"])
    assert pytester.runpytest().ret == pytest.ExitCode.USAGE_ERROR


BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition(".")[0] in {names!r} else found(name, package)
)
sys.argv = ["pytest", *sys.argv[1:]]
runpy.run_module("pytest", run_name="__main__")
"""
SURFACES = """
import numpy as np
import pytest
from pytest_bnconsistency import (ConsistencySuite, assert_batch_invariance, check_consistency)
from pytest_bnconsistency import (assert_frozen_stability, preserve_state, recalibrate)

X = np.ones((4, 2), "float32")

def test_assertion(): assert_batch_invariance(lambda x: x, X)
def test_frozen(): assert_frozen_stability(lambda x: x, X)
def test_fixture(bn_check): bn_check.all(lambda x: x, X)
def test_check(): check_consistency(object())
def test_recalibrate(): recalibrate(lambda x: x, X)
def test_preserve():
    with preserve_state(object()): pass
def test_strategies():
    from pytest_bnconsistency import strategies

class TestSuite(ConsistencySuite):
    checks = ["batch_invariance", "statistics_health"]
    def model(self): return lambda x: x
    def data(self): return X
"""


def blocked(pytester, names, *args):
    (pytester.path / "blocked.py").write_text(BLOCKED.format(names=names), encoding="utf-8")
    command = [sys.executable, "blocked.py", "-p", "no:hypothesispytest", "-ra", *args]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_without_tensorflow_every_surface_is_one_sentence(pytester):
    pytester.makepyfile(test_it=SURFACES, models="def build(): return lambda x: x")
    for name in ("net.keras", "net.h5"):
        (pytester.path / name).write_text("", encoding="utf-8")
    models = ("models:build", "net.keras", "net.h5")
    args = (*(f"--bn-model={name}" for name in models), "--bn-trust-files")
    said = blocked(pytester, ["tensorflow", "keras", "tf_keras"], *args, "test_it.py")
    sentence = "TensorFlow is not installed, and the checks run models with it; install it with: "
    errors = [line for line in said.splitlines() if line.startswith("ERROR ")]
    assert len(errors) == 7 + 1 + 3
    assert all(line.split(" - ")[1].startswith(sentence[:30]) for line in errors)
    assert "ModuleNotFoundError" not in said
    assert " failed" not in said.splitlines()[-1]


@pytest.mark.thorough
def test_without_hypothesis_the_search_is_left_out(pytester):
    pytester.makepyfile(
        test_it="""
        import keras
        import pytest
        from pytest_bnconsistency import (BNConsistencyError, assert_batch_invariance)

        def build():
            return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

        def test_default():
            notes = assert_batch_invariance(build()).notes
            assert any("pip install hypothesis" in note for note in notes)

        def test_replay():
            assert_batch_invariance(build(), replay="2 rows; row 1 constant 1")

        def test_asked():
            with pytest.raises(BNConsistencyError, match="takes Hypothesis, .* pip install"):
                assert_batch_invariance(build(), examples=3)

        def test_strategies():
            with pytest.raises(BNConsistencyError, match="takes Hypothesis, .* pip install"):
                from pytest_bnconsistency import strategies
        """
    )
    said = blocked(pytester, ["hypothesis"])
    assert "4 passed" in said, said


@pytest.mark.thorough
def test_a_search_that_nobody_asked_for_leaves_no_folder(pytester):
    pytester.makepyfile(
        test_it="""
        import keras
        from pytest_bnconsistency import assert_batch_invariance

        def test_it():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            result = assert_batch_invariance(model)
            assert result.evidence["examples"]["tried"] == 10
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    assert not (pytester.path / ".hypothesis").exists()
