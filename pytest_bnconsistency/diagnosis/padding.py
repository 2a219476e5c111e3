"""Rows that depend on how far their batch is padded."""

from __future__ import annotations

from pytest_bnconsistency.data import Array, Nest, distance
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.probes.noise import Moved
from pytest_bnconsistency.probes.padding import MORE
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.probes.values import differ, outputs_with, values_of
from pytest_bnconsistency.results import Finding


def same_steps(longer: Array, base: Array) -> Array:
    """The steps of `longer`, of shape `(rows, time, ...)`, that `base` has as well."""
    if longer.ndim < 2 or longer.shape[1] != base.shape[1] + MORE:
        return longer
    return longer[:, : base.shape[1]]


def finding(seen: Pass, x: Nest, longer: Nest, moved: Moved) -> Finding:
    """The finding for outputs that moved beyond their noise."""
    short, long = values_of(seen, x), values_of(seen, longer)
    layer = next((label for label, mine in short.items() if _moved(mine, long.get(label))), None)
    tested = layer is not None and _healed(seen, x, longer, {layer: short[layer]}, moved.bound)
    layer = layer or "not located"
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


def _moved(mine: list[Array], its: list[Array] | None) -> bool:
    """Whether a call gives other values for the same steps; it may well give none for more."""
    pairs = zip(mine, its or [], strict=False)
    same = [(a, b) for a, b in ((a, same_steps(b, a)) for a, b in pairs) if a.shape == b.shape]
    return any(differ(a, b) for a, b in same)


def _healed(seen: Pass, x: Nest, longer: Nest, held: dict[str, list[Array]], bound: float) -> bool:
    base, outputs = outputs_with(seen, x, {}), outputs_with(seen, longer, held)
    if base is None or outputs is None:
        return False
    return all(
        mine.shape != its.shape or distance(mine, its).max(initial=0.0) <= bound
        for mine, its in ((a, same_steps(b, a)) for a, b in zip(base, outputs, strict=True))
    )
