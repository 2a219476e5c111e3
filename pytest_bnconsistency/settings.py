"""One frozen `Settings`, one table of options, one precedence.

For every option alike: call, marker, command line, ini, default.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from pytest_bnconsistency.errors import OptionError

CheckName = Literal[
    "batch_invariance",
    "inference_purity",
    "train_eval_agreement",
    "frozen_stability",
    "statistics_health",
    "healthy_statistics",
    "baseline",
]
"""What checks are called, known without importing them."""
CHECK_NAMES: tuple[CheckName, ...] = get_args(CheckName)
Vacuous = Literal["fail", "skip", "warn"]
NotApplicable = Literal["fail", "skip", "pass"]
EntryPoints = Literal["all"]
Weights = Literal["same", "retrained"]
BaselineChecks: TypeAlias = str | Sequence[CheckName]
Shape = Mapping[str, Sequence[int]] | Sequence[int] | str
"""The axes of a row, by the inputs' names, or of the only input, or either as text."""


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
    ignore: Mapping[str, str] | None
    shape: Shape | None
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
    entry_points: EntryPoints | None
    vacuous: Vacuous | None
    not_applicable: NotApplicable | None
    baseline: bool
    baseline_name: str | None
    baseline_dir: str
    baseline_checks: BaselineChecks | None
    weights: Weights | None


class Shapes(dict[str, tuple[int, ...]]):
    """Shapes of rows, without the axis of the rows, by name; "" names the only input.

    It prints as it is written on the command line.
    """

    def __str__(self) -> str:
        return "; ".join(f"{name}={axes}" if name else str(axes) for name, axes in self.items())


class Ignore(dict[str, str]):
    """Why findings are accepted, by their rule, or by rule and layers: `BN303 backbone/*`.

    It prints as it is written in an ini file, a line for each.
    """

    def __str__(self) -> str:
        return "\n".join(f"{entry}: {reason}" for entry, reason in self.items())


def option(default: Any, text: str, **limits: Any) -> Any:
    """A field of `Settings` with its option's help; `limits` are those of its values.

    They are `min`, `max` of a share, `finite`, `choices`, or what is `wanted`, in words.
    """
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class Settings:
    """What a user may set; the field's `metadata` is the option's help, its type the parser.

    Fractions are fractions (0.03 is 3 %), sizes are numbers of rows.
    """

    rows: int = option(8, "rows in the batch whose rows are compared", min=2)
    max_rows: int = option(
        1024, "rows of the given data that are kept: outputs, loss and metrics are theirs", min=2
    )
    statistics_rows: int = option(
        65_536, "rows of the given data that population statistics are taken of", min=2
    )
    batch_size: int = option(32, "batch size in which training sees the data", min=1)
    steps: int = option(2, "training steps for each batch shape", min=1)
    frozen: str | None = option(
        None,
        "layers declared frozen, as a pattern: 'backbone/*'",
        wanted="a pattern of layer paths, as in 'backbone/*'",
    )
    transductive: str | Mapping[str, str] | None = option(
        None,
        "why rows are meant to depend on their batch, for the model; in Python also "
        "for layers: {'discriminator/stddev*': 'why'}",
        wanted="a reason, or {pattern: reason}",
    )
    ignore: Mapping[str, str] | None = option(
        None,
        "findings that are accepted, and why: 'BN104: reason', or of some layers "
        "'BN303 backbone/*: reason'; one a line in the ini file, or give the option again",
        lines=True,
    )
    shape: Shape | None = option(
        None,
        "shapes of generated rows, by the inputs' names: 'tokens=(128,); image=(64, "
        "64, 3)', or '(128,)' for a single input",
    )
    padding: float | None = option(
        None, "the value that pads sequences, where no mask of the model says so"
    )
    updates: int | None = option(
        None, "training steps so far, where no optimizer counts them", min=0
    )
    planned_updates: int | None = option(
        None, "training steps of a schedule: warn if they can't warm up the statistics", min=1
    )
    decisions_tolerance: float = option(
        0.03, "how many more decisions may be wrong in evaluation, as a share of all", min=0, max=1
    )
    loss_tolerance: float = option(
        0.10,
        "how much larger the loss may be in evaluation, as a share of it",
        min=0,
        finite=True,
    )
    output_tolerance: float = option(
        0.10,
        "how far outputs may be apart, in their standard deviations, where neither a "
        "loss nor decisions tell",
        min=0,
        finite=True,
    )
    examples: int | None = option(
        None,
        "batches that Hypothesis makes, besides the rows (default: 10 where no rows "
        "are given, else 0)",
        min=0,
    )
    replay: str | None = option(
        None, "run this one batch, as a failure prints it: '2 rows; row 1 zero'"
    )
    save_batches: str | None = option(None, "folder in which failing batches are saved as .npz")
    diagnosis_seconds: float = option(
        60.0, "seconds for finding out why a check fails; then it reports what it knows", min=0
    )
    seed: int = option(0, "seed of all that is drawn")
    entry_points: EntryPoints | None = option(
        None,
        "'all' runs predict_on_batch as well where it is the library's own, as is what it calls",
        choices=("all",),
    )
    vacuous: Vacuous | None = option(
        None,
        "what an inconclusive check does, which could not have seen a violation: "
        "fail, skip or warn (default: fail if it was asked for by name, else skip)",
        choices=("fail", "skip", "warn"),
    )
    not_applicable: NotApplicable | None = option(
        None,
        "what a check that finds nothing to check does: fail, skip or pass (default: "
        "fail if it was asked for by name, else skip)",
        choices=("fail", "skip", "pass"),
    )
    baseline: bool = option(
        False, "'true' compares models with their baselines where all checks run by default"
    )
    baseline_name: str | None = option(
        None, "name of the model's baseline (default: that of the test or the model)"
    )
    baseline_dir: str = option("bn-baseline", "folder of the baselines, from pytest's root")
    baseline_checks: BaselineChecks | None = option(
        None,
        "names of the checks whose verdicts a baseline holds, separated by commas, or "
        "'none' (default: all)",
    )
    weights: Weights | None = option(
        None,
        "'same' or 'retrained': whether the weights are to be those of the baseline, "
        "so that statistics and outputs are (default: found out)",
        choices=("same", "retrained"),
    )
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """Where the fields come from that are no defaults: call, marker, command line or ini."""

    @property
    def shapes(self) -> Shapes:
        """The shapes that the user says, by the inputs' names."""
        return Shapes() if self.shape is None else _shapes("shape", self.shape)

    @property
    def baselined(self) -> tuple[str, ...] | None:
        """The checks whose verdicts a baseline holds; None for all."""
        if self.baseline_checks is None:
            return None
        return tuple(name for name in _words(self.baseline_checks) if name != "none")


