"""What long work is doing stands on a terminal while it lasts, and nowhere else."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.thorough

TESTS = """
    from pytest_bnconsistency.context import door

    def test_short():
        with door.get().progress.of("a check"):
            door.get().progress.doing("what is short")

    def test_long():
        progress = door.get().progress
        progress.PATIENCE = progress.PAUSE = 0.0
        with progress.of("a check"):
            progress.doing("this")
            progress.doing("that")
"""
COMMAND = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "test_it.py"]
COLUMNS = 60


def on_a_terminal(project):
    """What a run writes on a terminal."""
    pty = pytest.importorskip("pty")
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm"}
    with subprocess.Popen(COMMAND, cwd=project.path, env=environment, stdout=its, stderr=its):
        os.close(its)
        said = b""
        try:
            while read := os.read(ours, 4096):
                said += read
        except OSError:  # how Linux says that nobody writes there any more
            pass
    os.close(ours)
    return said.decode()


def screen(written):
    """What stands on the terminal in the end."""
    lines, column = [""], 0
    for letter in written:
        if letter == "\r":
            column = 0
        elif letter == "\n" or column == COLUMNS:
            lines.append("")
            column = 0
        if letter not in "\r\n":
            lines[-1] = f"{lines[-1][:column]}{letter}{lines[-1][column + 1 :]}"
            column += 1
    return [line.rstrip() for line in lines]


def test_it_is_gone_when_the_work_is_done(project):
    project.makepyfile(test_it=TESTS)
    written = on_a_terminal(project)
    assert "a check: this" in written
    assert "a check: that" in written
    assert "what is short" not in written
    shown = screen(written)
    assert not [line for line in shown if "a check" in line]
    assert f".{'[100%]':>{COLUMNS - 2}}" in shown


@pytest.mark.parametrize("more", [[], ["-s"]], ids=["captured", "not captured"])
def test_nothing_is_said_in_a_pipe(project, more):
    project.makepyfile(test_it=TESTS)
    run = subprocess.run([*COMMAND, *more], cwd=project.path, capture_output=True, text=True)
    assert "2 passed" in run.stdout
    assert "a check" not in run.stdout + run.stderr
