"""A record as one page of HTML that asks for nothing: styles, script and pictures are in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markdown_it import MarkdownIt
from markupsafe import Markup

from pytest_bnconsistency.reporting import layers, pictures
from pytest_bnconsistency.reporting.problems import cut
from pytest_bnconsistency.reporting.record import VERDICTS, check_names
from pytest_bnconsistency.reporting.summary import NAMES, headline, missing, state
from pytest_bnconsistency.rules import catalogue, pages
from pytest_bnconsistency.words import printable

SYMBOLS = {
    "passed": "\N{CHECK MARK}",
    "failed": "\N{BALLOT X}",
    "vacuous": "?",
    "not applicable": "\N{EN DASH}",
    "expected": "\N{CIRCLED TIMES}",
}
EFFECTS = {"fail": "fails its test", "warn": "warns", "skip": "fails nothing"}
TEXTS = ("message", "cause", "tested", "remedy", "bound", "recipe")
KINDS = ("findings", "warnings", "ignored")
TITLE = 120
"""Characters of a name in a heading; the whole of it stands below."""
ROOMY = 80
"""So many checks and findings may take as much room as they like."""
LEAST_AND_MOST = (3, 25), (5, 60), (300, 6_000)
"""The room for bars, rows and characters, on the fullest page and on any other."""


@dataclass(frozen=True)
class Entry:
    """A check, and what the page says of it as a whole."""

    anchor: str
    check: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return "expected" if self.check["outcome"] == "expected" else str(self.check["verdict"])

    @property
    def word(self) -> str:
        return NAMES[self.kind]

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.kind]

    @property
    def effect(self) -> str:
        """What the verdict does to the test, where that is not plain."""
        return "" if self.kind == "failed" else EFFECTS.get(self.check["outcome"], "")

    @property
    def fails(self) -> bool:
        return bool(self.check["outcome"] == "fail")

    @property
    def figure(self) -> str:
        return pictures.figure(self.check)

    @property
    def pictures(self) -> list[pictures.Picture]:
        return list(pictures.of_check(self.check["evidence"]))

    @property
    def entry_points(self) -> dict[str, Any] | None:
        return _table(("entry point", "seen"), pictures.entry_points(self.check["evidence"]))

    @cached_property
    def rules(self) -> list[str]:
        ignored = [one["finding"] for one in self.check["ignored"]]
        found = [*self.check["findings"], *self.check["warnings"], *ignored]
        return list(dict.fromkeys(finding["rule"] for finding in found))

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that somebody gave."""
        return {k: one for k, one in self.check["settings"].items() if one["source"] != "default"}

    @property
    def defaults(self) -> str:
        known = {k: v for k, v in self.check["settings"].items() if k not in self.chosen}
        return ", ".join(f"{name} {_json(one['value'])}" for name, one in known.items())


@dataclass(frozen=True)
class Section:
    """A model, and its checks."""

    anchor: str
    model: Mapping[str, Any]
    entries: Sequence[Entry]

    @property
    def title(self) -> str:
        return cut(self.model["title"], TITLE)

    @property
    def name(self) -> str:
        return cut(self.model["name"], TITLE) if self.model["name"] != self.model["title"] else ""

    def of(self, check: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.check["check"] == check]

    @property
    def layers(self) -> layers.LayerTable | None:
        return layers.table(self.model.get("layers", []))

    @property
    def pictures(self) -> list[pictures.Picture]:
        return list(pictures.of_layers(self.model.get("layers", [])))

    @property
    def failing(self) -> int:
        return sum(entry.fails for entry in self.entries)

    @property
    def worst(self) -> str:
        """What fails first; where nothing does, what is unusual, or else what is ignored."""
        checks = [entry.check for entry in self.entries]
        failing = [entry.check["headline"] for entry in self.entries if entry.fails]
        unusual = [f"unusual: {one['headline']}" for check in checks for one in check["warnings"]]
        ignored = [
            f"ignored: {one['finding']['headline']}"
            for check in checks
            for one in check["ignored"]
        ]
        return cut([*failing, *unusual, *ignored, ""][0], 2 * TITLE)

    @property
    def seconds(self) -> float:
        return sum(float(entry.check["seconds"]) for entry in self.entries)


