"""A project that does not use the plugin does not pay for it."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_bnconsistency

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "hypothesis", "tensorflow", "keras", "tf_keras")
# At exit, because some plugins import at the end of a session.
PROBE = """
import atexit, json, sys
def tell():
    with open("imported.json", "w") as file:
        json.dump(sorted(sys.modules), file)
atexit.register(tell)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def imported(folder: Path, *args: str) -> set[str]:
    command = [sys.executable, "-c", PROBE, *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads((folder / "imported.json").read_text(encoding="utf-8")))


@pytest.mark.thorough
@pytest.mark.parametrize("args", [[], ["-q"], ["-v"], ["--collect-only"]], ids=" ".join)
def test_an_idle_plugin_imports_nothing_heavy(tmp_path, args):
    (tmp_path / "test_idle.py").write_text("def test_idle(): pass\n", encoding="utf-8")
    # Whatever else is installed is there in both sessions: Hypothesis' plugin imports it all.
    more = imported(tmp_path, *args) - imported(tmp_path, "-p", "no:bnconsistency", *args)
    assert "pytest_bnconsistency.plugin" in more
    assert more.isdisjoint(HEAVY)
    assert len(more) <= 12
    assert not (tmp_path / ".hypothesis").exists()


def test_what_pip_installs_with_us_is_idle_as_well():
    """No dependency of ours may bring a plugin that every session loads."""
    listed = re.search(r"^dependencies = (.*)$", (ROOT / "pyproject.toml").read_text(), re.M)
    waiting = [re.split(r"[^\w-]", name)[0] for name in json.loads(listed[1])]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
        assert not [entry for entry in found.entry_points if entry.group == "pytest11"], name
        needed = [one for one in found.requires or () if "extra ==" not in one]
        waiting += [re.split(r"[^\w-]", one)[0] for one in needed]
    assert {"pytest", "numpy", "pluggy"} <= seen


def test_the_probe_catches_what_is_imported_late(tmp_path):
    late = "def pytest_unconfigure():\n    import numpy, sqlite3\n"
    (tmp_path / "conftest.py").write_text(late, encoding="utf-8")
    (tmp_path / "test_idle.py").write_text("def test_idle(): pass\n", encoding="utf-8")
    assert {"numpy", "sqlite3"} <= imported(tmp_path)


@pytest.mark.parametrize("name", dir(pytest_bnconsistency))
def test_every_public_name_is_there(name):
    assert getattr(pytest_bnconsistency, name).__doc__


def test_a_star_asks_for_no_extra(monkeypatch):
    monkeypatch.delattr(pytest_bnconsistency, "strategies")
    monkeypatch.setitem(sys.modules, "pytest_bnconsistency.strategies", None)
    names: dict[str, object] = {}
    exec("from pytest_bnconsistency import *", names)
    assert set(names) >= {"assert_batch_invariance", "ConsistencySuite"}


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'assert_batch_invariant'"):
        pytest_bnconsistency.assert_batch_invariant  # noqa: B018


def test_numbers_flow_one_way():
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    code = "from importlinter.cli import lint_imports_command as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
