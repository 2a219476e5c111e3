"""Writes docs/compatibility.md from what the environments of tox ran.

    tox -e py312-tf218-keras36-np2,py310-lowest
    python .ci/compatibility.py .tox/*/

An environment counts if the quick suite left its `junit.xml` there. Its rows replace those of the
same versions; what was not run again stays.
"""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
START, END = "<!-- measured -->\n", "<!-- end -->\n"
LIBRARIES = {
    "TensorFlow": ("tf-nightly", "tensorflow", "tensorflow-cpu"),
    "Keras": ("keras-nightly", "keras"),
    "tf-keras": ("tf-keras",),
    "numpy": ("numpy",),
    "pytest": ("pytest",),
    "Hypothesis": ("hypothesis",),
}
COLUMNS = ("Python", *LIBRARIES, "tests", "passed", "skipped", "failed")
ASK = """
import importlib.metadata, json, platform, sys
every = importlib.metadata.distributions()
known = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in every}
print(json.dumps({"python": platform.python_version(), **known}))
"""


def versions(environment: Path) -> tuple[str, ...]:
    """Python and the libraries that are installed, as `COLUMNS` names them."""
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    known = json.loads(subprocess.run([python, "-c", ASK], capture_output=True, check=True).stdout)
    found = [next((known[n] for n in names if n in known), "-") for names in LIBRARIES.values()]
    return known["python"], *found


def counts(report: Path) -> tuple[str, ...]:
    """How many tests there were, passed, were skipped and failed."""
    suites = list(ElementTree.parse(report).iter("testsuite"))
    tests, skipped, failures, errors = (
        sum(int(suite.get(key, 0)) for suite in suites)
        for key in ("tests", "skipped", "failures", "errors")
    )
    failed = failures + errors
    return tuple(map(str, (tests, tests - skipped - failed, skipped, failed)))


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def order(line: str) -> list[list[int]]:
    """By versions, as numbers."""
    cells = [cell.strip() for cell in line.strip("|\n").split("|")][: len(LIBRARIES) + 1]
    return [[int(part) if part.isdigit() else -1 for part in c.split(".")[:3]] for c in cells]


def main(environments: Iterable[Path]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    old, _, after = rest.partition(END)
    by_versions = {tuple(map(tuple, order(line))): line for line in old.splitlines(True)[2:]}
    for environment in environments:
        report = environment / "junit.xml"
        if report.is_file():
            line = row((*versions(environment), *counts(report)))
            by_versions[tuple(map(tuple, order(line)))] = line
    head = row(COLUMNS) + "|---" * len(COLUMNS) + "|\n"
    table = head + "".join(by_versions[key] for key in sorted(by_versions))
    PAGE.write_text(before + START + table + END + after, encoding="utf-8")


if __name__ == "__main__":
    main(map(Path, sys.argv[1:]))
