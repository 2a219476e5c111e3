"""How far rounding may move what is put down of an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_bnconsistency.checks.baseline.facts import Block, Facts
from pytest_bnconsistency.checks.baseline.observe import OWN_ROWS, batch_of
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import measured_noise
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.measurement.rounding_noise import Noise

ROWS = 2
"""Rows that noise is measured on, each by several draws."""


class OutputNoise:
    """The noise of the model's outputs on the rows of the baseline, measured when it is asked for.

    A projection has signs that no network knows: it moves by no more than an element does at most.
    """

    def __init__(self, context: CheckContext) -> None:
        self._context = context
        self._bounds: list[float] | None = None

    def __call__(self, block: str) -> float:
        """The bound of the output that stands in the block of that name."""
        if self._bounds is None:
            self._bounds = self._measured()
        _, is_numbered, place = block.rpartition(" output ")
        index = int(place) - 1 if is_numbered else 0
        known = self._bounds
        return known[index] if index < len(known) else max(known, default=0.0)

    def put_down(self, facts: Facts) -> Facts:
        """The facts with the noise of each output."""
        outputs: Mapping[str, Block] = {
            name: {**block, "noise": self(name)} if "shape" in block else block
            for name, block in facts.outputs.items()
        }
        return replace(facts, outputs=outputs)

    def _measured(self) -> list[float]:
        context, (batch, x) = self._context, batch_of(self._context)
        noise = measured_noise(context)
        if batch == OWN_ROWS:
            noise = Noise(observed(context, False), x)
        rows = [noise.of_row(row) for row in range(ROWS)]
        return [max(floor.bound for floor in floors) for floors in zip(*rows, strict=True)]
