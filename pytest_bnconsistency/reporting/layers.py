"""The table of a model's normalization layers, from the facts that a record holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.reporting.numbers import real
from pytest_bnconsistency.words import digits

UNSEEN = "?"
"""What no check saw."""
NONE = "\N{EN DASH}"
"""What there is none of."""


@dataclass(frozen=True)
class LayerTable:
    """`rows` of facts by layer; what is `alike` in all layers stands once, each with its name."""

    count: int
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    alike: Sequence[tuple[str, str]]
    more: int = 0


def table(layers: Sequence[Mapping[str, Any]]) -> LayerTable | None:
    """The facts of layers in the order in which they run; None where none are known."""
    if not layers:
        return None
    columns = {name: [cell(layer) for layer in layers] for name, cell in _COLUMNS.items()}
    alike = [
        (name, cells[0])
        for name, cells in columns.items()
        if len(cells) > 1 and len(set(cells)) == 1 and name != "layer"
    ]
    shown = {name: cells for name, cells in columns.items() if name not in dict(alike)}
    return LayerTable(len(layers), tuple(shown), list(zip(*shown.values(), strict=True)), alike)


def _word(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda layer: NONE if layer[key] is None else str(layer[key])


def _mode(run: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(layer: Mapping[str, Any]) -> str:
        if layer["kind"] == "statistics of each row":
            return NONE
        return layer["modes"][run] or UNSEEN

    return cell


def _updates(layer: Mapping[str, Any]) -> str:
    if layer["statistics_dtype"] is None:
        return NONE
    return UNSEEN if layer["updates"] is None else str(layer["updates"])


def _axis(layer: Mapping[str, Any]) -> str:
    return ", ".join(map(str, layer["axis"] or ())) or NONE


def _dtype(layer: Mapping[str, Any]) -> str:
    own, stored = str(layer["dtype"]), layer["statistics_dtype"]
    return own if stored in (None, own) else f"{own}, stored as {stored}"


def _frozen(layer: Mapping[str, Any]) -> str:
    by = layer["frozen_by"]
    return "no" if by is None else "itself" if by == layer["path"] else f"by {by}"


def _share(layer: Mapping[str, Any]) -> str:
    """By momentum and updates, and as measured in the statistics."""
    counted, measured = (
        real(layer.get(name)) for name in ("initial_share", "initial_share_measured")
    )
    if layer["kind"] != "moving statistics":
        return NONE
    if measured is None:
        return UNSEEN if counted is None else f"{counted:.1%}"
    said = f"measured {measured:.1%}"
    return said if counted is None else f"{counted:.1%}, {said}"


def _errors(role: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(layer: Mapping[str, Any]) -> str:
        errors = real(((layer["population"] or {}).get(role) or {}).get("standard_errors"))
        if layer["kind"] != "moving statistics":
            return NONE
        return UNSEEN if errors is None else digits(errors)

    return cell


_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "layer": _word("path"),
    "normalizes by": _word("kind"),
    "momentum": _word("momentum"),
    "epsilon": _word("epsilon"),
    "axis": _axis,
    "dtype": _dtype,
    "frozen": _frozen,
    "model(x)": _mode("call"),
    "predict": _mode("predict"),
    "training": _mode("training"),
    "updates a step": _updates,
    "initial share": _share,
    "mean, standard errors off": _errors("mean"),
    "variance, standard errors off": _errors("variance"),
}
