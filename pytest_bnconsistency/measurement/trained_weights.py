"""The weights that train, and copies of them that the optimizer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import as_variable

ALIKE = 0.7
"""A copy is nearer to a kernel than this share of its size: momenta are not."""


def weights_of(subject: Subject) -> list[Any]:
    """The `tf.Variable`s that the model's optimizer trains."""
    kept_ = (as_variable(v) for v in getattr(subject.model, "trainable_variables", []))
    return [variable for variable in kept_ if variable is not None]


def beside(subject: Subject, weights: Sequence[Any]) -> list[Array] | None:
    """Values for all the weights that the optimizer keeps in their order, and that are like them.

    None where it keeps none, or it can't be told which is whose.
    """
    slots = _floats_of(getattr(subject.model, "optimizer", None))
    own = _places_of(weights, slots)
    if own is None or not 0 <= own[0] <= own[-1] < len(slots):
        return None
    copies = [slots[at] for at in own]
    if any(copy.shape != w.shape for copy, w in zip(copies, weights, strict=True)):
        return None
    return [copy.numpy() for copy in copies]


def _places_of(weights: Sequence[Any], slots: Sequence[Any]) -> list[int] | None:
    """Where the slots of all weights are, told by those of the kernels."""
    kernels = [i for i, w in enumerate(weights) if w.shape.rank and w.shape.rank > 1]
    places = [_nearest(weights[i].numpy(), slots) for i in kernels]
    known = [place for place in places if place is not None]
    if not kernels or len(known) < len(kernels):
        return None
    return _in_step(kernels, known, len(weights))


def _floats_of(optimizer: Any) -> list[Any]:
    kept = getattr(optimizer, "variables", [])
    kept_ = [as_variable(v) for v in (kept() if callable(kept) else kept)]
    return [v for v in kept_ if v is not None and v.dtype.is_floating]


def _in_step(known: Sequence[int], places: Sequence[int], count: int) -> list[int] | None:
    """The places of all, at equal distances in the order of the weights; None where the known
    ones are not.
    """
    stride = 1
    if len(known) > 1:
        stride = (places[1] - places[0]) // (known[1] - known[0])
    own = [places[0] + stride * (i - known[0]) for i in range(count)]
    return own if [own[i] for i in known] == list(places) else None


def _nearest(weight: Array, slots: Sequence[Any]) -> int | None:
    """The index of the slot that is most like a weight, where one is."""
    size = float(np.linalg.norm(weight))
    deviation = {
        at: float(np.linalg.norm(slot.numpy() - weight))
        for at, slot in enumerate(slots)
        if slot.shape == weight.shape
    }
    best = min(deviation, key=lambda at: deviation[at], default=None)
    return best if best is not None and deviation[best] < ALIKE * size else None
