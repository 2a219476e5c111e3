"""The file of a baseline: JSON with one fact a line, so that git shows what moved, and merges it.

Each block carries a sum of its facts: a file that was damaged, or merged into what nobody
measured, is told, and never taken for a baseline.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_bnconsistency.checks.baseline.facts import (
    OUTPUTS,
    SECTIONS,
    STATISTICS,
    Block,
    Blocks,
    Facts,
    short,
)
from pytest_bnconsistency.errors import BaselineError

FORMAT = 1
NAME, SUM = "name", "sum"
HEAD = "baseline"
AGAIN = "delete it and record it anew: pytest --bn-update-baseline=new"
_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def written(facts: Facts) -> str:
    """The text of the file."""
    document: dict[str, Any] = {
        HEAD: _summed(HEAD, _head(facts)),
        "versions": _summed("versions", facts.versions),
        "graph": list(facts.graph),
        "weights": _summed("weights", facts.weights),
    }
    for name, blocks in facts.sections():
        document[name] = [_summed(name, block, key) for key, block in blocks.items()]
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def save(path: Path, text: str) -> None:
    """Put `text` into the file at once or not at all.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def read(path: Path) -> Facts:
    """The facts in the file.

    Raises:
        BaselineError: it can't be read, or is damaged; the sentence names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise _damaged(path, line, "is no text in UTF-8") from None
    except OSError as error:
        raise BaselineError(f"baseline {path} can't be read: {error.strerror}") from None
    return parsed(text, path)


def parsed(text: str, path: Path) -> Facts:
    """The facts in `text`, which stands in the file at `path`.

    Raises:
        BaselineError: it is damaged.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"(<{7}|={7}|>{7}|\|{7})( |$)", line):
            raise BaselineError(
                f"baseline {path}, line {number}: a merge conflict begins; take the facts of one "
                f"side, or {AGAIN}"
            )
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(path, error.lineno, f"is no JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise _damaged(path, 1, "is no baseline") from None
    try:
        return _Reader(text, path).facts(document)
    except _WrongError as wrong:
        raise _damaged(path, _line_of(text, wrong.place), wrong.said) from None


def diff(before: str, after: str, path: Path) -> list[str]:
    """What went and what came between two texts of one file, each fact with what it is about."""
    mine, its = (parsed(text, path) for text in (before, after))
    layers = list(difflib.unified_diff(mine.graph, its.graph, n=0, lineterm=""))[2:]  # no names
    lines = [f"{line[0]}graph {line[1:]}" for line in layers if line[0] != "@"]
    was, now = (dict(_values(facts)) for facts in (mine, its))
    for fact in dict.fromkeys([*was, *now]):
        if was.get(fact) != now.get(fact):
            lines += [
                f"{sign}{fact} {known[fact]}"
                for sign, known in (("-", was), ("+", now))
                if fact in known
            ]
    return lines


def _values(facts: Facts) -> Iterator[tuple[str, str]]:
    """Each fact but the graph, by what it is about; digests, which nobody reads, at the end."""
    said, digested = {"versions": facts.versions}, dict[str, Block]()
    for name, found in facts.sections():
        blocks = digested if name in (STATISTICS, OUTPUTS) else said
        blocks |= {f"{name} {key}": block for key, block in found.items()}
    for name, block in {**said, **digested, "weights": facts.weights}.items():
        for fact, value in block.items():
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{name}: {fact}", text


class _WrongError(Exception):
    """What is wrong, and in which place: keys and indices from the outside in."""

    def __init__(self, place: tuple[str | int, ...], said: str) -> None:
        super().__init__(said)
        self.place, self.said = place, said


class _Reader:
    def __init__(self, text: str, path: Path) -> None:
        self._text, self._path = text, path

    def facts(self, document: Any) -> Facts:
        expected = (HEAD, "versions", "graph", "weights", *SECTIONS)
        _keys(document, expected)
        self._no_key_twice()
        head = document[HEAD]
        if isinstance(head, dict) and head.get("format") != FORMAT:
            raise _WrongError((HEAD, "format"), f"is a format that is not {FORMAT}")
        head = _block((HEAD,), head)
        graph = document["graph"]
        if not (isinstance(graph, list) and all(isinstance(line, str) for line in graph)):
            raise _WrongError(("graph",), "is no list of layers")
        facts = Facts(
            model=str(head.get("model")),
            batch=str(head.get("batch")),
            versions=_block(("versions",), document["versions"]),
            graph=tuple(graph),
            weights=_block(("weights",), document["weights"]),
        ).with_sections({name: _blocks(name, document[name]) for name in SECTIONS})
        for name, value in _head(facts).items():
            if head.get(name) != value:
                said = f"says {name} {head.get(name)!r}, and the file holds {value!r}"
                raise _WrongError((HEAD, name), said)
        return facts

    def _no_key_twice(self) -> None:
        seen = set[tuple[str | int, ...]]()
        for place, _ in _places(self._text):
            if place in seen:
                raise _WrongError(place, f"says {place[-1]!r} a second time")
            seen.add(place)


def _head(facts: Facts) -> dict[str, Any]:
    counts = {name: len(blocks) for name, blocks in facts.sections()}
    graph = zlib.crc32("\n".join(facts.graph).encode())
    return {
        "format": FORMAT,
        "model": facts.model,
        "batch": facts.batch,
        "graph": f"{len(facts.graph)} layers, {graph:08x}",
        **counts,
    }


def _keys(document: Any, expected: tuple[str, ...]) -> None:
    if not isinstance(document, dict):
        raise _WrongError((), "is no baseline: expected an object")
    for key in expected:
        if key not in document:
            raise _WrongError((), f"is no whole baseline: {key!r} is missing")
    for key in document:
        if key not in expected:
            raise _WrongError((key,), f"says {key!r}, which no baseline does")


def _blocks(name: str, given: Any) -> Blocks:
    if not isinstance(given, list):
        raise _WrongError((name,), "is no list")
    found: dict[str, Block] = {}
    for index, entry in enumerate(given):
        block = dict(_block((name, index), entry))
        key = block.pop(NAME, None)
        if not isinstance(key, str):
            raise _WrongError((name, index), "has no name")
        if key in found:
            raise _WrongError((name, index, NAME), f"is {key!r} a second time")
        found[key] = block
    return found


def _block(place: tuple[str | int, ...], given: Any) -> Block:
    if not isinstance(given, dict):
        raise _WrongError(place, "is no block of facts")
    for key, value in given.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise _WrongError((*place, key), f"gives {key!r} no plain value")
    facts = {key: value for key, value in given.items() if key != SUM}
    if given.get(SUM) != _sum(str(place[0]), facts):
        raise _WrongError(
            (*place, SUM), "is the checksum of other facts: its block was edited by hand or merged"
        )
    return facts


def _summed(section: str, block: Block, name: str | None = None) -> dict[str, Any]:
    facts = {key: short(block[key]) for key in sorted(block)}
    named = facts if name is None else {NAME: name, **facts}
    return {**named, SUM: _sum(section, named)}


def _sum(section: str, facts: Mapping[str, Any]) -> str:
    """A sum over the facts of a block in their section, however their numbers are written."""
    plain: dict[str, Any] = {
        key: f"{v:.9g}" if isinstance(v, float) else v for key, v in facts.items()
    }
    said = json.dumps([section, plain], sort_keys=True)
    return f"{zlib.crc32(said.encode()):08x}"


def _damaged(path: Path, line: int, what: str) -> BaselineError:
    return BaselineError(f"baseline {path}, line {line}: it {what}; restore the file, or {AGAIN}")


def _line_of(text: str, place: tuple[str | int, ...]) -> int:
    """The line in which the last value at `place` begins, or the nearest that holds it."""
    lines = dict(_places(text))
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _places(text: str) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Each value of a JSON text by keys and indices from the outside in, with its line."""
    stack: list[str | int] = []
    kinds: list[str] = []
    key: str | None = None
    line, position = 1, 0
    for token in _TOKEN.finditer(text):
        line += text.count("\n", position, token.start())
        position = token.start()
        word = token.group()
        if word in ("}", "]"):
            kinds.pop()
            stack.pop()
            continue
        if word == ":":
            continue
        if word == ",":
            if kinds[-1] == "[":
                stack[-1] = int(stack[-1]) + 1
            key = None
            continue
        if kinds and kinds[-1] == "{" and key is None:
            key = stack[-1] = json.loads(word)
            continue
        yield tuple(stack), line
        if word in "{[":
            kinds.append(word)
            stack.append(0 if word == "[" else "")
            key = None
