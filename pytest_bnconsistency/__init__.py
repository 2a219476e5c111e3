"""Fail a test when a model's normalisation makes its behaviour inconsistent.

The public names are loaded when they are used: this package is imported by every pytest session
of everybody who has it installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_bnconsistency import strategies as strategies
    from pytest_bnconsistency.assertions import (
        BnCheck,
        assert_baseline,
        assert_batch_invariance,
        assert_consistency,
        assert_frozen_stability,
        assert_healthy_statistics,
        assert_inference_purity,
        assert_statistics_health,
        assert_train_eval_agreement,
        check_consistency,
        preserve_state,
        recalibrate,
        record_baseline,
    )
    from pytest_bnconsistency.errors import BNConsistencyError, ConsistencyFailure
    from pytest_bnconsistency.results import CheckResult, Finding, Report, Verdict
    from pytest_bnconsistency.suite import ConsistencySuite

_HOMES = {
    "errors": ("BNConsistencyError", "ConsistencyFailure"),
    "results": ("CheckResult", "Finding", "Report", "Verdict"),
    "suite": ("ConsistencySuite",),
}
"""Where the names are that `assertions` does not hold."""

__version__ = "0.1.0"
__all__ = [
    "BNConsistencyError",
    "BnCheck",
    "CheckResult",
    "ConsistencyFailure",
    "ConsistencySuite",
    "Finding",
    "Report",
    "Verdict",
    "assert_baseline",
    "assert_batch_invariance",
    "assert_consistency",
    "assert_frozen_stability",
    "assert_healthy_statistics",
    "assert_inference_purity",
    "assert_statistics_health",
    "assert_train_eval_agreement",
    "check_consistency",
    "preserve_state",
    "recalibrate",
    "record_baseline",
]
"""All but `strategies`, a module: `import *` would ask everybody for Hypothesis."""


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return importlib.import_module("pytest_bnconsistency.strategies")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "assertions")
    return getattr(importlib.import_module(f"pytest_bnconsistency.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "strategies"])
