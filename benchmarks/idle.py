"""What the plugin costs a session that does not use it, beside other plugins.

    python benchmarks/idle.py [rounds]

Run it with the Python of an environment. Each plugin that pip installed there is measured alone:
modules and CPU time at exit, beside a pytest without any, session by session in turn.
"""

import importlib.metadata
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
BARE = "bare pytest"


def arms() -> dict[str, list[str]]:
    """The arguments that leave one plugin in, by its package; `BARE` has none."""
    names: dict[str, list[str]] = {BARE: []}
    for entry in importlib.metadata.entry_points(group="pytest11"):
        if entry.dist is not None:
            names.setdefault(entry.dist.name, []).append(entry.name)
    every = [name for known in names.values() for name in known]
    return {
        package: [part for name in every if name not in known for part in ("-p", f"no:{name}")]
        for package, known in names.items()
    }


def session(folder: Path, arguments: list[str]) -> tuple[set[str], float]:
    subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=folder, check=True, capture_output=True
    )
    modules, seconds = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return set(modules), 1000 * seconds


def measured(rounds: int) -> dict[str, tuple[float, int]]:
    """Milliseconds and modules on top of a pytest without plugins; of that, all."""
    chosen = arms()
    seen: dict[str, list[tuple[set[str], float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_idle.py").write_text("def test_idle(): pass\n", encoding="utf-8")
        for arguments in chosen.values():
            session(folder, arguments)  # compiles
        for _ in range(rounds):
            for arm, arguments in chosen.items():
                seen[arm].append(session(folder, arguments))
    bare = seen.pop(BARE)
    alone = statistics.median(seconds for _, seconds in bare), len(bare[0][0])
    return {BARE: alone} | {
        arm: (
            statistics.median(mine[1] - other[1] for mine, other in zip(found, bare, strict=True)),
            len(found[0][0] - bare[0][0]),
        )
        for arm, found in seen.items()
    }


def main(rounds: int) -> None:
    for arm, (more, modules) in measured(rounds).items():
        print(f"{arm:28} {more:5.0f} ms of CPU, {modules:4d} modules")


if __name__ == "__main__":
    os.environ.pop("PYTEST_ADDOPTS", None)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
