"""Writes docs/reference/fault-table.md from what tests expected, and found, in some environments.

    pytest --junitxml=one.xml
    python .ci/fault_table.py one.xml .tox/*/junit.xml

Any run of any tests that leaves such a file counts; files of the same versions are a column, and
of what they share the last one counts. The page is written anew.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "fault-table.md"
START = "<!-- measured -->\n"
KINDS = {
    "Keras3Subject": "Keras 3",
    "TfKerasSubject": "tf_keras",
    "ModuleSubject": "tf.Module",
    "SavedModelSubject": "SavedModel",
    "FunctionSubject": "function",
}
LIBRARIES = ("tensorflow", "keras", "tf-keras", "numpy", "pytest")
NOT_RUN, FOUND, SKIPPED = "", "found", "skipped"


class Fault(NamedTuple):
    """A row: what a test makes wrong, in a framework, and which rule must find it."""

    check: str
    file: str
    test: str
    case: str
    framework: str
    rule: str


class Test(NamedTuple):
    file: str
    name: str


@dataclass
class Seen:
    """What one environment said of a fault."""

    found: bool = True
    said: set[str] = field(default_factory=set)
    layers: dict[str, None] = field(default_factory=dict)
    tested: bool = True
    remedy: str = ""


@dataclass
class Environment:
    versions: Mapping[str, str]
    faults: dict[Fault, Seen]
    outcomes: dict[Test, str]

    def cell(self, fault: Fault) -> str:
        """What a column says of a row."""
        if fault in self.faults:
            seen = self.faults[fault]
            return FOUND if seen.found else f"**not found** ({', '.join(sorted(seen.said))})"
        outcome = self.outcomes.get(Test(fault.file, _whole(fault)), NOT_RUN)
        return "**not found** (error)" if outcome == "failed" else outcome


def read(report: Path) -> Environment:
    """The expectations in a file of JUnit's."""
    faults: dict[Fault, Seen] = {}
    outcomes: dict[Test, str] = {}
    versions: Mapping[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").removeprefix("tests.").replace(".", "/")
        test, framework = _without_framework(case.get("name", ""))
        outcomes[Test(file, f"{test} {framework}")] = _outcome(case)
        expected = [
            json.loads(one.get("value", ""))
            for one in case.iter("property")
            if one.get("name") == "expectation"
        ]
        for one in expected:
            versions = one["versions"]
            if one["rule"]:
                fault = _fault(file, test, one)
                _add(faults.setdefault(fault, Seen()), one, expected)
    return Environment(versions, faults, outcomes)


def _fault(file: str, test: str, one: Mapping[str, Any]) -> Fault:
    name, _, case = test.partition("[")
    framework = KINDS.get(one["kind"], "adapter")
    return Fault(one["check"], file, name, case.removesuffix("]"), framework, one["rule"])


def _add(seen: Seen, one: Mapping[str, Any], all_of_test: Sequence[Mapping[str, Any]]) -> None:
    seen.found &= one["met"]
    seen.said |= {rule for rule, _, _ in one["found"]} or {one["verdict"]}
    for rule, layer, tested in one["found"]:
        if rule == one["rule"]:
            seen.layers[layer] = None
            seen.tested &= tested
    later = all_of_test[all_of_test.index(one) + 1 :]
    if any(_is_mended(one, other) for other in later):
        seen.remedy = "passes"
    elif any(other["check"] == one["check"] and _passes(other) for other in all_of_test):
        seen.remedy = seen.remedy or "twin passes"


def _passes(one: Mapping[str, Any]) -> bool:
    return bool(one["verdict"] == "passed" and one["met"])


def _is_mended(one: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether what failed passes later: the same model, or what the test made of it."""
    keys = ("check", "model", "options")
    same = "model" in one and all(one[key] == later[key] for key in keys)
    return _passes(later) and (same or (later["remedied"] and one["check"] == later["check"]))


def _without_framework(name: str) -> tuple[str, str]:
    """A test's name without the generation of Keras in its case, and that generation."""
    test, bracket, case = name.partition("[")
    parts = case.removesuffix("]").split("-") if bracket else []
    generation = next((part for part in parts if part in ("keras", "tf_keras")), "")
    if generation:
        parts.remove(generation)
    rest = "-".join(parts)
    return f"{test}[{rest}]" if rest else test, generation


def _whole(fault: Fault) -> str:
    generation = {"Keras 3": "keras", "tf_keras": "tf_keras"}.get(fault.framework, "")
    return (
        f"{fault.test}[{fault.case}] {generation}" if fault.case else f"{fault.test} {generation}"
    )


def _outcome(case: ElementTree.Element) -> str:
    children = {child.tag for child in case}
    if children & {"failure", "error"}:
        return "failed"
    return SKIPPED if "skipped" in children else "passed"


def words(fault: Fault) -> str:
    """A test's name as it reads."""
    said = fault.test.removeprefix("test_").replace("_", " ")
    case = re.sub(r"[^ -~]|\|", " ", fault.case)
    return f"{said}: {case}" if case else said


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def head(cells: Sequence[str]) -> str:
    return row(cells) + "|---" * len(cells) + "|\n"


def named(layers: Iterable[str]) -> str:
    names = [f"`{layer}`" for layer in layers if layer]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def page(environments: Sequence[Environment]) -> str:
    """The tables: environments, and the faults of each check."""
    rows: dict[str, dict[Fault, Seen]] = defaultdict(dict)
    for environment in environments:
        for fault, seen in environment.faults.items():
            rows[fault.check].setdefault(fault, seen)
    letters = [chr(ord("A") + index) for index in range(len(environments))]
    faults = [fault for known in rows.values() for fault in known]
    text = head(("", "Python", *LIBRARIES, "faults", FOUND, "not found", SKIPPED))
    for letter, environment in zip(letters, environments, strict=True):
        counts = Counter(environment.cell(fault).partition(" (")[0] for fault in faults)
        missed = counts["**not found**"]
        versions = (environment.versions.get(name) or "-" for name in ("python", *LIBRARIES))
        tried = counts[FOUND] + missed
        numbers = (tried, counts[FOUND], missed, counts[SKIPPED])
        text += row((letter, *versions, *map(str, numbers)))
    seen_ = [seen for known in rows.values() for seen in known.values() if seen.found]
    tested = sum(seen.tested for seen in seen_)
    remedies = Counter(seen.remedy for seen in seen_)
    text += (
        f"\nOf {len(seen_)} faults that were found, the cause of {tested} was tested. "
        f"The remedy was tried on {remedies['passes']} and passed; for {remedies['twin passes']} "
        "more the sound twin passed.\n"
    )
    for check, known in sorted(rows.items()):
        text += f"\n## {check}\n"
        text += head(("fault", "framework", "rule", "layer", "cause", "remedy", *letters))
        for fault in sorted(known):
            seen = known[fault]
            cause = "tested" if seen.tested else "open"
            columns = (one.cell(fault) or "-" for one in environments)
            about = (words(fault), fault.framework, fault.rule, named(seen.layers))
            text += row((*about, cause, seen.remedy or "-", *columns))
    return text


def newest_first(environment: Environment) -> list[list[int]]:
    cells = [environment.versions.get(name) or "0" for name in ("tensorflow", "keras", "python")]
    return [[-int(part) for part in re.findall(r"\d+", cell)[:3]] for cell in cells]


def joined(environments: Iterable[Environment]) -> list[Environment]:
    """One for each set of versions."""
    by_versions: dict[tuple[str, ...], Environment] = {}
    for one in environments:
        if not one.faults:
            continue
        key = tuple(one.versions.get(name) or "-" for name in ("python", *LIBRARIES))
        known = by_versions.setdefault(key, Environment(one.versions, {}, {}))
        again = {fault._replace(check="", rule="") for fault in one.faults}
        for fault in [f for f in known.faults if f._replace(check="", rule="") in again]:
            del known.faults[fault]
        known.faults.update(one.faults)
        known.outcomes.update(one.outcomes)
    return sorted(by_versions.values(), key=newest_first)


def main(reports: Iterable[Path]) -> None:
    environments = joined(map(read, reports))
    before = PAGE.read_text(encoding="utf-8").partition(START)[0]
    PAGE.write_text(before + START + page(environments), encoding="utf-8")


if __name__ == "__main__":
    main(map(Path, sys.argv[1:]))
