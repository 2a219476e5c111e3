"""Where failures, errors and the debugger point: at the user's own code."""

import subprocess
import sys
import sysconfig
import venv

import pytest

HELPERS = """
    def widths(config):
        return config["stages"][3]["width"]

    def rows(config):
        return widths(config)
"""
MODELS = """
    from conftest import FakeModel
    import helpers

    def healthy():
        return FakeModel()

    def build():
        return helpers.widths({"stages": []})

    def data():
        return helpers.rows({"stages": []})

    def chained():
        try:
            return build()
        except IndexError as error:
            raise RuntimeError("no model today") from error
"""


@pytest.mark.parametrize("style", ["auto", "long", "short", "native", "line", "no"])
@pytest.mark.parametrize(
    ("args", "last"),
    [
        (("--bn-model=models:build",), "models.py"),
        (("--bn-model=models:healthy", "--bn-data=models:data"), "models.py"),
        (("--bn-model=models:healthy", "--bn-data=models.py:data()"), "models.py"),
    ],
)
def test_what_a_users_function_raises_is_shown_once_in_its_own_frames(project, style, args, last):
    project.makepyfile(models=MODELS, helpers=HELPERS)
    result = project.runpytest(*args, f"--tb={style}", "-ra")
    result.assert_outcomes(errors=1, skipped=2)
    text = result.stdout.str()
    assert text.count('config["stages"][3]["width"]') == (style != "no")
    assert "pytest_bnconsistency" not in text.partition("bnconsistency: models")[0].replace(
        "bnconsistency-", ""
    )
    summary = "IndexError: list index out of range (helpers.py:2)"
    result.stdout.fnmatch_lines([f"ERROR models.py::*::batch_invariance - {summary}"])


def test_an_error_with_a_cause(project):
    project.makepyfile(models=MODELS, helpers=HELPERS)
    result = project.runpytest("--bn-model=models:chained")
    shown = [line.split(maxsplit=1)[1] for line in result.outlines if line[:1] in (">", "E")]
    assert shown[:6] == [
        "return build()",
        'return helpers.widths({"stages": []})',
        'return config["stages"][3]["width"]',
        "IndexError: list index out of range",
        'raise RuntimeError("no model today") from error',
        "RuntimeError: no model today",
    ]


@pytest.mark.thorough
def test_libraries_of_an_environment_below_are_no_users_code(project):
    folder = project.path / "above"
    venv.create(folder, symlinks=sys.platform != "win32")
    paths = {"base": str(folder), "platbase": str(folder)}
    above, below = (sysconfig.get_path("purelib", vars=given) for given in (paths, {}))
    seen = f"import site; site.addsitedir({below!r})"
    (project.path / above / "below.pth").write_text(seen, encoding="utf-8")
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    project.makepyfile(models=MODELS, helpers=HELPERS)
    result = project.run(python, "-m", "pytest", "--bn-model=models:build", "--tb=native")
    text = result.stdout.str().partition("bnconsistency: models")[0]
    assert "helpers.py" in text
    assert "site-packages" not in text


@pytest.mark.thorough
def test_all_frames_on_request(project):
    project.makepyfile(models=MODELS, helpers=HELPERS)
    result = project.runpytest("--bn-model=models:build", "--full-trace")
    result.stdout.fnmatch_lines(["*targets.py:*"])


SUITE = """
    import pytest
    from conftest import FakeModel
    from pytest_bnconsistency import (ConsistencySuite, assert_batch_invariance)
    from pytest_bnconsistency import assert_frozen_stability
    from helpers import widths

    class TestSuite(ConsistencySuite):
        checks = ["batch_invariance", "frozen_stability"]

        def model(self):
            mark = "model"
            return widths({"stages": []})

    def test_failure():
        mark = "failure"
        assert_batch_invariance(FakeModel(batch_invariance="failed"))

    def test_misuse(bn_check):
        mark = "misuse"
        bn_check.batch_invariance("no model")

    def test_nothing_to_check():
        mark = "nothing"
        assert_frozen_stability(FakeModel(frozen_stability="not applicable"), None)
"""


def test_the_debugger_stops_in_the_users_frame(project):
    project.makepyfile(test_it=SUITE, helpers=HELPERS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pdb", "-q", "-Wignore"],
        cwd=project.path,
        capture_output=True,
        text=True,
        input="p 'stopped with', config\nc\n" + "p 'stopped at', mark\nc\n" * 3,
    )
    assert "('stopped with', {'stages': []})" in done.stdout
    for mark in ("failure", "misuse", "nothing"):
        assert f"('stopped at', '{mark}')" in done.stdout
    assert "NameError" not in done.stdout


def test_the_model_of_a_suite_that_raises_is_shown_once(project):
    project.makepyfile(test_it=SUITE, helpers=HELPERS)
    result = project.runpytest("-k", "Suite", "-ra")
    result.assert_outcomes(errors=1, skipped=1)
    text = result.stdout.str()
    assert text.count('config["stages"][3]["width"]') == 1
    assert "suite.py" not in text
    assert "shared.py" not in text
