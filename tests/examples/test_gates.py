"""The recipes of `examples/gates`: their form by published schemas, their commands for real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GATES = Path(__file__).parents[2] / "examples" / "gates"
WORKFLOWS = ".github/workflows"
SCHEMAS = {
    f"{WORKFLOWS}/consistency.yml": "vendor.github-workflows",
    f"{WORKFLOWS}/nightly.yml": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
}
pytestmark = pytest.mark.thorough


@pytest.fixture
def project(tmp_path):
    return Path(shutil.copytree(GATES, tmp_path / "shop"))


def run(folder, *command, **environment):
    """The output of a command, as in a shell of the machine that it is meant for."""
    paths = [str(GATES.parents[1]), *sys.path[1:], os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded(name):
    return yaml.safe_load((GATES / name).read_text(encoding="utf-8"))


def in_a_shell(folder, line, **environment):
    """A line of a recipe; `python` is ours."""
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    (bin_ / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (bin_ / "python").chmod(0o755)
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    return run(folder, "sh", "-c", line, PATH=path, **environment)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_server_understands_the_recipe(name):
    pytest.importorskip("check_jsonschema")
    schema = ("--builtin-schema", SCHEMAS[name])
    run(GATES, sys.executable, "-m", "check_jsonschema", *schema, name)


@pytest.mark.parametrize("name", ["consistency", "nightly"])
def test_github(project, name):
    (job,) = loaded(f"{WORKFLOWS}/{name}.yml")["jobs"].values()
    steps = job["steps"]
    (line,) = (step["run"] for step in steps if "pytest" in step.get("run", ""))
    summary = project / "summary.md"
    line = line.replace("--bn-examples 200", "--bn-examples 3")
    said = in_a_shell(
        project, line, GITHUB_STEP_SUMMARY=str(summary), GITHUB_RUN_NUMBER="7", **job["env"]
    )
    assert "4 passed, 1 skipped" in said
    assert "1 model, 5 checks: 4 passed" in summary.read_text(encoding="utf-8")
    assert json.loads((project / f"{name}.json").read_text(encoding="utf-8"))["run"]["complete"]
    pages = [word.partition(":")[2] for word in line.split() if word.startswith("html:")]
    assert pages == (["nightly.html"] if name == "nightly" else [])
    assert all("<h2" in (project / page).read_text(encoding="utf-8") for page in pages)
    uploaded = [step["with"]["sarif_file"] for step in steps if "sarif" in step.get("uses", "")]
    assert all((project / file).is_file() for file in uploaded)


def test_gitlab(project):
    job = loaded(".gitlab-ci.yml")["consistency"]
    (line,) = job["script"]
    assert "4 passed, 1 skipped" in in_a_shell(project, line)
    artifacts = job["artifacts"]
    for file in (*artifacts["paths"], *artifacts["reports"].values()):
        assert (project / file).is_file()


def test_tox(project):
    pytest.importorskip("tox")
    paths = os.pathsep.join([str(GATES.parents[1]), *filter(None, sys.path[1:])])
    said = run(
        project,
        *(sys.executable, "-m", "tox", "run"),
        *("-x", "testenv:consistency.deps="),
        *("-x", f"testenv:consistency.set_env=PYTHONPATH={paths}"),
    )
    assert "4 passed, 1 skipped" in said
    assert "congratulations" in said


def test_pre_commit(project):
    pytest.importorskip("pre_commit")
    for words in (("init", "-q"), ("add", "-A")):
        run(project, "git", *words)
    hooks = (sys.executable, "-m", "pre_commit")
    run(project, *hooks, "validate-config")
    command = " ".join([*hooks, "run", "--all-files", "--hook-stage", "pre-push", "--verbose"])
    said = in_a_shell(project, command, PRE_COMMIT_HOME=str(project / "cache"))
    assert "3 passed" in said
    assert "Passed" in said
