"""What was measured of the layers that are declared frozen, and the means to measure more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.checks.frozen_stability.fine_tuning import Start
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.errors import BNConsistencyError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.execution.trainable_flags import Flagged
from pytest_bnconsistency.execution.training_steps import ModeGap, Modes, Steps, mode_gaps
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.results import Table
from pytest_bnconsistency.words import listed

OF_NOTE = 0.05
"""So much of what a mode changes must come from the other rows to be called the batch's."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A layer that is declared frozen, and by what.

    `inference_only` says that only its mode is declared (`training=False`), so that its weights
    may train but its statistics may not move. `named` says that the user's pattern names it,
    `expected` that only this declares it, `above` that a layer around it does.
    """

    call: Call
    by: str
    variables: tuple[Any, ...]
    own_flag: bool
    inference_only: bool = False
    named: bool = False
    expected: bool = False
    above: bool = False

    @property
    def path(self) -> str:
        return self.call.path

    def any_of(self, variables: frozenset[int]) -> bool:
        return any(id(variable) in variables for variable in self.variables)


@dataclass(frozen=True)
class Measured:
    """What the check measured, and the means to measure more.

    `by_forward` and `by_steps` are the variables that a forward pass in training mode, and real
    steps, move; `flagged` the flags that the steps set; `gaps` is how far a layer's modes are
    from one another, by its identity. `start` are both modes' scores, where these differ by that.
    `beyond` are those of `by_forward` that these rows move from 0 only: what is stored has seen
    more. `followers` are layers to which somebody else writes: they follow another network, say.
    """

    subject: Subject
    x: Nest
    steps: Steps
    frozen: Sequence[Frozen]
    by_forward: frozenset[int]
    by_steps: frozenset[int]
    flagged: Sequence[Flagged]
    gaps: Mapping[int, ModeGap]
    table: Table
    start: Start | None = None
    beyond: Sequence[Any] = ()
    followers: Sequence[Frozen] = ()

    @property
    def judged(self) -> list[Frozen]:
        return [f for f in self.frozen if f not in self.followers]

    @property
    def moving(self) -> list[Frozen]:
        return [f for f in self.judged if f.any_of(self.by_forward | self.by_steps)]

    @property
    def by_batch(self) -> list[Frozen]:
        return [f for f in self.judged if self.gap(f).differs]

    def gap(self, f: Frozen) -> ModeGap:
        return self.gaps.get(id(f.call.layer), ModeGap())

    def freed(self, f: Frozen) -> Flagged | None:
        """The last time that a step set the layer's flag to True, if one did."""
        mine = [seen for seen in self.flagged if seen.value and seen.layer is f.call.layer]
        return mine[-1] if mine else None

    def freed_by(self, f: Frozen) -> str:
        freed = self.freed(f)
        return "" if freed is None else freed.label

    def staying(
        self, layers: Sequence[Frozen], *, freeze: bool = False, retrace: bool = False
    ) -> list[Frozen]:
        """Those whose state stays in steps, once frozen by flag or with training traced anew.

        Raises:
            BNConsistencyError: the user's step raised, if only with other flags.
        """
        frozen = [f.call.layer for f in layers] if freeze else []
        moved = self.steps.run(variables_of(layers), freeze=frozen, retrace=retrace).moved
        return [f for f in layers if not f.any_of(moved)]

    def all_stay_in_a_pass(
        self, layers: Sequence[Frozen], *, frozen: bool, holder: Any = None
    ) -> bool:
        """Whether the state of all stays in a forward pass, frozen by flag or told inference.

        With a `holder`, that is told instead of them.
        """
        ours = {id(v) for v in variables_of(layers)}
        called = [f.call.layer for f in layers] if holder is None else [holder]
        with preserve_state(self.subject):
            for f in layers if frozen else ():
                self.subject.freeze(f.call.layer)
            again = Pass(
                self.subject,
                self.x,
                training=True,
                instrument=Modes(self.subject, lambda call: frozen),
                modes={} if frozen else {id(layer): False for layer in called},
            )
            seen = again.run(self.x)
        gaps = mode_gaps(again.calls, seen.records)
        alike = not any(gaps.get(id(f.call.layer), ModeGap()).differs for f in layers)
        return alike and not any(id(v) in ours for v in seen.moved)

    def meeting(self, layers: Sequence[Frozen]) -> list[Frozen] | None:
        """Those in which rows meet in training mode; None where they take no rows one by one."""
        called = {id(f.call.layer) for f in layers}
        try:
            with preserve_state(self.subject):
                again = Pass(
                    self.subject,
                    self.x,
                    training=True,
                    instrument=Modes(
                        self.subject, lambda call: id(call.layer) in called, mode=True
                    ),
                    row_by_row=called,
                )
                gaps = mode_gaps(again.calls, again.run(self.x).records)
        except BNConsistencyError:
            return None
        nothing = ModeGap()
        return [
            f
            for f in layers
            if gaps.get(id(f.call.layer), nothing).distance > OF_NOTE * self.gap(f).distance
        ]


def variables_of(layers: Sequence[Frozen]) -> list[Any]:
    return [v for f in layers for v in f.variables]


def paths_of(layers: Sequence[Frozen]) -> str:
    return listed([f.path for f in layers], most=1)
