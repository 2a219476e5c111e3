"""Traces that the checks of one case share."""

from __future__ import annotations

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints
from pytest_bnconsistency.probes.noise import Floor, floors
from pytest_bnconsistency.probes.taps import Pass, neutralised


def observed(case: Case, x: Nest, training: bool | None) -> Pass:
    """A pass with every row's fingerprints; layers that draw random numbers are neutralised."""
    key = ("observed", training)
    if key not in case.shared:
        case.shared[key] = neutralised(case.subject, x, training=training, instrument=Fingerprints)
    traced: Pass = case.shared[key]
    return traced


def measured_noise(case: Case, x: Nest) -> list[Floor]:
    """The noise floor of each output of inference."""
    if "noise" not in case.shared:
        case.shared["noise"] = floors(case.subject, x, observed(case, x, False).still)
    measured: list[Floor] = case.shared["noise"]
    return measured
