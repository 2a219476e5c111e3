"""A record as Markdown that fits a comment on a pull request: failures first, details folded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.reporting.problems import cut
from pytest_bnconsistency.reporting.record import check_names, checks
from pytest_bnconsistency.reporting.summary import NAMES, headline, missing, state

LONGEST = 64_000
"""Bytes; GitHub takes 65,536 characters."""
REST = "\nThe rest did not fit here; `--bn-report json:PATH` holds everything.\n"
CELL, LINE, BODY, FINDINGS = 120, 400, 8_000, 3
_SPECIAL = re.compile(r"[&<>\"'`*_{}\[\]()#+\-.!|~\\:@$^=]")
LABELS = ("layer", "cause", "tested", "remedy", "bound", "recipe", "code")


def render(record: Mapping[str, Any]) -> str:
    """As many of the parts as fit, the most urgent first."""
    parts, left = list[str](), LONGEST - len(REST)
    for part in _parts(record):
        left -= _size(part)
        if left < 0:
            return "".join([*parts, REST])
        parts.append(part)
    return "".join(parts)


def code(words: str, longest: int = CELL) -> str:
    """Words of the user's, which no reader of Markdown or HTML takes for its own."""
    escaped = _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", cut(words, longest))
    return f"<code>{escaped}</code>"


def _parts(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"### Normalization consistency: {state(record)}\n\n{headline(record)}\n"
    for line in missing(record):
        yield f"\n**Missing:** {code(line, 400)}\n"
    yield from _failures(record)
    yield from _accepted(record)
    yield from _overview(record)
    known = [f"{name} {version}" for name, version in record["versions"].items() if version]
    yield f"\n{code(', '.join(known), 400)}\n"


def _failures(record: Mapping[str, Any]) -> Iterator[str]:
    for model, check in checks(record):
        if check["outcome"] == "fail":
            yield _folded(f"❌ {code(check['headline'], 300)}", _lines_of_check(model, check))
    for error in record["errors"]:
        lines = [error["message"], f"test       {error['test']}"]
        yield _folded(f"❌ error: {code(error['message'], 300)}", lines)


def _accepted(record: Mapping[str, Any]) -> Iterator[str]:
    """What fails nothing: ignored findings with their reason, and warnings."""
    yield from _list(
        "ignored finding",
        (
            f"{code(one['finding']['headline'], 300)}: {code(one['reason'], 300)}"
            for _, check in checks(record)
            for one in check["ignored"]
        ),
    )
    yield from _list(
        "warning",
        (
            f"{code(warning['headline'], 300)} in {code(model['title'])}"
            for model, check in checks(record)
            for warning in check["warnings"]
        ),
    )


def _folded(title: str, lines: Iterable[str]) -> str:
    shown, left = list[str](), BODY
    for line in (cut(line, LINE) for line in lines):
        left -= _size(line)
        shown.append(line if left > 0 else "...")
        if left <= 0:
            break
    body = "\n".join(shown)
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n<details><summary>{title}</summary>\n\n{fence}text\n{body}\n{fence}\n\n</details>\n"


def _size(words: str) -> int:
    return len(words.encode("utf-8", "backslashreplace"))


def _lines_of_check(model: Mapping[str, Any], check: Mapping[str, Any]) -> Iterator[str]:
    shown = check["findings"][:FINDINGS]
    for finding in shown:
        yield finding["headline"]
        if finding["table"]:
            yield from text.table_lines(finding["table"])
        for label in LABELS:
            spoken = "tried" if label == "tested" and not finding["cause_tested"] else label
            yield from _labelled(spoken, finding[label])
        yield ""
    if len(shown) < len(check["findings"]):
        yield f"... and {len(check['findings']) - len(shown)} more findings"
        yield ""
    if not shown:
        yield check["headline"]
        yield from _labelled("hint", check["hint"])
    for note in check["notes"][:FINDINGS]:
        yield from _labelled("note", note)
    yield from _labelled("model", model["title"])
    yield from _labelled("test", check["test"])
    yield from _labelled("reproduce", check["reproduce"])


def _labelled(label: str, words: str) -> Iterator[str]:
    if words:
        yield f"{label:<11}{words}"


def _list(noun: str, items: Iterable[str]) -> Iterator[str]:
    """A folded list, in as many parts as it has items, so that some of a long one fit."""
    known = list(items)
    for start in range(0, len(known), 50):
        shown = "\n".join(f"- {item}" for item in known[start : start + 50])
        title = f"{noun}s: {len(known)}" if not start else f"{noun}s, continued"
        yield f"\n<details><summary>{title}</summary>\n\n{shown}\n\n</details>\n"


def _overview(record: Mapping[str, Any]) -> Iterator[str]:
    """Models by checks, in tables of some models each."""
    models = record["models"]
    titles = Counter(model["title"] for model in models)
    for start in range(0, len(models), 50):
        some = models[start : start + 50]
        names = check_names(some)
        rows = [["model", *map(code, names)], ["---"] * (len(names) + 1)]
        rows += [[_label(model, titles), *_cells(model, names)] for model in some]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        title = f"Models {start + 1} to {start + len(some)} of {len(models)}, by check"
        yield f"\n<details><summary>{title}</summary>\n\n{table}\n\n</details>\n"


def _label(model: Mapping[str, Any], titles: Mapping[str, int]) -> str:
    """What a model was named as, with its own name where one test has several."""
    title = code(model["title"])
    return title if titles[model["title"]] == 1 else f"{title} {code(model['name'])}"


def _cells(model: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        found = [check for check in model["checks"] if check["check"] == name]
        said = (
            NAMES["expected" if check["outcome"] == "expected" else check["verdict"]]
            for check in found
        )
        yield ", ".join(dict.fromkeys(said)) or "-"
