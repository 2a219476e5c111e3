"""Numbers of a record, which writes what is none as text."""

from __future__ import annotations


def real(value: object) -> float | None:
    """`value`, if it is a number; the record writes NaN and infinity as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") else None
