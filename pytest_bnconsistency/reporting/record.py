"""The record of a run: one plain dict, which JSON holds as it is, and all other formats read.

    {
      "schema_version": 1,
      "versions": {"python": "3.12.3", "tensorflow": "2.21.0", "tf-keras": null, ...},
      "run": {
        "started": "2026-01-31T09:30:00+00:00", "seconds": 12.5, "exit_status": 1,
        "complete": true,           false if tests are missing from the record
        "stopped": "",              why the run ended early: "KeyboardInterrupt", "..."
        "crashed": [{"test": "test_a.py::test_b", "message": "worker 'gw0' crashed ..."}],
        "not_run": ["test_a.py::test_c"],            collected, and without an outcome
        "folder": "packages/a"      where the paths begin, within the repository; "" at its top
      },
      "counts": {"models": 1, "checks": 2, "passed": 1, "failed": 1, "vacuous": 0,
                 "not applicable": 0, "failing": 1, "expected": 0, "ignored": 0,
                 "warnings": 0, "errors": 0},
      "models": [                   sorted by place
        {
          "title": "models:build",  what it was named as, else the suite, else the test
          "name": "resnet50",       its own name
          "path": "models.py", "line": 12,           of the factory, the suite, or the test
          "layers": [LAYER],        the normalization layers in the order in which they run, as
                                    far as the checks saw them
          "checks": [               in the order of their tests; one check may stand here twice
            {
              "check": "batch_invariance",
              "verdict": "failed",  or "passed", "vacuous", "not applicable"
              "outcome": "fail",    what it did to its test: "pass", "fail", "skip", "warn", or
                                    "expected": it failed, and the test wants that
              "headline": "BN101 ...", "summary": "", "hint": "", "waived": false,
              "findings": [FINDING], "warnings": [FINDING],
              "ignored": [{"finding": FINDING, "reason": "...", "entries": ["BN104 head/*"]}],
              "unmatched": [],      entries of the option "ignore" that no finding matches
              "notes": ["..."], "table": TABLE or null, "evidence": {...},
              "seconds": 1.5, "traces": 3,
              "settings": {"rows": {"value": 8, "source": "default"}, ...},
              "test": "models.py::build::batch_invariance", "path": "models.py", "line": 12,
              "reproduce": "pytest ..."
            }
          ]
        }
      ],
      "errors": [                   what kept a check from running
        {"kind": "misuse", "title": "models:build", "test": "...", "path": "...", "line": 1,
         "message": "..."}          or kind "error" (the user's code raised), "collection"
      ]
    }

    FINDING: {"rule", "slug", "headline", "layer", "layers", "message", "cause", "cause_tested",
              "tested", "remedy", "bound", "table", "evidence", "recipe", "code"}
    LAYER:   {"path", "kind", "momentum", "epsilon", "axis", "dtype", "statistics_dtype",
              "trainable", "frozen_by", "modes": {"call", "predict", "training"}, "updates",
              "initial_share", "initial_share_measured",
              "population": {"mean": {"standard_errors", "off", "ratio"}, ...}},
              null for what no check saw
    TABLE:   {"columns": [...], "rows": [[...]], "more": 0}, all cells text

Numbers are numbers, but for "nan", "inf" and "-inf". Names of the user's stand as they are: every
format escapes them. Paths have forward slashes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pytest_bnconsistency.results import CheckResult, Finding, plain
from pytest_bnconsistency.settings import CHECK_NAMES

Record: TypeAlias = dict[str, Any]
SCHEMA_VERSION = 1
VERDICTS = ("passed", "failed", "vacuous", "not applicable")


@dataclass(frozen=True)
class Place:
    """Where a test is written, and which model it is about."""

    title: str
    test: str
    path: str
    line: int
    reproduce: str = ""
    shared: bool = False
    """Whether the model is that of other tests with this title, too, each maybe in a process of
    its own, where Keras may number its name otherwise."""


@dataclass
class Ending:
    """How a run went as a whole."""

    started: str
    seconds: float
    exit_status: int
    folder: str = ""
    stopped: str = ""
    crashed: list[dict[str, str]] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


def check_entry(result: CheckResult, outcome: str, place: Place) -> Record:
    """A result as it stands in the record, with the name of its model."""
    run = result.run
    settings = run.settings if run else {}
    entry = {
        "name": run.model if run else "",
        "title": place.title,
        "shared": place.shared,
        "check": result.check,
        "verdict": result.verdict,
        "outcome": outcome,
        "headline": result.headline,
        "summary": result.summary,
        "hint": result.hint,
        "waived": result.waived,
        "findings": [_finding(finding) for finding in result.findings],
        "warnings": [_finding(finding) for finding in result.warnings],
        "ignored": [
            {"finding": _finding(one.finding), "reason": one.reason, "entries": one.entries}
            for one in result.ignored
        ],
        "unmatched": result.unmatched,
        "notes": result.notes,
        "table": result.table,
        "evidence": result.evidence,
        "seconds": round(run.seconds, 3) if run else 0.0,
        "traces": run.traces if run else 0,
        "layers": run.layers if run else (),
        "settings": {
            name: {"value": value, "source": source} for name, (value, source) in settings.items()
        },
        "test": place.test,
        "path": place.path,
        "line": place.line,
        "reproduce": place.reproduce,
    }
    read: Record = json.loads(json.dumps(plain(entry)))
    return read


def build(
    entries: Iterable[Mapping[str, Any]],
    errors: Iterable[Mapping[str, Any]],
    ending: Ending,
    versions: Mapping[str, str | None],
) -> Record:
    """The record of a run: its checks by model, in an order that no worker has a say in."""
    models: dict[tuple[str, str], Record] = {}
    for entry in sorted(entries, key=_order):
        check = dict(entry)
        title, name, layers = check.pop("title"), check.pop("name"), check.pop("layers")
        own = "" if check.pop("shared", False) else name
        start = {"title": title, "name": name, "path": check["path"], "line": check["line"]}
        model = models.setdefault((title, own), {**start, "layers": [], "checks": []})
        model["layers"] = _joined(model["layers"], layers)
        model["checks"].append(check)
    failed = [dict(error) for error in sorted(errors, key=_order)]
    uncollected = any(error["kind"] == "collection" for error in failed)
    crashed = sorted(ending.crashed, key=lambda crash: _natural(crash["test"]))
    return {
        "schema_version": SCHEMA_VERSION,
        "versions": dict(versions),
        "run": {
            "started": ending.started,
            "seconds": round(ending.seconds, 3),
            "exit_status": ending.exit_status,
            "complete": not (ending.stopped or crashed or ending.not_run or uncollected),
            "stopped": ending.stopped,
            "crashed": crashed,
            "not_run": sorted(ending.not_run, key=_natural),
            "folder": ending.folder,
        },
        "counts": _counts(list(models.values()), failed),
        "models": list(models.values()),
        "errors": failed,
    }


def checks(record: Mapping[str, Any]) -> Iterator[tuple[Record, Record]]:
    """The checks of a record, each with its model."""
    for model in record["models"]:
        for check in model["checks"]:
            yield model, check


def check_names(models: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the checks of some models, in the order in which they are always told."""
    met = dict.fromkeys(check["check"] for model in models for check in model["checks"])
    return sorted(met, key=lambda name: [*CHECK_NAMES, name].index(name))


