"""What a check found, as plain data that survives JSON and a process boundary."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_bnconsistency.words import listed, printable


class Verdict(str, enum.Enum):
    """The answer of one check.

    The property holds, and the check could have seen a violation (`PASSED`); it does not hold
    (`FAILED`); the check could not have seen a violation (`VACUOUS`, on the screen
    "inconclusive"); there is nothing to check (`NOT_APPLICABLE`).
    """

    PASSED = "passed"
    FAILED = "failed"
    VACUOUS = "vacuous"
    NOT_APPLICABLE = "not applicable"

    def __str__(self) -> str:
        return self.value

    @property
    def word(self) -> str:
        """What people read."""
        return "inconclusive" if self is Verdict.VACUOUS else self.value


@dataclass(frozen=True)
class Table:
    """Rows for people: worst first; `more` counts the rows that were left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why something happens, how that was tested, and what to do about it.

    `established` is True only if undoing the cause made the symptom go away; otherwise `cause` is
    what is usual, or says that none is established, and `tested` tells what was tried.
    """

    cause: str
    tested: str = ""
    remedy: str = ""
    established: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One violation with its evidence.

    `rule` is the id (`BN201`), `slug` its name, `layer` the path of the layer or the places
    between which it happens, the worst of `layers` where there are more. `cause_tested` is
    True only if undoing the cause made the symptom go away; otherwise `cause` says that none is
    established and lists what was tried. `bound` says what the symptom was measured against.
    `recipe` is the simplest batch that fails, where one was searched for, and `code` rebuilds
    it. `evidence` holds the numbers.
    """

    rule: str
    slug: str
    layer: str
    message: str
    cause: str
    cause_tested: bool
    remedy: str
    tested: str = ""
    bound: str = ""
    table: Table | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    code: str = ""
    layers: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        return printable(f"{self.rule} {self.slug}: {self.message}")

    @property
    def places(self) -> tuple[str, ...]:
        """All layers that it is about."""
        return self.layers or (self.layer,)


@dataclass(frozen=True)
class Ignored:
    """A finding that the user accepts: why, and the entries of the option `ignore` that say so."""

    finding: Finding
    reason: str
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What a check ran on, under which settings, and what it took.

    `settings` holds each value with the source that it came from. `traces` counts the forward
    passes that were traced. `layers` are the facts of the model's normalization layers as plain
    data, where a report wants them and they are not as an earlier check of the model left them.
    """

    model: str
    settings: Mapping[str, tuple[Any, str]]
    seconds: float
    traces: int
    layers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The verdict of one check, its findings and what it rests on.

    `summary` is one sentence: for a pass what held and what could have been seen, for a vacuous
    or inapplicable check the reason. `hint` says what to do about it. `warnings` are findings of
    what is unusual and fails nothing. `notes` are facts that decide nothing but that a person
    should know. `waived` says that the user declared the property not to be meant here. `ignored`
    are findings that the user accepts, and `unmatched` the entries of the option `ignore` that
    nothing matches any more.
    """

    check: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    summary: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()
    table: Table | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()
    waived: bool = False
    ignored: tuple[Ignored, ...] = ()
    unmatched: tuple[str, ...] = ()
    run: Run | None = field(default=None, compare=False)

    @property
    def headline(self) -> str:
        """One line: the first finding, or the verdict and why."""
        if self.findings:
            return self.findings[0].headline
        return printable(f"{self.check} {self.verdict.word}: {self.summary}")

    def __str__(self) -> str:
        line = self.headline
        if self.findings:
            line = f"{self.check} {self.verdict.word}: {line}"
        said = dict.fromkeys(f"{one.finding.rule} ({one.reason})" for one in self.ignored)
        return f"{line}; ignored on purpose: {listed(said)}" if said else line

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers: what `json.dumps` takes."""
        read: dict[str, Any] = json.loads(json.dumps(plain(self)))
        return read


@dataclass(frozen=True)
class Report:
    """The results of several checks on one subject, in the order in which they ran.

        report["batch_invariance"].verdict
        [result.headline for result in report]

    `report[check]` raises `KeyError` for a check that did not run.
    """

    subject: str
    results: tuple[CheckResult, ...]

    def __iter__(self) -> Iterator[CheckResult]:
        return iter(self.results)

    def __getitem__(self, check: str) -> CheckResult:
        for result in self.results:
            if result.check == check:
                return result
        ran = ", ".join(result.check for result in self.results)
        raise KeyError(f"no check {check!r} ran; expected one of {ran}")

    def __str__(self) -> str:
        return "\n".join(map(str, self.results))

    @property
    def ok(self) -> bool:
        """True if no check failed; what was vacuous or not applicable is not a failure."""
        return not self.failed

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(r for r in self.results if r.verdict is Verdict.FAILED)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers: what `json.dumps` takes."""
        return {"subject": self.subject, "results": [r.to_dict() for r in self.results]}


def plain(value: Any) -> Any:
    """`value` without dataclasses, tuples, enums and numpy scalars, as JSON takes it.

    What is not a number, or infinite, is a string: "nan", "inf", "-inf".
    """
    if isinstance(value, enum.Enum):
        return value.value
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else str(value)
