"""A layer run by itself, on known numbers of the shape that it was built for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.execution.state import Variables
from pytest_bnconsistency.models.owned_objects import (
    as_variable,
    is_of_library,
    mode_argument,
    variables_of,
    with_mode,
)
from pytest_bnconsistency.models.predict_methods import quiet

ROWS, SIDE = 16, 2
"""The shape of the batch: its rows, and what is as long as no statistic (height, timesteps)."""


@dataclass(frozen=True)
class IsolatedLayer:
    """A layer and those of its variables that hold statistics; all are as before after a run.

    `given` is the shape, rows first, of what it was given, for layers that do not tell.
    """

    layer: Any
    statistics: Sequence[Any]
    given: Sequence[int | None] | None = None

    def batch(self, mean: float = 3.0, deviation: float = 2.0) -> Array:
        """A batch of numbers of this mean and deviation: the same at every call."""
        numbers = np.random.default_rng(0).normal(mean, deviation, 997)
        return np.resize(numbers, (ROWS, *self._row()))

    def call(
        self, x: Array, *, training: bool, under: Sequence[tuple[Any, Array | float]] = ()
    ) -> Array:
        """What the layer gives, under other values of some of its variables."""
        before = self._state()
        try:
            for variable, value in under:
                _put(variable, value)
            return np.asarray(self._call(self._given(x), training).numpy())
        finally:
            before.restore()

    def trained(self, x: Array, start: float | None = None, calls: int = 1) -> list[Array]:
        """The statistics (float64) after `calls` in training mode on `x`.

        From all of them at `start`, or from what is stored.
        """
        before, given = self._state(), self._given(x)

        def one(done: tf.Tensor) -> tf.Tensor:
            self._call(given, training=True)
            return done + 1

        try:
            for variable in self.statistics if start is not None else ():
                _put(variable, start)
            if calls == 1:
                one(tf.constant(0))
            else:
                tf.function(lambda: tf.while_loop(lambda i: i < calls, one, [tf.constant(0)]))()
            return [variable.numpy().astype(np.float64) for variable in self.statistics]
        finally:
            before.restore()

    def kept(self) -> float:
        """The share of the old statistics that one call in training mode keeps."""
        x = self.batch()
        low, high = (np.concatenate(self.trained(x, start), axis=None) for start in (0.0, 1.0))
        return float(np.median(high - low))

    def gain(self, step: float) -> float:
        """The most that the layer in inference makes of a step of its input, from 0 to `step`."""
        x = np.zeros_like(self.batch())
        low, high = (self.call(x + at, training=False).astype(np.float64) for at in (0.0, step))
        return float(np.abs(high - low).max() / step)

    def _state(self) -> Variables:
        return Variables(self._variables)

    @functools.cached_property
    def _variables(self) -> list[Any]:
        inside = map(as_variable, getattr(self.layer, "variables", ()))
        every = [*self.statistics, *variables_of(self.layer), *inside]
        return [variable for variable in every if variable is not None]

    def _given(self, x: Array) -> tf.Tensor:
        own = self.statistics[0].dtype if self.statistics else tf.float32
        return tf.constant(x, getattr(self.layer, "compute_dtype", own))

    def _call(self, given: Any, training: bool) -> Any:
        takes_mode = mode_argument(self.layer) is not None
        args, kwargs = (
            with_mode(self.layer, (given,), {}, training) if takes_mode else ((given,), {})
        )
        with quiet():
            if is_of_library(self.layer):
                return self.layer(*args, **kwargs)
            # Kernels may end the process where they get another rank than theirs: a trace raises.
            return tf.function(lambda: self.layer(*args, **kwargs), autograph=False)()

    def _row(self) -> list[int]:
        """The shape of a row, by what the layer tells of its input."""
        spec = getattr(self.layer, "input_spec", None)
        axes, rank = getattr(spec, "axes", None), getattr(spec, "ndim", None)
        if axes and rank:
            shape = [SIDE] * rank
            for axis, length in axes.items():
                shape[int(axis)] = length
            return shape[1:]
        lengths = [variable.shape.num_elements() for variable in self.statistics]
        config_of = getattr(self.layer, "get_build_config", None)
        built = ((config_of and config_of()) or {}).get("input_shape", self.given)
        if built is None:
            return lengths[:1]
        known = lengths if set(lengths) & set(built) else built
        return [length if length and length in known else SIDE for length in built[1:]]


def _put(variable: Any, value: Any) -> None:
    variable.assign(tf.broadcast_to(tf.cast(value, variable.dtype), variable.shape))
