"""Numbers and lists as in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def listed(items: Iterable[object], last: str = "and") -> str:
    """Words as in a sentence: `a, b and c`."""
    words = [str(item) for item in items]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def path_of(layer: Any, model: str) -> str:
    """The layer's path as all checks print it: without the name of the model itself."""
    return str(getattr(layer, "path", layer.name)).removeprefix(f"{model}/")
