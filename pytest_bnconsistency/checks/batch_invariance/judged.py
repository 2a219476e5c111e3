"""What was found of entry points that compute the same: the one record of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_bnconsistency.checks.batch_invariance.kept_rows import Difference
from pytest_bnconsistency.data.arrays import Array, Nest
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.rounding_noise import Moved


@dataclass(frozen=True)
class AmongOthers:
    """What other rows of the batch, and other places in it, do to rows.

    `width` says how an output's shape hangs on them, "" where it does not. `stable` are the
    indices of the calls that repeat themselves; `random` says that the outputs don't, and
    `row_routing` that calls get other numbers of rows beside other rows.
    """

    differences: Sequence[Difference] = ()
    width: str = ""
    random: bool = False
    stable: frozenset[int] = frozenset()
    row_routing: bool = False
    notes: Sequence[str] = ()


class SizeChange(NamedTuple):
    """How far a row moves at most in a batch of another size, and what noise explains there.

    The bound is NaN where nothing moved, or a smaller batch told enough.
    """

    change: float
    bound: float


@dataclass(frozen=True)
class InSize:
    """What rows, from one to another, give in a batch of a size, against what they give among all.

    `fault` says what it raises, or which other shapes it gives; `raises` tells the two apart, and
    `widens` that such outputs have the rows, and are as wide as these need.
    `changes` are those of all outputs, `moves` what noise was measured for.
    """

    rows: tuple[int, int]
    size: int
    fault: str = ""
    raises: bool = False
    widens: bool = False
    moves: Sequence[Moved] = ()
    changes: Sequence[SizeChange] = ()

    @property
    def fails(self) -> bool:
        return bool(self.fault or self.beyond)

    @property
    def beyond(self) -> list[Moved]:
        """The moves that noise does not explain."""
        return [moved for moved in self.moves if moved.beyond]


@dataclass(frozen=True)
class Judged:
    """Entry points that compute the same, and what was found of them.

    `observed` is the traced pass behind them, where there is one, and `retraced` runs the code of
    one that has none again; `untraced` says that the trace holds, and they do not. `has_rows` says
    that an output has the rows first.
    """

    names: Sequence[str]
    observed: Pass | None = None
    retraced: Callable[[Nest], list[Array]] | None = None
    untraced: bool = False
    among_others: AmongOthers = AmongOthers()
    in_sizes: Sequence[InSize] = ()
    has_rows: bool = True

    @property
    def differences(self) -> Sequence[Difference]:
        return self.among_others.differences

    @property
    def random(self) -> bool:
        return self.among_others.random

    @property
    def row_routing(self) -> bool:
        return self.among_others.row_routing

    @property
    def crossing(self) -> list[Difference]:
        """What a row changes by with the other rows, and not with its place alone."""
        return [found for found in self.differences if not found.variant.moves]

    @property
    def sizes(self) -> list[str]:
        """How rows move in batches of other sizes, beyond noise."""
        return [
            f"row {moved.row} moves by {moved.change:.3g} in a batch of {run.size}; "
            f"noise explains {moved.bound:.3g}"
            for run in self.in_sizes
            for moved in run.beyond
        ]

    @property
    def shapes(self) -> list[str]:
        """How shapes hang on the batch, or what refuses it."""
        faults = [size.fault for size in self.in_sizes if size.fault]
        return [self.among_others.width, *faults] if self.among_others.width else faults

    @property
    def failing_rows(self) -> tuple[int, int] | None:
        """From where to where the first batch goes that failed for its size."""
        failing = (size for size in self.in_sizes if size.fails)
        return next((size.rows for size in failing), None)

    @property
    def tried(self) -> list[int]:
        return sorted({size.size for size in self.in_sizes})

    @property
    def by_size(self) -> dict[int, SizeChange]:
        """How far rows move in batches of each size."""
        found: dict[int, SizeChange] = {}
        for run in self.in_sizes:
            for seen in run.changes:
                known = found.setdefault(run.size, seen)
                found[run.size] = seen if seen.change > known.change else known
        return found

    @property
    def raises(self) -> bool:
        return any(size.raises for size in self.in_sizes)

    @property
    def widens(self) -> bool:
        return any(size.widens for size in self.in_sizes)

    @property
    def noise(self) -> float:
        """The largest bound of what moves beyond it."""
        bounds = [moved.bound for size in self.in_sizes for moved in size.beyond]
        return max(bounds, default=0.0)

    @property
    def _moves(self) -> list[Moved]:
        return [moved for size in self.in_sizes for moved in size.moves]

    @property
    def margin(self) -> float:
        """The largest change between batch sizes, in bounds."""
        telling = [moved.margin for moved in self._moves if not moved.noise_dominated]
        return max(telling, default=0.0)

    @property
    def noise_dominated(self) -> bool:
        """Whether noise leaves nothing to be seen between sizes."""
        return any(moved.noise_dominated for moved in self._moves)

    @property
    def dominated(self) -> bool:
        """Whether it may be as large as the outputs there."""
        return any(moved.noise_dominated and moved.dominated for moved in self._moves)

    @property
    def fails(self) -> bool:
        return bool(self.differences or self.sizes or self.shapes)

    @property
    def holds(self) -> bool:
        return self.has_rows and not self.random and not self.fails

    @property
    def word(self) -> str:
        if self.holds:
            return "holds"
        return "fails" if self.fails and not self.random else "not judged"


def names_of(judged: Sequence[Judged]) -> list[str]:
    return [name for entry in judged for name in entry.names]
