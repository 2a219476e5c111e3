"""Traces that the checks of one case share."""

from __future__ import annotations

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Nest, map_nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints
from pytest_bnconsistency.probes.noise import Floor, Perturbation, black_box, floors
from pytest_bnconsistency.probes.taps import Pass, neutralised

NOISE_ROWS = 4
"""The noise of a row does not depend on how many there are."""


def observed(case: Case, x: Nest, training: bool | None) -> Pass:
    """A pass with every row's fingerprints; layers that draw random numbers are neutralised."""
    key = ("observed", training)
    if key not in case.shared:
        case.shared[key] = neutralised(case.subject, x, training=training, instrument=Fingerprints)
    traced: Pass = case.shared[key]
    return traced


def measured_noise(case: Case, x: Nest) -> tuple[list[Floor], Pass]:
    """The noise floor of each output of inference, and the pass that perturbs."""
    if "noise" not in case.shared:
        seen = observed(case, x, False)
        middle, shake_inputs = len(seen.calls) // 2, black_box(seen)
        perturbed = neutralised(
            case.subject,
            x,
            training=False,
            instrument=lambda: Perturbation(middle, inputs=shake_inputs),
        )
        few = map_nest(lambda leaf: leaf[:NOISE_ROWS], x)
        case.shared["noise"] = floors(perturbed, few), perturbed
    measured: tuple[list[Floor], Pass] = case.shared["noise"]
    return measured
