"""A result as plain text: a whole verdict in the first line, then the evidence."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pytest_bnconsistency.results import CheckResult, Finding, Table, Verdict

T = TypeVar("T")
WIDTH = 100
FINDINGS, ROWS, NOTES = 3, 6, 4
ON_PURPOSE = {
    Verdict.VACUOUS: "vacuous='skip', if no more can be checked here",
    Verdict.NOT_APPLICABLE: "not_applicable='pass', if there need be nothing to check",
}
"""How to say that a verdict that fails a test is as it should be."""


def render(result: CheckResult, *, verbose: bool = False, reproduce: str = "") -> str:
    """The text of `result`, about 25 lines, or all of it with `verbose`."""
    return "\n".join(lines(result, verbose=verbose, reproduce=reproduce))


def lines(result: CheckResult, *, verbose: bool = False, reproduce: str = "") -> Iterator[str]:
    if not result.findings:
        yield result.headline
        yield from _table(result.table, verbose)
        yield from _labelled("hint", result.hint)
        yield from _labelled("on purpose", ON_PURPOSE.get(result.verdict, ""))
        for warning in _cut(result.warnings, NOTES, verbose):
            yield from _warning(warning)
        for note in _cut(result.notes, NOTES, verbose):
            yield from _labelled("note", note)
        return
    shown = _cut(result.findings, FINDINGS, verbose)
    for position, finding in enumerate(shown):
        if position:
            yield ""
        yield from _finding(finding, verbose if position == 0 else False, brief=position > 0)
        yield from _labelled("replay", _replay(finding, reproduce), fold=False)
    if len(shown) < len(result.findings):
        hidden = len(result.findings) - len(shown)
        yield ""
        yield f"... and {hidden} more findings of this check (-vv shows them)"
    if verbose:
        yield from _table(result.table, verbose)
    for warning in _cut(result.warnings, NOTES, verbose):
        yield from _warning(warning)
    for note in _cut(result.notes, NOTES, verbose):
        yield from _labelled("note", note)
    if reproduce:
        yield from _labelled("reproduce", reproduce, fold=False)
    for rule in dict.fromkeys(finding.rule for finding in shown):
        yield from _labelled("rule", f"docs/rules/{rule}.md", fold=False)


def table_lines(plain: Mapping[str, Any], *, verbose: bool = False) -> Iterator[str]:
    """The table of a result that went through `CheckResult.to_dict`."""
    rows = tuple(tuple(row) for row in plain["rows"])
    return _table(Table(tuple(plain["columns"]), rows, plain["more"]), verbose)


def _finding(finding: Finding, verbose: bool, *, brief: bool) -> Iterator[str]:
    yield finding.headline
    if not brief:
        yield from _table(finding.table, verbose)
    yield from _labelled("layer", finding.layer)
    yield from _labelled("cause", finding.cause)
    yield from _labelled("tested" if finding.cause_tested else "tried", finding.tested)
    yield from _labelled("remedy", finding.remedy)
    yield from _labelled("bound", finding.bound)
    yield from _labelled("batch", finding.recipe)
    yield from _labelled("code", finding.code, fold=False)


def _replay(finding: Finding, reproduce: str) -> str:
    """What runs the finding's batch again, and nothing else."""
    if not finding.recipe or "--bn-replay" in reproduce:
        return ""
    if not reproduce:
        return f"replay={finding.recipe!r}, in the call"
    return f"{reproduce} --bn-replay {shlex.quote(finding.recipe)}"


def warning_lines(results: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """A line for each warning of plain results (`to_dict`), each with where it was met."""
    for place, result in results:
        for warning in result.get("warnings", ()):
            yield f"{place}: {warning['rule']} {warning['slug']}: {warning['message']}"


def _warning(warning: Finding) -> Iterator[str]:
    yield from _labelled("warning", f"{warning.headline}; {warning.remedy}")


def _table(table: Table | None, verbose: bool) -> Iterator[str]:
    if table is None or not table.rows:
        return
    rows = _cut(table.rows, ROWS, verbose)
    widths = [
        max(len(row[column]) for row in (table.columns, *rows))
        for column in range(len(table.columns))
    ]
    yield ""
    for row in (table.columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "   ".join(cells).rstrip()
    more = table.more + len(table.rows) - len(rows)
    if more:
        yield f"  ... and {more} more"
    yield ""


def _labelled(label: str, content: str, *, fold: bool = True) -> Iterator[str]:
    if not content:
        return
    width = WIDTH if fold else 10_000
    folded = textwrap.wrap(content, width - 13, break_long_words=False, break_on_hyphens=False)
    for position, line in enumerate(folded):
        yield f"  {label if position == 0 else '':<11}{line}"


def _cut(rows: tuple[T, ...], limit: int, verbose: bool) -> tuple[T, ...]:
    return rows if verbose or len(rows) <= limit else rows[:limit]
