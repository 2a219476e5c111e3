"""What is put down of a model: plain facts, in sections of blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

Value = str | int | float | bool | None
Block = Mapping[str, Value]
"""The facts of one thing, by name."""
Blocks = Mapping[str, Block]
"""The blocks of a section, by what they are about."""

INVENTORY, STATISTICS, OUTPUTS, VERDICTS, ELSEWHERE = SECTIONS = (
    "inventory",
    "statistics",
    "outputs",
    "verdicts",
    "elsewhere",
)
DISTANCE, SAMPLING = "distance to the population", "sampling error of the distance"
"""Of a stored vector, where a check measured it on data; no digest."""
RUN_BY = "run by"
"""Which library a model is of, among the versions."""


def short(value: Value) -> Value:
    """A number with the digits that count, in words if it is none."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else str(value)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How the normalization of a model behaves.

    `model` says which model that is, `batch` what rows its outputs are of. `versions` are those
    of the libraries that ran it. `graph` has a line for each layer, in the order in which the
    model holds them, `weights` the digest of all that trains. `inventory` has a block for each
    normalization layer in execution order, `statistics` one for each stored vector, `outputs` one
    for each output of each entry point, `verdicts` one for each check. `elsewhere` has the blocks
    that are others under a version of the library, after that version and their section.
    """

    model: str
    batch: str = ""
    versions: Block = field(default_factory=dict)
    graph: tuple[str, ...] = ()
    weights: Block = field(default_factory=dict)
    inventory: Blocks = field(default_factory=dict)
    statistics: Blocks = field(default_factory=dict)
    outputs: Blocks = field(default_factory=dict)
    verdicts: Blocks = field(default_factory=dict)
    elsewhere: Blocks = field(default_factory=dict)

    def section(self, name: str) -> Blocks:
        found: Blocks = getattr(self, name)
        return found

    def with_sections(self, sections: Mapping[str, Blocks]) -> Facts:
        return replace(self, **sections)  # type: ignore[arg-type]

    def sections(self) -> Iterator[tuple[str, Blocks]]:
        for name in SECTIONS:
            yield name, self.section(name)

    def shortened(self) -> Facts:
        """The same with numbers as the file holds them."""

        def block(given: Block) -> Block:
            return {name: short(value) for name, value in given.items()}

        sections = {
            section: {name: block(found) for name, found in blocks.items()}
            for section, blocks in self.sections()
        }
        return replace(self, weights=block(self.weights)).with_sections(sections)
