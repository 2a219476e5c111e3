"""What must hold: a registry, and one file per property."""

from pytest_bnconsistency.checks.registry import Case, Check, named

__all__ = ["Case", "Check", "named"]
