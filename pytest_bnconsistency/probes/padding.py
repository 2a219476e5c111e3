"""Batches whose sequences are padded further, as a longer companion would have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array, Nest, Spec, flatten, rebuild, rows_of
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
    leaves, sequences = list(flatten(x)), _sequences(x, specs)
    for leaf, place in sequences:
        added = np.full((len(leaf), MORE, *leaf.shape[2:]), padding, leaf.dtype)
        leaves[place] = np.concatenate([leaf, added], 1)
    return rebuild(x, leaves) if sequences else None


def shortest(x: Nest, specs: Nest | None, padding: float) -> Array:
    """The row that has the fewest steps before its padding, and some, as an array of one."""
    steps = sum((_steps(leaf, padding) for leaf, _ in _sequences(x, specs)), np.zeros(rows_of(x)))
    return np.array([int(np.argmin(np.where(steps > 0, steps, np.inf)))])


def trimmed(x: Nest, specs: Nest | None, padding: float) -> Nest:
    """`x` without the last steps that are `padding` in every row: then one row at least has none.

    Inputs of one length stay of one length, and keep a step.
    """
    kept: dict[int, int] = {}
    for leaf, _ in _sequences(x, specs):
        time, steps = leaf.shape[1], int(_steps(leaf, padding).max())
        kept[time] = max(steps, kept.get(time, 1))
    places = {place for _, place in _sequences(x, specs)}
    return rebuild(
        x,
        [
            leaf[:, : kept[leaf.shape[1]]] if place in places else leaf
            for place, leaf in enumerate(flatten(x))
        ],
    )


def _sequences(x: Nest, specs: Nest | None) -> list[tuple[Array, int]]:
    """The inputs with a time axis of any length, and their places among all."""
    if specs is None:
        return []
    pairs = enumerate(zip(flatten(x), flatten(specs), strict=True))
    return [(leaf, i) for i, (leaf, spec) in pairs if _is_sequence(spec) and leaf.shape[1]]


def _steps(leaf: Array, padding: float) -> Array:
    """How many steps each row has before its padding."""
    held = (leaf != padding).reshape(len(leaf), leaf.shape[1], -1).any(axis=2)
    return np.where(held.any(axis=1), leaf.shape[1] - held[:, ::-1].argmax(axis=1), 0)


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
