"""Weights that were trained with another epsilon, as those of another framework are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import RIVALS, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.trials import Trial, Tried
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.input_moments import Moments
from pytest_bnconsistency.rules import catalogue as rules

USUAL = (1e-3, 1e-5)
"""Those of Keras and TensorFlow, and of PyTorch and Caffe."""
SMALL = 0.05
"""Where another epsilon is less of the variances, it moves nothing that could be seen."""


def other_epsilon(m: Measured) -> Iterator[Cause]:
    """What is stored, with an epsilon that is usual elsewhere in all layers."""
    layers = {id(t.layer): t.layer for t in m.tracked if _matters(m, t.layer)}
    for epsilon in USUAL:
        changed = [layer for layer in layers.values() if layer.epsilon != epsilon]
        tried = EpsilonTrial(m, changed).tried(epsilon) if changed else None
        if tried is not None and tried.explains and tried.share > tried.initial - RIVALS:
            yield _cause(m, changed[0], epsilon, tried)


def _cause(m: Measured, layer: Any, epsilon: float, tried: Tried) -> Cause:
    return Cause.tested(
        rules.EPSILON,
        cause=f"the weights were trained with epsilon {epsilon:g}, and the model has "
        f"{layer.epsilon:g}",
        tested=f"with epsilon {epsilon:g} the statistics of this data are what is stored; "
        f"{tried.said}",
        remedy=f"build the layers with epsilon={epsilon:g}, as where the weights come from",
        share=tried.share,
        place=next(t.path for t in m.tracked if t.layer is layer),
        sure=tried.mends,
    )


def _matters(m: Measured, layer: Any) -> bool:
    """Whether the layer has an epsilon, and variances that a usual one is much of."""
    variances = [
        value.ravel()
        for t, value in zip(m.tracked, m.moving, strict=True)
        if t.layer is layer and t.role == "variance"
    ]
    epsilon = getattr(layer, "epsilon", None)
    if not isinstance(epsilon, float) or not variances:
        return False
    largest = max(epsilon, *USUAL)
    return bool(np.median(np.concatenate(variances)) * SMALL < largest)


class EpsilonTrial(Trial[float]):
    """A model whose layers have another epsilon, traced anew."""

    def __init__(self, m: Measured, layers: list[Any]) -> None:
        super().__init__(m)
        self._layers = layers
        self._passes: tuple[Pass, Pass] | None = None

    def changed(self, change: float | None, rows: Data) -> tuple[Data, Pass, Pass]:
        if change is None:
            return rows, self.m.training, self.m.inference
        if self._passes is None:
            self._passes = self._traced(change)
        return rows, *self._passes

    def _traced(self, epsilon: float) -> tuple[Pass, Pass]:
        x, subject = self.some.x, self.m.subject
        with _given(self._layers, epsilon):
            passes = (
                self.m.training.again(x, Moments(subject)),
                self.m.inference.again(x, self.m.inference.instrument),
            )
            for traced in passes:
                traced.run(x)
        return passes


@contextlib.contextmanager
def _given(layers: list[Any], epsilon: float) -> Iterator[None]:
    before = [layer.epsilon for layer in layers]
    try:
        for layer in layers:
            layer.epsilon = epsilon
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.epsilon = was
