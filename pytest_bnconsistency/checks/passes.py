"""Traces that the checks of one case share."""

from __future__ import annotations

from collections.abc import Collection

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints
from pytest_bnconsistency.probes.noise import Floor, floors
from pytest_bnconsistency.probes.taps import Pass, neutralised


def observed(case: Case, x: Nest, training: bool | None, apart: Collection[int] = ()) -> Pass:
    """A pass with every row's fingerprints; layers that draw random numbers are neutralised.

    Layers `apart`, by identity, get one row at a time.
    """
    key = ("observed", training, frozenset(apart))
    if key not in case.shared:
        case.shared[key] = neutralised(
            case.subject, x, training=training, instrument=Fingerprints, apart=apart
        )
    traced: Pass = case.shared[key]
    return traced


def measured_noise(case: Case, x: Nest, apart: Collection[int] = ()) -> list[Floor]:
    """The noise floor of each output of inference."""
    key = ("noise", frozenset(apart))
    if key not in case.shared:
        case.shared[key] = floors(observed(case, x, False, apart), x)
    measured: list[Floor] = case.shared[key]
    return measured
