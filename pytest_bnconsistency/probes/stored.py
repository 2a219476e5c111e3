"""The statistics that a model holds, read without a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bnconsistency.data import Array
from pytest_bnconsistency.probes.statistics import tracked_candidates
from pytest_bnconsistency.subjects import Subject


def is_variance(name: str) -> bool:
    """Whether an attribute of this name holds a variance: nothing runs that would tell."""
    return "var" in name.lower()


@dataclass(frozen=True)
class Normaliser:
    """A layer that holds statistics: its path, and its vectors by attribute."""

    layer: Any
    path: str
    vectors: dict[str, Any]
    trainable: bool

    def variances(self) -> Iterator[tuple[str, Array]]:
        for name, variable in self.vectors.items():
            if is_variance(name):
                yield name, np.asarray(variable.numpy(), np.float64)

    @property
    def momentum(self) -> float | None:
        momentum = getattr(self.layer, "momentum", None)
        return float(momentum) if isinstance(momentum, (int, float)) else None

    @property
    def epsilon(self) -> float | None:
        epsilon = getattr(self.layer, "epsilon", None)
        return float(epsilon) if isinstance(epsilon, float) else None

    @property
    def adapts(self) -> bool:
        """Whether its statistics are taken by `adapt`, before training."""
        return callable(getattr(self.layer, "adapt", None))

    @property
    def fresh(self) -> bool:
        """Whether it holds nothing but zeros and ones, as layers begin."""
        values = [np.asarray(v.numpy(), np.float64) for v in self.vectors.values()]
        return all(value.flat[0] in (0, 1) and (value == value.flat[0]).all() for value in values)

    @property
    def axis(self) -> tuple[int, int] | None:
        """The axis of the statistics and the rank of the input, where both are told."""
        spec = getattr(self.layer, "input_spec", None)
        axes, rank = getattr(spec, "axes", None), getattr(spec, "ndim", None)
        if not axes or not rank or len(axes) != 1:
            return None
        return int(next(iter(axes))) % rank, int(rank)


def normalisers(subject: Subject) -> Iterator[Normaliser]:
    """Layers with an epsilon, a momentum or `adapt`, and vectors that no optimizer trains."""
    for layer in subject.layers():
        if not any(hasattr(layer, name) for name in ("epsilon", "momentum", "adapt")):
            continue
        held = {id(v) for v in tracked_candidates(subject, layer)}
        vectors = {}
        for name, value in vars(layer).items():
            variable = getattr(value, "_value", value)
            if id(variable) in held and variable.shape.num_elements():
                vectors[name.lstrip("_")] = variable
        if vectors:
            yield Normaliser(layer, subject.path(layer), vectors, subject.trainable(layer))
