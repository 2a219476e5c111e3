"""A project that does not use the plugin does not pay for it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_bnconsistency

ROOT = Path(__file__).parent.parent
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
    # The plugin of Hypothesis imports it for its summary, and would hide that we do.
    command = [sys.executable, "-c", PROBE, "-p", "no:hypothesispytest", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads((folder / "imported.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("args", [[], ["-q"], ["-v"], ["--collect-only"]], ids=" ".join)
def test_an_idle_plugin_imports_nothing_heavy(tmp_path, args):
    (tmp_path / "test_idle.py").write_text("def test_idle(): pass\n", encoding="utf-8")
    modules = imported(tmp_path, *args)
    assert "pytest_bnconsistency.plugin" in modules
    assert modules.isdisjoint(HEAVY)


def test_the_probe_catches_what_is_imported_late(tmp_path):
    late = "def pytest_unconfigure():\n    import numpy\n"
    (tmp_path / "conftest.py").write_text(late, encoding="utf-8")
    (tmp_path / "test_idle.py").write_text("def test_idle(): pass\n", encoding="utf-8")
    assert not imported(tmp_path).isdisjoint(HEAVY)


@pytest.mark.parametrize("name", pytest_bnconsistency.__all__)
def test_every_public_name_is_there(name):
    if name == "strategies" and importlib.util.find_spec(f"pytest_bnconsistency.{name}") is None:
        pytest.skip("not written yet")
    assert getattr(pytest_bnconsistency, name).__doc__
    assert name in dir(pytest_bnconsistency)


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