FIELDS: Mapping[str, dataclasses.Field[Any]] = {
    f.name: f for f in dataclasses.fields(Settings) if "help" in f.metadata
}


class Layer(dict[str, Any]):
    """The options that one source gives, and which source that is.

    `arguments` is what can be written beside them, which a wrong name may be meant for.
    """

    def __init__(
        self, source: str, options: Mapping[str, Any], arguments: Sequence[str] = ()
    ) -> None:
        super().__init__(options)
        self.source, self.arguments = source, arguments


def resolve(*layers: Mapping[str, Any]) -> Settings:
    """The settings of `layers`, the first of them the strongest; a plain mapping is a call's.

    Raises:
        OptionError: an option is unknown, or its value is of the wrong kind or out of range.
    """
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in reversed(layers):
        if not isinstance(layer, Mapping):
            raise OptionError(f"options is {layer!r}; expected a dict, as in {{'rows': 16}}")
        for name, value in layer.items():
            if name not in FIELDS:
                known = (*FIELDS, *getattr(layer, "arguments", ()))
                raise OptionError(f"unknown option {name!r}{did_you_mean(name, known)}")
            chosen[name] = parse(name, value)
            sources[name] = getattr(layer, "source", "call")
    return Settings(**chosen, sources=sources)


def parse(name: str, value: Any) -> Any:
    """`value`, from a call or a string from the command line or the ini, as `name` needs it."""
    kind, meta = str(FIELDS[name].type), FIELDS[name].metadata
    if value is None and "None" in kind:
        return None
    if "choices" in meta:
        return _choice(name, value, meta["choices"])
    if name in _READERS:
        return _READERS[name](name, value)
    if "Mapping" in kind and isinstance(value, Mapping):
        return {pattern: parse(name, reason) for pattern, reason in value.items()}
    if kind.startswith("str"):
        wanted = meta.get("wanted", "a string that is not empty")
        return _text(name, value, wanted)
    return _number(name, value, int if kind.startswith("int") else float)


def flag(name: str, value: Any) -> bool:
    """A switch, as a call or a text says it.

    Raises:
        OptionError: it says neither true nor false.
    """
    said = str(value).strip().lower()
    if said not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
        raise OptionError(f"option {name!r} is {value!r}; expected true or false")
    return said in ("true", "yes", "on", "1")


def _choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"option {name!r} is {value!r}; expected one of {', '.join(choices)}")
    return value


def _text(name: str, value: Any, wanted: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"option {name!r} is {value!r}; expected {wanted}")
    return value