@dataclass(frozen=True)
class Room:
    """How much of what is long stands on the page; the rest is in the JSON record.

    `bars` of a picture, `rows` of a table, and `characters` of numbers.
    """

    bars: int
    rows: int
    characters: int

    @property
    def is_tight(self) -> bool:
        return self.bars < LEAST_AND_MOST[0][1]

    @classmethod
    def among(cls, places: int) -> Room:
        """The room where so many checks and findings share the page: it must open at once."""
        share = min(1.0, ROOMY / max(places, 1))
        return cls(*(max(least, round(most * share)) for least, most in LEAST_AND_MOST))


def render(record: Mapping[str, Any]) -> str:
    """The page of a record; the same bytes each time.

    Raises:
        LookupError: the record lacks something.
    """
    environment = Environment(
        loader=PackageLoader("pytest_bnconsistency.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        json=_json, numbers=_numbers, lines=_lines, pictures=_pictures, batches=_batches
    )
    environment.globals["Markup"] = Markup
    try:
        return environment.get_template("page.html.jinja").render(_context(environment, record))
    except UndefinedError as error:
        raise LookupError(str(error)) from error


def _context(environment: Environment, record: Mapping[str, Any]) -> dict[str, Any]:
    sections = [_section(position, model) for position, model in enumerate(record["models"], 1)]
    entries = [entry for section in sections for entry in section.entries]
    met = sorted({rule for entry in entries for rule in entry.rules})
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    findings = sum(len(c[k]) for c in (e.check for e in entries) for k in KINDS)
    return {
        "record": record,
        "defaults": _usual(entry.defaults for entry in entries),
        "room": Room.among(len(entries) + findings),
        "sections": sections,
        "state": state(record),
        "headline": headline(record),
        "missing": list(missing(record)),
        "versions": ", ".join(f"{name} {v}" for name, v in record["versions"].items() if v),
        "checks": check_names(record["models"]),
        "verdicts": _verdicts({entry.kind for entry in entries}),
        "rules": met,
        "pages": dict(_pages(met)),
        "texts": TEXTS,
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }


def _usual(texts: Iterable[str]) -> str:
    return next((text for text, _ in Counter(texts).most_common(1)), "")


def _verdicts(kinds: Collection[str]) -> list[str]:
    return [NAMES[kind] for kind in (*VERDICTS, "expected") if kind in kinds]


def _section(position: int, model: Mapping[str, Any]) -> Section:
    anchor = f"m{position}"
    checks = enumerate(model["checks"], 1)
    return Section(anchor, model, [Entry(f"{anchor}-{n}", check) for n, check in checks])


def _pages(rules: Iterable[str]) -> Iterator[tuple[str, Markup]]:
    """The page of each rule that this version knows, as HTML."""
    known = {rule.id: rule for rule in catalogue.ALL}
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name in rules:
        if name in known:
            tokens = reader.parse(pages.plain(known[name]))
            for token in tokens:
                if token.type.startswith("heading_"):
                    token.tag = f"h{int(token.tag[1]) + 2}"
            yield name, Markup(reader.renderer.render(tokens, reader.options, {}))


def _source(environment: Environment, name: str) -> Markup:
    """A file of this package, as it is."""
    loader = environment.loader
    assert loader is not None
    return Markup(loader.get_source(environment, name)[0])


def _hash(source: str) -> str:
    """What a Content-Security-Policy knows an inline style or script by."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _harmless(value: object) -> object:
    """What stands on the page: names of the user's without what a terminal or a reader obeys."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _numbers(evidence: Mapping[str, Any], most: int) -> str:
    """Evidence line by line in six digits, cut where it is longer than that."""
    text = "\n".join(f"{key}: {_json(_rounded(value))}" for key, value in evidence.items())
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}\n{more} more characters, in the JSON record"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _lines(text: str) -> Markup:
    """A text of several lines, to stand in `<pre>`."""
    lines = (printable(line) for line in text.split("\n"))
    return Markup("\n".join(escape(line, quote=False) for line in lines))


def _pictures(finding: Mapping[str, Any]) -> list[pictures.Picture]:
    return list(pictures.of_finding(finding["evidence"]))


def _batches(finding: Mapping[str, Any]) -> dict[str, Any] | None:
    return _table(("entry points", "batch"), pictures.batches(finding["evidence"]))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any] | None:
    return {"columns": columns, "rows": rows, "more": 0} if rows else None
