"""Published models that must pass, judged in three precisions: docs/reference/green-table.md.

    python benchmarks/green_table.py --out green.jsonl [--only keras-hub transformers]
    python benchmarks/green_table.py --table green.jsonl

The first judges, and can be stopped and resumed: what the file has is not judged again. The second
writes the page. `tox -e packages` installs what is judged.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_USE_LEGACY_KERAS", "1"
)  # `tf.keras` is what these packages were made for

import argparse
import gc
import importlib.metadata
import json
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "green-table.md"
CHECKS = ("batch_invariance", "inference_purity", "statistics_health")
KEY = ("package", "model", "precision")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
START = "<!-- measured -->\n"


def recorded(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def judge(sound: Any, precision: str) -> dict[str, Any]:
    """What the checks say of a model, its statistics those of its rows."""
    import numpy as np
    import sound_models

    from pytest_bnconsistency import check_consistency, recalibrate
    from pytest_bnconsistency.errors import BNConsistencyError

    model = sound_models.built(sound, precision)
    rng = np.random.default_rng(0)
    x = sound.rows(rng) if sound.rows else sound_models.rows_of(model, rng)
    start = time.process_time()
    try:
        state = "calibrated" if recalibrate(model, x, batch_size=sound_models.ROWS) else "as built"
    except BNConsistencyError:  # no statistics, or not finite in this precision
        state = "as built"
    report = check_consistency(model, x, checks=CHECKS)
    return {
        "state": state,
        "parameters": int(model.count_params()) if hasattr(model, "count_params") else None,
        "verdicts": {one.check: str(one.verdict) for one in report},
        "said": {one.check: one.headline for one in report if str(one.verdict) != "passed"},
        "margin": report["batch_invariance"].evidence.get("margin"),
        "seconds": round(time.process_time() - start, 1),
    }


def run(out: Path, only: list[str], precisions: list[str]) -> None:
    import sound_models

    from pytest_bnconsistency import libraries

    known = {tuple(line[key] for key in KEY) for line in recorded(out) if "error" not in line}
    for sound in sound_models.all_of(only):
        for precision in (one for one in sound.precisions if one in precisions):
            key = dict(zip(KEY, (sound.package, sound.name, precision), strict=True))
            if tuple(key.values()) in known:
                continue
            write(out, {**key, "begun": True})
            line: dict[str, Any] = {**key, "versions": libraries.versions()}
            line["version"] = version(sound.package)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    line |= judge(sound, precision)
            except Exception as error:
                line["error"] = f"{type(error).__name__}: {error}"[:500]
            write(out, line)
            told = line.get("error") or {**line["verdicts"], **line["said"]}
            print(sound.package, sound.name, precision, line.get("seconds"), told, flush=True)
            sound_models.forget()
            gc.collect()


def version(package: str) -> str:
    return importlib.metadata.version(package.partition(".")[0])


def table(lines: Iterable[dict[str, Any]]) -> str:
    """The page's part that was measured."""
    judged = {tuple(line[key] for key in KEY): line for line in lines if "verdicts" in line}
    by_model: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for (package, model, precision), line in judged.items():
        by_model[package, line["version"], model][precision] = line
    verdicts = Counter(v for line in judged.values() for v in line["verdicts"].values())
    alarms = [about for about, by in by_model.items() if any(map(fails, by.values()))]
    seen = [by for by in by_model.values() if any(map(decides, by.values()))]
    one = next(iter(judged.values()))["versions"]
    text = (
        f"Python {one['python']}, TensorFlow {one['tensorflow']}, Keras {one['keras']}, tf-keras "
        f"{one['tf-keras']}. {len(by_model)} models of {len({p for p, *_ in by_model})} packages, "
        f"{len(judged)} with their precisions; {verdicts['passed']} verdicts passed, "
        f"{verdicts['vacuous']} were inconclusive, {verdicts['not applicable']} had nothing to "
        f"check, **{verdicts['failed']} failed**.\n\n{bound(len(alarms), len(seen))}\n\n"
        "| package | model | parameters | float32 | mixed_bfloat16 | mixed_float16 | margin |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    for (package, version_, model), by in sorted(by_model.items()):
        cells = [cell(by.get(precision)) for precision in PRECISIONS]
        any_line = next(iter(by.values()))
        margins = [line["margin"] for line in by.values() if line["margin"] is not None]
        size = f"{any_line['parameters']:,}" if any_line["parameters"] else ""
        margin = f"{max(margins):.2f}" if margins else "-"
        about = (f"{package} {version_}", model, size, *cells, margin)
        text += "| " + " | ".join(about) + " |\n"
    return text


def fails(line: dict[str, Any]) -> bool:
    return "failed" in line["verdicts"].values()


def decides(line: dict[str, Any]) -> bool:
    return not {"failed", "passed"}.isdisjoint(line["verdicts"].values())


def cell(line: dict[str, Any] | None) -> str:
    """What all checks say of a model in a precision."""
    if line is None:
        return "-"
    said = line["said"]
    failed = [said[check].split(":")[0] for check, v in line["verdicts"].items() if v == "failed"]
    if failed:
        return f"**failed** {', '.join(failed)}"
    open_ = [check for check, verdict in line["verdicts"].items() if verdict == "vacuous"]
    return f"inconclusive ({', '.join(open_)})" if open_ else "passed"


def bound(alarms: int, models: int) -> str:
    """How often there is a false alarm at most, by what was seen (95 %, Poisson)."""
    most = {0: 3.0, 1: 4.74, 2: 6.3, 3: 7.75}[alarms]
    share = min(1.0, most / max(models, 1))
    return (
        f"**{alarms} false alarms in {models} models**: of models like these at most "
        f"{share:.1%} get one, with 95 % confidence ({most:g} / {models}). The precisions "
        "of a model count once, since they are not independent."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="judge, and keep what was said here")
    parser.add_argument("--only", nargs="*", default=[], help="packages")
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS))
    parser.add_argument("--table", type=Path, nargs="*", help="write the page from these files")
    given = parser.parse_args()
    if given.out:
        run(given.out, given.only, given.precisions)
    if given.table:
        text = PAGE.read_text(encoding="utf-8").partition(START)[0]
        lines = [line for path in given.table for line in recorded(path)]
        PAGE.write_text(text + START + table(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
