"""Outputs that know the logits which they were computed from.

A share of exactly 1 has lost them, and Keras takes its losses of the logits where an activation
gave the output.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array

LOGITS = "_keras_logits"
"""The attribute by which Keras' activations leave them on a tensor."""


class WithLogits(np.ndarray):
    """An array with `logits` of its shape, None where what was done to it has lost them.

    Rows that are picked, and arrays that are `joined`, keep theirs.
    """

    __slots__ = ("logits",)
    logits: Array | None

    def __array_finalize__(self, source: Any) -> None:
        self.logits = None

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(part, WithLogits) and self.logits is not None:
            part.logits = self.logits[index]
        return part


def with_logits(array: Array, logits: Array) -> Array:
    found = array.view(WithLogits)
    found.logits = logits
    return found


def logits_of(array: Any) -> Array | None:
    return array.logits if isinstance(array, WithLogits) else None


def joined(arrays: list[Array]) -> Array:
    """Arrays one after another, with their logits where all have them."""
    whole, logits = np.concatenate(arrays), [logits_of(array) for array in arrays]
    known = [each for each in logits if each is not None]
    return with_logits(whole, np.concatenate(known)) if len(known) == len(arrays) else whole
