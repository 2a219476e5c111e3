"""Everything about cost that the README and docs/reference/cost.md say, by one command.

    python benchmarks/all_costs.py

Runs the other files of this folder one after the other and prints their tables. Start-up is that
of the plugins that are installed here: `pip install` some to see them beside this one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNS = {
    "Beside a script written by hand": ["script_comparison.py"],
    "A failing check beside a passing one": ["failing_cost.py", "MobileNetV2", "transformer"],
    "Growth": ["growth.py"],
    "Memory": ["peak_memory.py"],
    "Start-up of a session that uses nothing": ["idle.py"],
}


def main() -> None:
    for title, (name, *arguments) in RUNS.items():
        print(f"\n## {title}\n", flush=True)
        path = Path(__file__).with_name(name)
        subprocess.run([sys.executable, str(path), *arguments], check=True)


if __name__ == "__main__":
    main()
