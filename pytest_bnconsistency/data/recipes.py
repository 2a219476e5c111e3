"""A batch as a few words: how each of its rows is made.

Recipe.parse("2 rows; row 1 constant 100")
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pytest_bnconsistency.errors import DataError

_WHOLE = r"\d{1,18}"
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf)"
_ROW = re.compile(
    rf"(?:(?P<zero>zero)"
    rf"|constant (?P<constant>{_NUMBER})"
    rf"|random (?P<random>{_NUMBER})(?: seed (?P<seed>{_WHOLE}))?"
    rf"|like row (?P<like>{_WHOLE})"
    rf"|data (?P<data>{_WHOLE})(?: times (?P<times>{_NUMBER})| shuffled (?P<shuffled>{_WHOLE})"
    rf"| mixed (?P<mixed>{_NUMBER}) with (?P<other>{_WHOLE}))?)"
    rf"(?: with (?P<spike>{_NUMBER}|nan)(?: at (?P<place>{_WHOLE}))?)?"
)
_COUNT = re.compile(r"(?P<count>\d{1,6}) rows?(?: of (?P<rest>.+))?")
_SIZE = re.compile(r"size (?P<size>\d{1,6})")
_PLACE = re.compile(rf"rows? (?P<first>{_WHOLE})(?:-(?P<last>{_WHOLE}))? (?P<row>.+)")
EXAMPLE = "2 rows; row 1 constant 100"
OF_DATA = frozenset({"data", "times", "shuffled", "mixed"})
"""Kinds of rows that are made of given ones."""
_WITH_AMOUNT = frozenset({"constant", "random", "times", "mixed"})
_KINDS = ("zero", "constant", "random", "like", "times", "shuffled", "mixed", "data")
"""All kinds; those that say more of a given row come before `data`."""


@dataclass(frozen=True)
class Row:
    """How one row is made.

    `kind` is one of: `zero`; `constant`, of `amount`; `random`, normal with a standard deviation
    of `amount`, or uniform over the ids of an integer; `like`, a copy of the batch's row `row`;
    and of the sample's row `row`: `data`, itself; `times`, multiplied by `amount`; `shuffled`,
    its elements in an order drawn by `seed`; `mixed`, a share of `amount` of it, the rest of row
    `other`. Then one element, the one at `place`, is `spike`, if there is one.
    """

    kind: str = "zero"
    amount: float = 0.0
    seed: int = 0
    row: int = 0
    other: int = 0
    spike: float | None = None
    place: int = 0

    def __str__(self) -> str:
        words = {
            "zero": "zero",
            "constant": f"constant {_number(self.amount)}",
            "random": f"random {_number(self.amount)}" + (f" seed {self.seed}" * bool(self.seed)),
            "like": f"like row {self.row}",
            "data": f"data {self.row}",
            "times": f"data {self.row} times {_number(self.amount)}",
            "shuffled": f"data {self.row} shuffled {self.seed}",
            "mixed": f"data {self.row} mixed {_number(self.amount)} with {self.other}",
        }[self.kind]
        if self.spike is not None:
            words += f" with {_number(self.spike)}" + f" at {self.place}" * bool(self.place)
        return words

    @classmethod
    def parse(cls, text: str) -> Row:
        """The row that `str` wrote.

        Raises:
            DataError: `text` is no row's recipe.
        """
        found = _ROW.fullmatch(text.strip())
        if found is None:
            raise DataError(
                f"{text.strip()!r} is no row of a recipe; expected zero, constant 100, "
                "random 1 seed 3, like row 0, data 5, data 5 times 100, data 5 shuffled 3 or "
                "data 5 mixed 0.5 with 2, each with one element set where wanted: zero with nan "
                "at 7"
            )
        given = {name: part for name, part in found.groupdict().items() if part is not None}
        kind = next(kind for kind in _KINDS if kind in given)
        return cls(
            kind=kind,
            amount=float(given[kind]) if kind in _WITH_AMOUNT else 0.0,
            seed=int(given.get("seed") or given.get("shuffled", 0)),
            row=int(given.get("like") or given.get("data", 0)),
            other=int(given.get("other", 0)),
            spike=float(given["spike"]) if "spike" in given else None,
            place=int(given.get("place", 0)),
        )

    def at(self, place: int) -> Row:
        """The row at `place` in a batch of rows of this kind: others of their kind, each."""
        if self.kind == "random":
            return replace(self, seed=self.seed + place)
        return replace(self, row=self.row + place) if self.kind == "data" else self


@dataclass(frozen=True)
class Recipe:
    """`count` rows that are all of the kind `rest`, but for those in `rows`, by their place.

    `size` is the length of axes that may be of any; None leaves it to the source.
    """

    count: int
    rows: Mapping[int, Row] = field(default_factory=dict)
    rest: Row = Row()
    size: int | None = None

    def __str__(self) -> str:
        rest = "" if self.rest == Row() else f" of {self.rest}"
        parts = [f"{self.count} row{'s' * (self.count != 1)}{rest}"]
        if self.size is not None:
            parts.append(f"size {self.size}")
        parts += [f"{places} {row}" for places, row in self.runs()]
        return "; ".join(parts)

    def runs(self) -> list[tuple[str, Row]]:
        """The rows that are not like the rest, by place; neighbours that are alike as one."""
        found: list[tuple[int, int, Row]] = []
        for place, row in sorted(self.rows.items()):
            if found and found[-1][1:] == (place - 1, row):
                found[-1] = (found[-1][0], place, row)
            else:
                found.append((place, place, row))
        return [
            (f"row {first}" if first == last else f"rows {first}-{last}", row)
            for first, last, row in found
        ]

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """The recipe that `str` wrote.

        Raises:
            DataError: `text` is no recipe.
        """
        head, *parts = [part.strip() for part in text.split(";")]
        found = _COUNT.fullmatch(head)
        count = int(found["count"]) if found else 0
        if found is None or not count:
            raise DataError(
                f"{text!r} is no recipe of a batch; expected the number of its rows, and those "
                f"rows that are not zero: {EXAMPLE!r}"
            )
        rest = Row.parse(found["rest"]) if found["rest"] else Row()
        size, rows = None, dict[int, Row]()
        for part in parts:
            if sized := _SIZE.fullmatch(part):
                size = int(sized["size"])
            else:
                rows |= _placed(part, count)
        for place, row in rows.items():
            if row.kind == "like" and row.row >= place:
                raise DataError(f"row {place} of a recipe is {row}; expected an earlier row")
        return cls(count, rows, rest, size)

    def row(self, place: int) -> Row:
        return self.rows.get(place) or self.rest.at(place)

    @property
    def uses_data(self) -> bool:
        """Whether some of its rows are made of given ones."""
        return any(row.kind in OF_DATA for row in (self.rest, *self.rows.values()))

    @property
    def kept(self) -> list[int]:
        """The places of the rows that are like the rest."""
        return [place for place in range(self.count) if place not in self.rows]


def _placed(part: str, count: int) -> dict[int, Row]:
    """The rows that a part of a recipe places."""
    placed = _PLACE.fullmatch(part)
    if placed is None:
        raise DataError(f"{part!r} in a recipe says no row; expected: row 1 constant 100")
    row, first = Row.parse(placed["row"]), int(placed["first"])
    last = int(placed["last"] or first)
    if not first <= last < count:
        raise DataError(
            f"{part!r} in a recipe of {count} rows; expected rows from 0 to {count - 1}"
        )
    return dict.fromkeys(range(first, last + 1), row)


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))
