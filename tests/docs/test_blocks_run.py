"""The code of README and the how-to pages runs as it is printed.

A page's Python is one program, after names that readers have of their own (`YOURS`); its commands
run in the same folder, those of models as far as their collection. A block that is not run says
why, in a comment above it.
"""

import configparser
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PAGES = [ROOT / "README.md", *sorted(HOW_TO.glob("*.md"))]
SHOP = HOW_TO / "check-a-model-without-a-test-file.md"
NOT_RUN = re.compile(r"<!-- not run by our tests: .{8,} -->\n$")
BLOCK = re.compile(r"((?:^[^\n`][^\n]*\n)*)\n*^```(\w+)\n(.*?)^```$", re.M | re.S)
PLACE = re.compile(r"# (\S+\.py)\n")
OUTPUT = {"text", "diff", "json"}
YOURS = """
from types import SimpleNamespace
import pytest
from shop.data import digits
from shop.models import build, trained

x, y = digits()
photographs = x[:8]

@pytest.fixture(scope="module")
def model():
    return trained()

@pytest.fixture(scope="module")
def train():
    return SimpleNamespace(x=x, y=y)
"""


def blocks(page):
    for above, language, code in BLOCK.findall(page.read_text("utf-8")):
        if language not in OUTPUT and not NOT_RUN.search(above):
            yield language, code


def commands(code):
    for line in code.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:2] == ["python", "-m"]:
            words = words[2:]
        if line.startswith("$ ") or not code.startswith("$ "):
            yield words


def put(folder, place, code):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


@pytest.fixture
def project(pytester, monkeypatch):
    """A folder with the files that the pages speak of, on a person's own machine."""
    monkeypatch.delenv("CI", raising=False)
    for _, code in blocks(SHOP):
        if place := PLACE.match(code):
            for folder in (".", "mypackage"):
                put(pytester.path, Path(folder, place[1]), code)
            put(pytester.path, place[1].replace("shop/models.py", "train.py"), code)
            put(pytester.path, place[1].replace("shop/models.py", "scripts/train.py"), code)
            put(pytester.path, place[1].replace("shop/", "mypackage/"), code)
    put(pytester.path, "tests/test_own.py", "def test_own(): pass\n")
    put(pytester.path, "exports/shop/saved_model.pb", "")
    put(pytester.path, "model.keras", "")
    pipelines = ROOT / "examples" / "adapter" / "pipelines.py"
    shutil.copy(pipelines, pytester.path / "mypackage" / "pipelines.py")
    with open(pytester.path / "mypackage" / "data.py", "a", encoding="utf-8") as file:
        file.write("\n\ntrain = digits\n")
    np.savez(pytester.path / "train.npz", x=np.ones((4, 64), "float32"))
    pytester.syspathinsert()
    return pytester


def run_command(project, words):
    if words[0] == "pytest_bnconsistency":
        return project.run(sys.executable, "-m", *words).ret
    assert words[0] == "pytest", words
    only = ["--collect-only"] if "--bn-model" in words else []
    return project.runpytest(*words[1:], *only).ret


def read_data(language, code):
    if language == "toml":
        return pytest.importorskip("tomllib").loads(code)
    if language == "yaml":
        return yaml.safe_load(code)
    return configparser.ConfigParser().read_string(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.thorough
def test_a_page_runs_as_printed(project, page):
    program = []
    for language, code in blocks(page):
        if language == "python":
            place = PLACE.match(code)
            put(project.path, place[1], code) if place else program.append(code)
        elif language in ("console", "sh"):
            for words in commands(code):
                assert run_command(project, words) == 0, words
        else:
            read_data(language, code)
    if program:
        put(project.path, "test_page.py", "\n\n".join([YOURS, *program]))
        result = project.runpytest("test_page.py", "-W", "ignore", "-p", "no:cacheprovider")
        assert result.ret in (0, pytest.ExitCode.NO_TESTS_COLLECTED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_its_language(page):
    text = page.read_text("utf-8")
    assert text.count("\n```") == 2 * len(BLOCK.findall(text))


@pytest.mark.thorough
def test_a_model_without_a_test_file_is_checked_as_printed(project):
    """The first command of the page, for real, with the lines that it prints."""
    code = next(code for language, code in blocks(SHOP) if language == "console")
    (words,) = commands(code)
    result = project.runpytest(*words[1:], "-W", "ignore", "-p", "no:cacheprovider")
    lines = [line.partition(" (")[0] for line in code.splitlines()[1:]]
    assert len(lines) == 5
    result.stdout.fnmatch_lines([f"{line}*" for line in lines])


def test_a_block_that_fails_is_seen(project, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "A.\n\n```python\nassert False\n```\n\nB:\n\n<!-- not run by our tests: it is slow -->\n"
        "```python\nassert False\n```\n\n```console\n$ pytest --bn-nonsense\n```\n",
        encoding="utf-8",
    )
    (python, one), (console, other) = blocks(page)
    assert (python, one, console) == ("python", "assert False\n", "console")
    (words,) = commands(other)
    assert run_command(project, words) == pytest.ExitCode.USAGE_ERROR
