"""Beside other plugins, and in several processes, the record is the same; see `tox -e beside`."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

TESTS = """
    import pytest
    from conftest import FakeModel
    from pytest_bnconsistency import ConsistencySuite

    @pytest.mark.parametrize("n", [1, 2, 10])
    def test_passes(bn_check, fake, n):
        bn_check.batch_invariance(fake())

    def test_fails(bn_check, fake):
        bn_check.all(fake(batch_invariance="failed", frozen_stability="vacuous"))

    def test_misuse(bn_check, fake):
        bn_check.batch_invariance(fake(), rows=1)

    @pytest.mark.xfail(strict=True)
    def test_known(bn_check, fake):
        bn_check.batch_invariance(fake(batch_invariance="failed"))

    class TestSuite(ConsistencySuite):
        def model(self, fake):
            return fake(train_eval_agreement="failed", frozen_stability="not applicable")
"""
PLUGINS = {
    "pytest-randomly": ["-p", "randomly"],
    "pytest-rerunfailures": ["--reruns=2"],
    "pytest-timeout": ["--timeout=60"],
    "pytest-html": ["--html=page.html"],
    "pytest-cov": ["--cov=."],
    "pytest-sugar": [],
    "allure-pytest": ["--alluredir=allure"],
}


def record(project, *args):
    """What a run says of checks, without times; of the plugins around, only those of `args`."""
    loaded = [] if args else [arg for one in _others() for arg in ("-p", f"no:{one.name}")]
    command = [sys.executable, "-m", "pytest", "--bn-report=json:run.json", *loaded, *args]
    subprocess.run(command, cwd=project.path, capture_output=True)
    run = json.loads((project.path / "run.json").read_text(encoding="utf-8"))
    run["run"].update(started="", seconds=0)
    for model in run["models"]:
        for check in model["checks"]:
            check["seconds"] = 0
    return run


def _others():
    points = importlib.metadata.entry_points(group="pytest11")
    return [one for one in points if one.name != "bnconsistency"]


@pytest.mark.thorough
@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_record_is_the_same(project, plugin):
    try:
        importlib.metadata.version(plugin)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{plugin} is not installed")
    project.makepyfile(TESTS)
    alone = record(project)
    assert (alone["counts"]["checks"], alone["counts"]["errors"]) == (10, 1)
    assert record(project, *PLUGINS[plugin], "-p", "no:cacheprovider") == alone
    assert record(project, *PLUGINS[plugin], "-n2") == alone


@pytest.mark.thorough
def test_the_model_of_several_processes_is_one(project):
    """Keras numbers the names that it makes up, in each process by itself."""
    project.makepyfile(
        test_it="""
        import os
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        def build():
            model = FakeModel()
            model.name = f"functional_{os.environ.get('PYTEST_XDIST_WORKER')}"
            return model

        class TestIt(ConsistencySuite):
            model = staticmethod(build)

            def test_batch_invariance(self):
                super().test_batch_invariance()
        """
    )
    args = ("-n2", "--dist=load", ".", "--bn-model=test_it:build", "--bn-report=json:run.json")
    project.runpytest_subprocess(*args).assert_outcomes(passed=6)
    run = json.loads((project.path / "run.json").read_text(encoding="utf-8"))
    titles = [model["title"] for model in run["models"]]
    assert sorted(titles) == ["test_it.py::TestIt", "test_it:build"]
