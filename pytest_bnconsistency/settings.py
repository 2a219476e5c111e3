"""One frozen `Settings`, one table of options, one precedence.

For every option alike: call, marker, command line, ini, default.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from pytest_bnconsistency.errors import OptionError

Vacuous = Literal["fail", "skip", "warn"]
NotApplicable = Literal["fail", "skip", "pass"]


class DataOptions(TypedDict, total=False):
    """The fields of `Settings` that say how data is read."""

    max_rows: int
    statistics_rows: int
    batch_size: int
    seed: int


class Options(DataOptions, total=False):
    """The fields of `Settings` as a call takes them, each of which may be left out."""

    rows: int
    steps: int
    frozen: str | None
    transductive: str | Mapping[str, str] | None
    padding: float | None
    updates: int | None
    planned_updates: int | None
    decisions_tolerance: float
    loss_tolerance: float
    output_tolerance: float
    examples: int | None
    replay: str | None
    save_batches: str | None
    diagnosis_seconds: float
    vacuous: Vacuous | None
    not_applicable: NotApplicable | None


@dataclass(frozen=True)
class Settings:
    """What a user may set; the field's `metadata` is the option's help, its type the parser.

    Fractions are fractions (0.03 is 3 %), sizes are numbers of rows.
    """

    rows: int = dataclasses.field(
        default=8, metadata={"help": "rows in the batch whose rows are compared", "min": 2}
    )
    max_rows: int = dataclasses.field(
        default=1024,
        metadata={
            "help": "rows of the given data that are kept: outputs, loss and metrics are theirs",
            "min": 2,
        },
    )
    statistics_rows: int = dataclasses.field(
        default=65_536,
        metadata={
            "help": "rows of the given data that population statistics are taken of",
            "min": 2,
        },
    )
    batch_size: int = dataclasses.field(
        default=32, metadata={"help": "batch size in which training sees the data", "min": 1}
    )
    steps: int = dataclasses.field(
        default=2, metadata={"help": "training steps for each batch shape", "min": 1}
    )
    frozen: str | None = dataclasses.field(
        default=None, metadata={"help": "layers declared frozen, as a pattern: 'backbone/*'"}
    )
    transductive: str | Mapping[str, str] | None = dataclasses.field(
        default=None,
        metadata={
            "help": "why rows are meant to depend on their batch, for the model; in Python also "
            "for layers: {'discriminator/stddev*': 'why'}"
        },
    )
    padding: float | None = dataclasses.field(
        default=None,
        metadata={"help": "the value that pads sequences, where no mask of the model says so"},
    )
    updates: int | None = dataclasses.field(
        default=None,
        metadata={"help": "training steps so far, where no optimizer counts them", "min": 0},
    )
    planned_updates: int | None = dataclasses.field(
        default=None,
        metadata={
            "help": "training steps of a schedule: warn if they can't warm up the statistics",
            "min": 1,
        },
    )
    decisions_tolerance: float = dataclasses.field(
        default=0.03,
        metadata={"help": "share of changed decisions that is worth a person's time", "min": 0},
    )
    loss_tolerance: float = dataclasses.field(
        default=0.10,
        metadata={"help": "relative growth of the loss that is worth a person's time", "min": 0},
    )
    output_tolerance: float = dataclasses.field(
        default=0.10,
        metadata={
            "help": "change of the outputs, in their standard deviations, that is worth a "
            "person's time where there is no loss",
            "min": 0,
        },
    )
    examples: int | None = dataclasses.field(
        default=None,
        metadata={
            "help": "batches that Hypothesis makes, besides the rows (default: 10 where no rows "
            "are given, else 0)",
            "min": 0,
        },
    )
    replay: str | None = dataclasses.field(
        default=None,
        metadata={"help": "run this one batch, as a failure prints it: '2 rows; row 1 zero'"},
    )
    save_batches: str | None = dataclasses.field(
        default=None, metadata={"help": "folder in which failing batches are saved as .npz"}
    )
    diagnosis_seconds: float = dataclasses.field(
        default=60.0,
        metadata={
            "help": "seconds for finding out why a check fails; then it reports what it knows",
            "min": 0,
        },
    )
    seed: int = dataclasses.field(default=0, metadata={"help": "seed of all that is drawn"})
    vacuous: Vacuous | None = dataclasses.field(
        default=None,
        metadata={
            "help": "what a check that could not have seen a violation does: fail, skip or warn "
            "(default: fail if it was asked for by name, else skip)",
            "choices": ("fail", "skip", "warn"),
        },
    )
    not_applicable: NotApplicable | None = dataclasses.field(
        default=None,
        metadata={
            "help": "what a check that finds nothing to check does: fail, skip or pass (default: "
            "fail if it was asked for by name, else skip)",
            "choices": ("fail", "skip", "pass"),
        },
    )


FIELDS: Mapping[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Settings)}


def resolve(*layers: Mapping[str, Any]) -> Settings:
    """The settings of `layers`, the first of them the strongest.

    Raises:
        OptionError: an option is unknown, or its value is of the wrong kind or out of range.
    """
    chosen: dict[str, Any] = {}
    for layer in reversed(layers):
        for name, value in layer.items():
            chosen[name] = parse(name, value)
    return Settings(**chosen)


def parse(name: str, value: Any) -> Any:
    """`value`, from a call or a string from the command line or the ini, as `name` needs it."""
    if name not in FIELDS:
        raise OptionError(f"unknown option {name!r}{did_you_mean(name, FIELDS)}")
    kind, meta = str(FIELDS[name].type), FIELDS[name].metadata
    if value is None and "None" in kind:
        return None
    if "choices" in meta:
        if value not in meta["choices"]:
            expected = ", ".join(meta["choices"])
            raise OptionError(f"option {name!r} is {value!r}; expected one of {expected}")
        return value
    if "Mapping" in kind and isinstance(value, Mapping):
        return {pattern: parse(name, reason) for pattern, reason in value.items()}
    if kind.startswith("str"):
        if not isinstance(value, str) or not value.strip():
            wanted = "a reason, or {pattern: reason}" if "Mapping" in kind else "a string"
            raise OptionError(f"option {name!r} is {value!r}; expected {wanted}")
        return value
    number = int if kind.startswith("int") else float
    try:
        if isinstance(value, bool) or (number is int and float(value) != int(float(value))):
            raise ValueError
        parsed = number(value)
    except (TypeError, ValueError, OverflowError):
        wanted = "a whole number" if number is int else "a number"
        raise OptionError(f"option {name!r} is {value!r}; expected {wanted}") from None
    if parsed != parsed:
        raise OptionError(f"option {name!r} is {value!r}; expected a number")
    if parsed < meta.get("min", parsed):
        raise OptionError(f"option {name!r} is {value!r}; expected {meta['min']} or more")
    return parsed


def did_you_mean(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; expected one of {', '.join(known)}"
