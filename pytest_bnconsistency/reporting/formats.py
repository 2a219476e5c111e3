"""The formats of `--bn-report`, by name: each a module with a function `render(record) -> str`."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bnconsistency.errors import MissingDependencyError, OptionError
from pytest_bnconsistency.words import listed

OPTION = "--bn-report"
SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Format:
    """A module of `reporting`, and the libraries of an extra that it needs."""

    module: str
    needs: tuple[str, ...] = ()

    def render(self, record: Mapping[str, Any]) -> str:
        module = importlib.import_module(f"pytest_bnconsistency.reporting.{self.module}")
        text: str = module.render(record)
        return text


FORMATS: Mapping[str, Format] = {
    "json": Format("json_report"),
    "md": Format("markdown"),
    "sarif": Format("sarif"),
    "gitlab": Format("gitlab"),
    "html": Format("html", ("jinja2", "markdown_it")),
}


@dataclass(frozen=True)
class Output:
    """One report that was asked for: a format and where it goes."""

    name: str
    path: Path

    def write(self, record: Mapping[str, Any]) -> None:
        """Put the whole report in place at once, or leave what is there.

        Raises:
            OSError: the path can't be written.
        """
        text = FORMATS[self.name].render(record).encode("utf-8", "backslashreplace")
        summary = os.environ.get(SUMMARY)
        if summary and self.path == Path(os.path.realpath(summary)):
            _put(self.path, text, "ab")  # other steps write there, too
        elif self.path.exists() and not self.path.is_file():
            _put(self.path, text, "wb")  # a pipe or a device; a folder is an OSError
        else:
            _replace(self.path, text)


def outputs(specs: Iterable[str], folder: Path, option: str = OPTION) -> list[Output]:
    """What was asked for by `format:path`, a path from `folder` on.

    Raises:
        OptionError: there is no such format, no path, or one path twice.
        MissingDependencyError: the format needs a library that is not installed.
    """
    found: list[Output] = []
    for spec in specs:
        name, colon, path = spec.partition(":")
        if not colon or name not in FORMATS or not path.strip():
            raise OptionError(
                f"{option} is {spec!r}; expected FORMAT:PATH with a format of "
                f"{', '.join(FORMATS)}, as in 'json:run.json'"
            )
        expanded = os.path.expanduser(os.path.expandvars(path.strip()))
        if "$" in expanded:
            raise OptionError(f"{option} is {spec!r}, and no such variable is set; give a path")
        _require(option, name)
        target = Path(os.path.realpath(folder / expanded))
        if any(target == other.path for other in found):
            raise OptionError(f"{option} names {path!r} twice; expected a path for each report")
        found.append(Output(name, target))
    return found


def _require(option: str, name: str) -> None:
    missing = [need for need in FORMATS[name].needs if importlib.util.find_spec(need) is None]
    if missing:
        raise MissingDependencyError(
            f"{option} {name} takes {listed(missing)}, not installed here; install with: "
            "pip install 'pytest-bnconsistency[report]'"
        )


def _replace(path: Path, text: bytes) -> None:
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{path.parent.name} is a file, not a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        _put(whole, text, "wb")
        os.replace(whole, path)
    finally:
        whole.unlink(missing_ok=True)


def _put(path: Path, text: bytes, mode: str) -> None:
    with path.open(mode) as file:
        file.write(text)


def read(path: Path) -> dict[str, Any]:
    """The record that a JSON report holds.

    Raises:
        OptionError: there is no such file, or it holds no record that this version reads.
    """
    from pytest_bnconsistency.reporting.record import SCHEMA_VERSION

    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{str(path)!r} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        record = None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version is None or not {"versions", "run", "counts", "models", "errors"} <= record.keys():
        raise OptionError(
            f"{str(path)!r} holds no report of this plugin; expected what {OPTION} json:PATH wrote"
        )
    if version != SCHEMA_VERSION:
        raise OptionError(
            f"{str(path)!r} is of schema version {version}, and this plugin reads "
            f"{SCHEMA_VERSION}; expected the version of the plugin that wrote it"
        )
    read: dict[str, Any] = record
    return read
