"""Numbers of a record, which writes what is none as text, and how they are shown."""

from __future__ import annotations

import math


def real(value: object) -> float | None:
    """`value`, if it is a number; the record writes NaN and infinity as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") else None


def number(value: float) -> str:
    """`value` in three digits, or as many as a whole number has."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
