"""What a passed check says, and the numbers that a report keeps."""

from __future__ import annotations

from typing import Any

from pytest_bnconsistency.checks.statistics_health.distances import LayerDistances
from pytest_bnconsistency.measurement.stored_statistics import NormalizationLayer
from pytest_bnconsistency.results import Finding
from pytest_bnconsistency.words import counted


def evidence_of(
    found: list[NormalizationLayer], warnings: list[Finding], layers: list[LayerDistances]
) -> dict[str, Any]:
    return {
        "normalization_layers": len(found),
        "unusual": [warning.message for warning in warnings],
        "distances": [layer.plain() for layer in layers],
    }


def passed_summary(found: list[NormalizationLayer]) -> str:
    count = sum(len(n.vectors) for n in found)
    return (
        f"{counted(count, 'statistic')} of {counted(len(found), 'normalization layer')} "
        f"{'is' if count == 1 else 'are'} finite, no variance is negative, "
        "momenta, axes and dtypes can accumulate"
    )
