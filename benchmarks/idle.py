"""What the plugin costs a session that does not use it: modules and CPU time at exit.

Run it with the Python of an environment: `python benchmarks/idle.py [rounds]`. Sessions with and
without the plugin take turns, and so do those of an environment without Hypothesis' plugin, if
that is installed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROBE = """
import atexit, json, sys, time
def tell():
    spent = time.process_time()
    with open("told.json", "w") as file:
        json.dump([sorted(sys.modules), spent], file)
atexit.register(tell)
import pytest
sys.exit(pytest.main(["-q", *sys.argv[1:]]))
"""
OURS, HYPOTHESIS = ["-p", "no:bnconsistency"], ["-p", "no:hypothesispytest"]


def session(folder: Path, arguments: list[str]) -> tuple[set[str], float]:
    subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=folder, check=True, capture_output=True
    )
    modules, seconds = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return set(modules), 1000 * seconds


def main(rounds: int) -> None:
    arms = {"bare pytest": [*OURS, *HYPOTHESIS], "with the plugin": HYPOTHESIS}
    arms["with Hypothesis' own plugin"] = OURS
    seen: dict[str, list[tuple[set[str], float]]] = {name: [] for name in arms}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_idle.py").write_text("def test_idle(): pass\n", encoding="utf-8")
        for arguments in arms.values():
            session(folder, arguments)  # compiles
        for _ in range(rounds):
            for arm, arguments in arms.items():
                seen[arm].append(session(folder, arguments))
    bare = seen["bare pytest"]
    for arm, found in seen.items():
        more = found[0][0] - bare[0][0]
        apart = [mine[1] - other[1] for mine, other in zip(found, bare, strict=True)]
        cpu = statistics.median(seconds for _, seconds in found)
        print(
            f"{arm:28} {cpu:5.0f} ms of CPU, {statistics.median(apart):+4.0f} ms, "
            f"{len(more):+4d} modules: {' '.join(sorted(more)[:12])}"
        )


if __name__ == "__main__":
    os.environ.pop("PYTEST_ADDOPTS", None)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
