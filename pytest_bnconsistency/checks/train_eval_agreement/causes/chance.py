"""What tells a fit from a coincidence.

Any numbers can be brought nearer to stored ones by a scale and an offset. They are believed if
they fit better than the same with the sign turned round, or are upright and usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, RIVALS
from pytest_bnconsistency.checks.train_eval_agreement.causes.fitting import ROUNDS, Values, fitted
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import How, Trial
from pytest_bnconsistency.data.arrays import Array


@dataclass(frozen=True)
class Fit:
    """Scales and offsets that fit best with one sign, and the `share` of what is stored that they
    explain; `unrivalled` says whether those with the other sign explain less.
    """

    scale: Array
    offset: Array
    unrivalled: bool
    share: float

    @property
    def explains(self) -> bool:
        return self.share > HALF

    def believed(self, usual: bool = False) -> bool:
        """Upright and usual numbers are, as the simplest; any others if they are alone."""
        return self.unrivalled or (usual and bool((self.scale > 0).all()))


def fits(trial: Trial[How], values: Values, spread: Array, rounds: int = ROUNDS) -> Iterator[Fit]:
    """What fits best with the sign as it is, and turned round."""
    found = []
    for scale, offset in fitted(trial.m, trial.among, trial.m.moving, values, spread, rounds):
        now = values(scale, offset)
        found.append((scale, offset, 0.0 if now is None else trial.explained(now)))
    for index, (scale, offset, share) in enumerate(found):
        rivals = [other for at, (_, _, other) in enumerate(found) if at != index]
        unrivalled = all(other < share - RIVALS for other in rivals)
        yield Fit(scale, offset, unrivalled, share)
