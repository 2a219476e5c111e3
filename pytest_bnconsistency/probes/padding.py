"""Batches whose sequences are padded further, as a longer companion would have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array, Nest, Spec, flatten, rebuild
from pytest_bnconsistency.probes.taps import Instrument, Pass, Replay
from pytest_bnconsistency.subjects import Call

MORE = 3
"""Steps that are added."""


class _Masks(Instrument):
    """Keeps the mask of each call's outputs that have one. For runs outside of a graph."""

    def begin(self) -> None:
        self.seen: list[Array] = []

    def tap(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        masks = [getattr(leaf, "_keras_mask", None) for leaf in flatten(outputs)]
        self.seen += [np.asarray(mask) for mask in masks if mask is not None][:1]
        return outputs, None


def lengthened(x: Nest, specs: Nest | None, padding: float) -> Nest | None:
    """`x` with a few more steps of `padding`; None where no input has a time axis of any length.

    A time axis is the first inner axis of an input of ids `(rows, time)` or of vectors
    `(rows, time, features)`.
    """
    if specs is None:
        return None
    leaves, found = [], False
    for leaf, spec in zip(flatten(x), flatten(specs), strict=True):
        if _is_sequence(spec) and leaf.shape[1]:
            added = np.full((len(leaf), MORE, *leaf.shape[2:]), padding, leaf.dtype)
            leaves.append(np.concatenate([leaf, added], 1))
            found = True
        else:
            leaves.append(leaf)
    return rebuild(x, leaves) if found else None


def masks_added(seen: Pass, longer: Nest) -> bool:
    """Whether the model itself takes the added steps for padding: its first mask leaves them out.

    Raises whatever the model raises on sequences of that length.
    """
    masks = _Masks()
    seen.again(longer, masks, traced=False).run(longer)
    mask = next((mask for mask in masks.seen if mask.ndim == 2), None)
    return mask is not None and not mask[:, -MORE:].any()


def _is_sequence(spec: Spec) -> bool:
    ids = len(spec.shape) == 1 and not spec.dtype.startswith(("float", "bfloat"))
    return bool(spec.shape) and spec.shape[0] is None and (ids or len(spec.shape) == 2)
