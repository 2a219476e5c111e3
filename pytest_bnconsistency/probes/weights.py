"""The weights that train, and copies of them that the optimizer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array
from pytest_bnconsistency.subjects import Subject
from pytest_bnconsistency.subjects.held import as_variable

ALIKE = 0.7
"""A copy is nearer to a kernel than this share of its size: momenta are not."""


def weights_of(subject: Subject) -> list[Any]:
    """The `tf.Variable`s that the model's optimizer trains."""
    held = (as_variable(v) for v in getattr(subject.model, "trainable_variables", []))
    return [variable for variable in held if variable is not None]


def beside(subject: Subject, weights: Sequence[Any]) -> list[Array] | None:
    """Values for all the weights that the optimizer keeps in their order, and that are like them.

    None where it keeps none, or it can't be told which is whose.
    """
    optimizer = getattr(subject.model, "optimizer", None)
    kept = getattr(optimizer, "variables", [])
    held = [as_variable(v) for v in (kept() if callable(kept) else kept)]
    slots = [v for v in held if v is not None and v.dtype.is_floating]
    kernels = [i for i, w in enumerate(weights) if w.shape.rank and w.shape.rank > 1]
    places = [_nearest(weights[i].numpy(), slots) for i in kernels]
    if not kernels or None in places:
        return None
    # A copy of each weight, in the order of the weights: at equal distances from one another.
    start, stride = places[0] or 0, 1
    if len(kernels) > 1:
        stride = ((places[1] or 0) - start) // max(kernels[1] - kernels[0], 1)
    start -= stride * kernels[0]
    own = [start + stride * i for i in range(len(weights))]
    if [own[i] for i in kernels] != places or not 0 <= own[0] <= own[-1] < len(slots):
        return None
    if any(slots[at].shape != w.shape for at, w in zip(own, weights, strict=True)):
        return None
    return [slots[at].numpy() for at in own]


def _nearest(weight: Array, slots: Sequence[Any]) -> int | None:
    """The index of the slot that is most like a weight, where one is."""
    size = float(np.linalg.norm(weight))
    apart = {
        at: float(np.linalg.norm(slot.numpy() - weight))
        for at, slot in enumerate(slots)
        if slot.shape == weight.shape
    }
    best = min(apart, key=lambda at: apart[at], default=None)
    return best if best is not None and apart[best] < ALIKE * size else None