def _joined(known: Sequence[Record], more: Sequence[Record]) -> list[Record]:
    """The facts of a model's layers by what several checks saw: those of who saw most, filled up.

    Checks of one model may run in several processes, each of which sees a part.
    """
    most, other = sorted((known, more), key=_seen, reverse=True)
    by_path = {layer["path"]: layer for layer in other}
    return [_filled(layer, by_path.get(layer["path"], {})) for layer in most]


def _seen(facts: object) -> int:
    """How many values are known, in facts or parts of them."""
    if isinstance(facts, Mapping):
        return sum(map(_seen, facts.values()))
    if isinstance(facts, Sequence) and not isinstance(facts, str):
        return sum(map(_seen, facts))
    return facts is not None


def _filled(facts: Mapping[str, Any], other: Mapping[str, Any]) -> Record:
    """`facts`, with what `other` knows where they know nothing."""
    found = dict(facts)
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping):
            found[key] = _filled(found[key], value)
        elif found.get(key) is None:
            found[key] = value
    return found


def _counts(models: Sequence[Record], errors: Sequence[Record]) -> dict[str, int]:
    found = [check for model in models for check in model["checks"]]
    outcomes = Counter(check["outcome"] for check in found)
    verdicts = Counter(c["verdict"] for c in found if c["outcome"] != "expected")
    return {
        "models": len(models),
        "checks": len(found),
        **{verdict: verdicts[verdict] for verdict in VERDICTS},
        "failing": outcomes["fail"],
        "expected": outcomes["expected"],
        "ignored": sum(len(check["ignored"]) for check in found),
        "warnings": sum(len(check["warnings"]) for check in found),
        "errors": len(errors),
    }


def _finding(finding: Finding) -> Record:
    return {"headline": finding.headline, **vars(finding), "layers": finding.places}


def _order(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["path"], entry["line"], _natural(entry["test"])


def _natural(text: str) -> list[tuple[int, str]]:
    """A key by which `test[2]` comes before `test[10]`."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
