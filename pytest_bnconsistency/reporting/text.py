"""A result as plain text: a whole verdict in the first line, then the evidence."""

from __future__ import annotations

import dataclasses
import shlex
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pytest_bnconsistency.results import CheckResult, Finding, Table, Verdict
from pytest_bnconsistency.words import counted, listed, printable, shortened

T = TypeVar("T")
WIDTH = 100
FINDINGS, ROWS, NOTES, CELL = 3, 6, 4, 80
ON_PURPOSE = {
    Verdict.VACUOUS: "vacuous='skip', if no more can be checked here",
    Verdict.NOT_APPLICABLE: "not_applicable='pass', if there need be nothing to check",
}
"""How to say that a verdict that fails a test is as it should be."""


def render(result: CheckResult, *, verbose: bool = False, reproduce: str = "") -> str:
    """The text of `result`, about 25 lines, or all of it with `verbose`."""
    return "\n".join(lines(result, verbose=verbose, reproduce=reproduce))


def lines(result: CheckResult, *, verbose: bool = False, reproduce: str = "") -> Iterator[str]:
    """The lines of the text; none of them holds what a name could do to a terminal or a log."""
    shown = result if verbose else _fitting(result)
    return map(printable, _lines(shown, verbose, reproduce))


def _fitting(result: CheckResult) -> CheckResult:
    """`result` without the middle of names that no screen has room for."""
    return dataclasses.replace(
        result,
        findings=tuple(map(_fitting_finding, result.findings)),
        warnings=tuple(map(_fitting_finding, result.warnings)),
        ignored=tuple(
            dataclasses.replace(one, finding=_fitting_finding(one.finding))
            for one in result.ignored
        ),
        summary=shortened(result.summary),
        hint=shortened(result.hint),
        notes=tuple(map(shortened, result.notes)),
    )


def _fitting_finding(finding: Finding) -> Finding:
    names = ("layer", "message", "cause", "tested", "remedy", "bound")
    texts: dict[str, Any] = {name: shortened(getattr(finding, name)) for name in names}
    return dataclasses.replace(finding, **texts)


def _lines(result: CheckResult, verbose: bool, reproduce: str) -> Iterator[str]:
    if not result.findings:
        yield result.headline
        yield from _table(result.table, verbose)
        yield from _labelled("hint", result.hint)
        yield from _labelled("on purpose", ON_PURPOSE.get(result.verdict, ""))
        yield from _remarks(result, verbose)
        return
    yield from _findings(result, verbose, reproduce)
    yield from _remarks(result, verbose)
    yield from _labelled("reproduce", reproduce, fold=False)
    for rule in dict.fromkeys(one.rule for one in _cut(result.findings, FINDINGS, verbose)):
        yield from _labelled("rule", f"pytest --bn-explain {rule}", fold=False)


def _findings(result: CheckResult, verbose: bool, reproduce: str) -> Iterator[str]:
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


def _remarks(result: CheckResult, verbose: bool) -> Iterator[str]:
    """What decides nothing, and what is ignored."""
    for warning in _cut(result.warnings, NOTES, verbose):
        yield from _labelled("warning", f"{warning.headline}; {warning.remedy}")
    for note in _cut(result.notes, NOTES, verbose):
        yield from _labelled("note", note)
    yield from _ignored(result)


def table_lines(plain: Mapping[str, Any], *, verbose: bool = False) -> Iterator[str]:
    """The table of a result that went through `CheckResult.to_dict`."""
    rows = tuple(tuple(row) for row in plain["rows"])
    return map(printable, _table(Table(tuple(plain["columns"]), rows, plain["more"]), verbose))


def _finding(finding: Finding, verbose: bool, *, brief: bool) -> Iterator[str]:
    yield finding.headline
    if not brief:
        yield from _table(finding.table, verbose)
    yield from _labelled("layer", finding.layer)
    yield from _labelled("cause", finding.cause)
    yield from _labelled("tested" if finding.cause_tested else "tried", finding.tested)
    yield from _labelled("remedy", finding.remedy)
    yield from _labelled("bound", finding.bound)
    yield from _labelled("batch", finding.recipe and f"{finding.recipe} (the simplest that fails)")
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
            said = f"{place}: {warning['rule']} {warning['slug']}: {warning['message']}"
            yield printable(shortened(said))


def ignored_lines(
    results: Sequence[tuple[str, Mapping[str, Any]]], elsewhere: Collection[str] = ()
) -> Iterator[str]:
    """What plain results ignore, with the reason, and what is to be ignored and not found.

    Nothing is said of entries that may match `elsewhere`.
    """
    used = set[str]()
    for place, result in results:
        for one in result.get("ignored", ()):
            used.update(one["entries"])
            finding = one["finding"]
            said = f"{finding['rule']} {finding['slug']}: {finding['message']}"
            yield printable(shortened(f"{place}: {said}; ignored: {one['reason']}"))
    unmatched = dict.fromkeys(e for _, result in results for e in result.get("unmatched", ()))
    for entry in unmatched:
        if entry not in used and entry not in elsewhere:
            said = f"ignore {entry!r} matches no finding: correct it or take it out"
            yield printable(shortened(said))


def _ignored(result: CheckResult) -> Iterator[str]:
    for one in result.ignored:
        yield from _labelled("ignored", f"{one.finding.headline}; because: {one.reason}")
    _, source = (result.run.settings if result.run else {}).get("ignore", (None, ""))
    # What is accepted for a whole run may match in another test: its end tells.
    for entry in result.unmatched if source not in ("ini", "command line") else ():
        yield from _labelled("ignored", f"nothing: {entry!r} matches no finding")


def model_lines(models: Mapping[str, Mapping[str, tuple[str, str]]]) -> Iterator[str]:
    """What a run of models ends with: by check, its outcome and what was said of it."""
    for model, checks in models.items():
        counts: dict[str, int] = {}
        alike: dict[tuple[str, str], list[str]] = {}
        for check, (outcome, said) in checks.items():
            counts[outcome] = counts.get(outcome, 0) + 1
            alike.setdefault((outcome, said), []).append(check)
        total = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
        yield printable(shortened(f"{model}: {counted(len(checks), 'check')}, {total}"))
        for (outcome, said), names in alike.items():
            if outcome != "passed":
                said = said.removeprefix(f"{names[0]} ")  # of a verdict without a finding
                why = shortened(": ".join(filter(None, (listed(names), said))))
                yield from _labelled(outcome, why)


def _table(table: Table | None, verbose: bool) -> Iterator[str]:
    if table is None or not table.rows:
        return
    rows = _cut(table.rows, ROWS, verbose)
    lines = [[_cell(cell, verbose) for cell in row] for row in (table.columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    yield ""
    for row in lines:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "   ".join(cells).rstrip()
    more = table.more + len(table.rows) - len(rows)
    if more:
        yield f"  ... and {more} more"
    yield ""


def _cell(text: str, verbose: bool) -> str:
    text = printable(text)
    half = CELL // 2
    return text if verbose or len(text) <= CELL else f"{text[:half]}...{text[-half:]}"


def _labelled(label: str, content: str, *, fold: bool = True) -> Iterator[str]:
    if not content:
        return
    folded = [printable(content)]
    if fold:
        folded = textwrap.wrap(
            folded[0], WIDTH - 13, break_long_words=False, break_on_hyphens=False
        )
    for position, line in enumerate(folded):
        yield f"  {label if position == 0 else '':<11}{line}"


def _cut(rows: tuple[T, ...], limit: int, verbose: bool) -> tuple[T, ...]:
    return rows if verbose or len(rows) <= limit else rows[:limit]
