"""Traces that the checks of one case share."""

from __future__ import annotations

from collections.abc import Collection

from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.data import Nest
from pytest_bnconsistency.probes.fingerprints import Fingerprints
from pytest_bnconsistency.probes.noise import Noise
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


def measured_noise(case: Case, x: Nest, apart: Collection[int] = ()) -> Noise:
    """The noise of the outputs of inference."""
    key = ("noise", frozenset(apart))
    if key not in case.shared:
        case.shared[key] = Noise(observed(case, x, False, apart), x)
    noise: Noise = case.shared[key]
    return noise
