"""Rows that depend on how far their batch is padded."""

from __future__ import annotations

import numpy as np

from pytest_bnconsistency.data import Array, Nest
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.probes.noise import Moved
from pytest_bnconsistency.probes.padding import MORE, Steps
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import Finding

APART = 2.0**-10
"""A layer sees the padding if its values move by this share of their scale: far above noise."""


def same_steps(longer: Array, base: Array) -> Array:
    """The steps of `longer`, of shape `(rows, time, ...)`, that `base` has as well."""
    if longer.ndim < 2 or longer.shape[1] != base.shape[1] + MORE:
        return longer
    return longer[:, : base.shape[1]]


def finding(seen: Pass, x: Nest, longer: Nest, moved: Moved) -> Finding:
    """The finding for outputs that moved beyond their noise."""
    first, second = (seen.again(rows, Steps(), traced=False) for rows in (x, longer))
    short, long = first.run(x), second.run(longer)
    place = next(
        (
            call
            for call, mine, its in zip(first.calls, short.records, long.records, strict=False)
            if mine and its and max(map(_share, mine, its)) > APART
        ),
        None,
    )
    layer = "not located" if place is None else place.label
    values = dict(zip((call.label for call in first.calls), short.records, strict=True))
    record = values.get(layer)
    held = {layer: record} if record else {}
    tested = bool(held) and _healed(seen, longer, held, short.outputs, moved.bound)
    return Finding(
        rules.PADDING.id,
        rules.PADDING.slug,
        layer,
        f"row {moved.row} moves by {moved.change:.3g} when its batch is padded {MORE} steps "
        f"further; noise explains {moved.bound:.3g}",
        f"{layer} takes padded steps for steps of the sequence"
        if tested
        else "not established; tried: each layer's values with and without the added steps",
        tested,
        "hand the mask on (mask_zero=True or Masking, and layers that support masks up to the "
        "pooling), or pad every batch to one fixed length",
        f"with {layer} held at what it gives without the added steps, every row is as before"
        if tested
        else "",
        "the noise bound, measured on this model",
        evidence={"moved": moved.change, "bound": moved.bound, "added_steps": MORE},
    )


def _healed(
    seen: Pass, longer: Nest, held: dict[str, list[Array]], base: list[Array], bound: float
) -> bool:
    try:
        outputs = seen.again(longer, Steps(), held=held, traced=False).run(longer).outputs
    except Exception:
        return False
    return all(_change(mine, its) <= bound for mine, its in zip(base, outputs, strict=True))


def _share(mine: Array, its: Array) -> float:
    scale = float(np.abs(mine.astype(float)).max(initial=0.0)) or 1.0
    return _change(mine, its) / scale


def _change(mine: Array, its: Array) -> float:
    its = same_steps(its, mine)
    if mine.shape != its.shape:
        return 0.0
    moved = np.abs(mine.astype(float) - its.astype(float))
    return float(np.nan_to_num(moved, nan=np.inf).max(initial=0.0))
