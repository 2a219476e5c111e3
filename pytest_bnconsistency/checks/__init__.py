"""What must hold: a registry, and a folder a property."""

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.registry import Check, named

__all__ = ["Check", "CheckContext", "named"]