def _number(name: str, value: Any, number: type[int] | type[float]) -> int | float:
    try:
        if isinstance(value, bool) or (number is int and float(value) != int(float(value))):
            raise ValueError
        parsed = number(value)
    except (TypeError, ValueError, OverflowError):
        wanted = "a whole number" if number is int else "a number"
        raise OptionError(f"option {name!r} is {value!r}; expected {wanted}") from None
    if wanted := _missed(parsed, FIELDS[name].metadata):
        raise OptionError(f"option {name!r} is {value!r}; expected {wanted}")
    return parsed


def _missed(number: float, limits: Mapping[str, Any]) -> str:
    """What of `limits` a number does not keep, "" if it keeps all."""
    if number != number:
        return "a number"
    if number > limits.get("max", number):
        return f"{limits['min']} to {limits['max']}: 0.03 is 3 %"
    if number < limits.get("min", number):
        return f"{limits['min']} or more"
    return "a finite number" if "finite" in limits and math.isinf(number) else ""


def _shapes(name: str, value: Any) -> Shapes:
    given = _parsed_shapes(value) if isinstance(value, str) else value
    by_name: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"": given}
    for axes in list(by_name.values()) or [None]:
        whole = isinstance(axes, (tuple, list)) and all(map(_is_whole, axes))
        if not whole or any(axis < 1 for axis in axes):
            raise OptionError(
                f"option {name!r} is {value!r}; expected the axes of a row of each input, whole "
                "numbers of 1 or more: {'tokens': (128,)}, or 'tokens=(128,)' as text"
            )
    return Shapes({str(key): tuple(map(int, axes)) for key, axes in by_name.items()})


def _is_whole(axis: Any) -> bool:
    return isinstance(axis, numbers.Integral) and not isinstance(axis, bool)


def _parsed_shapes(text: str) -> dict[str, Any]:
    """The shapes in a text such as `a=(3,); b=(4, 4)`; what can't be read is None."""
    found: dict[str, Any] = {}
    for part in filter(str.strip, text.split(";")):
        name, _, axes = part.rpartition("=")
        try:
            read = ast.literal_eval(axes.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # brackets in brackets
            read = None
        found[name.strip()] = (read,) if type(read) is int else read
    return found


def _ignore(name: str, value: Any) -> Ignore:
    given = _parsed_reasons(value) if isinstance(value, (str, list, tuple)) else value
    if not isinstance(given, Mapping):
        raise OptionError(
            f"option {name!r} is {value!r}; expected {{'BN104': 'reason'}} or {{'BN303 "
            "backbone/*': 'reason'}, or 'BN104: reason' as text"
        )
    return Ignore(_accepted(name, entry, reason) for entry, reason in given.items())


def _accepted(name: str, entry: Any, reason: Any) -> tuple[str, str]:
    """An entry with the rule's id, and its reason.

    Raises:
        OptionError: there is no such rule, or no reason.
    """
    from pytest_bnconsistency.rules import pages  # which reads options of its own from here

    rule, *pattern = str(entry).split(maxsplit=1) or [""]
    try:
        known = pages.named(rule)
    except OptionError as error:
        raise OptionError(f"option {name!r}: {error}") from None
    if not isinstance(reason, str) or not reason.strip():
        raise OptionError(
            f"option {name!r} gives no reason for {str(entry)!r}; expected one that says why it "
            f"is accepted, as in '{entry}: batches of one size only'"
        )
    return " ".join([known.id, *pattern]).strip(), reason.strip()


def _parsed_reasons(given: str | Sequence[Any]) -> dict[str, str]:
    lines = given.splitlines() if isinstance(given, str) else map(str, given)
    parted = (line.partition(": " if ": " in line else ":") for line in lines if line.strip())
    return {entry.strip(): reason for entry, _, reason in parted}


def _folder(name: str, value: Any) -> str:
    folder = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(folder, str) or not folder.strip():
        raise OptionError(f"option {name!r} is {value!r}; expected the path of a folder")
    return folder


def _words(names: str | Sequence[str]) -> list[str]:
    return names.replace(",", " ").split() if isinstance(names, str) else list(names)


def _check_names(name: str, value: Any) -> str:
    """The names as a text, whether a text or a list gives them."""
    given = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    given = _text(name, given, "names of checks, separated by commas or as a list, or 'none'")
    for check in _words(given):
        if check not in (*CHECK_NAMES, "none"):
            near = did_you_mean(check, CHECK_NAMES)
            raise OptionError(f"option {name!r} names an unknown check {check!r}{near}")
    return given


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "shape": _shapes,
    "ignore": _ignore,
    "baseline": flag,
    "baseline_dir": _folder,
    "baseline_checks": _check_names,
}
"""What is neither a number nor a word."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest known one, else all of them.

    `otherwise` is said instead of all of them, where they are many.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise}" if otherwise else f"; expected one of {', '.join(known)}"
