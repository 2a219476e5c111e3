"""What an adapter for a kind of model starts from."""

from pytest_bnconsistency.models.base import Subject as BaseSubject

__all__ = ["BaseSubject"]
