"""The facts of each normalization layer of a model, in the order in which they run.

They are read off passes that others made: nothing is traced here. What no pass told is None.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.variable_uses import Uses
from pytest_bnconsistency.measurement.isolated_layer import IsolatedLayer
from pytest_bnconsistency.measurement.stored_statistics import (
    NormalizationLayer,
    by_behaviour,
    normalization_layers,
)
from pytest_bnconsistency.measurement.tracked_variables import Tracked, calls_by_layer
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import is_of_library, variables_of

Kind = Literal[
    "moving statistics", "fixed statistics", "statistics of each row", "statistics of the batch"
]
Mode = Literal["batch", "stored"]
KindOf = Callable[[Call], Kind | None]

FEW, SIDE = 2, 4
"""Rows that a layer is run on by itself, and how long their axes are where it takes such ones."""
LARGEST = 2**20
"""Elements in a row beyond which a layer is not run by itself."""
TIMES, OFF = 4.0, 100.0
"""What the input of a layer is multiplied by, and how far one element of it is moved."""
SAME = 0.02
"""What epsilon may do to outputs that do not hang on the scale of the input, against their sd."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The model run in one mode: the calls of its layers, and what it did with variables."""

    calls: Mapping[int, Sequence[Call]]
    keeping_shape: Collection[int]
    uses: Uses

    @classmethod
    def of(cls, seen: Pass, x: Nest) -> Ran:
        """What a pass did; `x` are a few rows that it takes, should it have to run."""
        return cls(
            calls=calls_by_layer(seen), keeping_shape=seen.keeping_shape(), uses=seen.uses(x)
        )


@dataclass(frozen=True, kw_only=True)
class Modes:
    """Which statistics a layer normalises by: those that it stores, or those of the batch.

    For `model(x)`, for `predict` and for a step of training; None where that was not seen.
    """

    call: Mode | None
    predict: Mode | None
    training: Mode | None


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """What is so of a normalization layer; nothing here is judged.

    `kind` is what it does: statistics that training moves, or would were they not frozen;
    statistics that it holds and that training leaves alone; none, but those of each row, or of
    the batch in every mode, and then `modes` and `updates` say nothing. `axis` counts from the
    batch, 0, on. `dtype` is that of its computation, `statistics_dtype` of what it stores.
    `frozen_by` is the path of the outermost layer whose flag is off, the model's name if it is
    that of the model. `updates` are those that a step of training makes.
    """

    path: str
    kind: Kind
    momentum: float | None
    epsilon: float | None
    axis: tuple[int, ...] | None
    dtype: str
    statistics_dtype: str | None
    trainable: bool
    frozen_by: str | None
    modes: Modes
    updates: int | None

    def plain(self) -> dict[str, Any]:
        """Plain dicts, strings and numbers."""
        return {**asdict(self), "axis": None if self.axis is None else list(self.axis)}


def inventory(
    subject: Subject,
    *,
    call: Ran | None,
    predict: Uses | None,
    training: Ran | None,
    tracked: Sequence[Tracked] = (),
    kind_of: KindOf,
) -> tuple[LayerFacts, ...]:
    """The facts of each normalization layer.

    Args:
        subject: the model.
        call: `model(x)`.
        predict: what `predict` compiled.
        training: a pass in training mode.
        tracked: the statistics that training moves, found by what they do.
        kind_of: says what a layer normalises by that holds no statistics, by a call of it.
    """
    stateful = {id(n.layer): n for n in by_behaviour(list(normalization_layers(subject)), tracked)}
    runs = _Runs(call, predict, training)
    calls, keeping_shape = runs.calls, runs.keeping_shape
    facts, order = [], [*calls, *(key for key in stateful if key not in calls)]
    for key in order:
        if key in stateful:
            n = stateful[key]
            own = [t for t in tracked if t.layer is n.layer]
            facts.append(_with_statistics(subject, n, calls.get(key, []), runs, own))
        elif key in keeping_shape and (kind := kind_of(calls[key][0])) is not None:
            facts.append(_without_statistics(subject, kind, calls[key][0], runs))
    return tuple(facts)


@dataclass(frozen=True)
class _Runs:
    """How the model ran, as far as that was seen."""

    call: Ran | None
    predict: Uses | None
    training: Ran | None

    @property
    def calls(self) -> dict[int, Sequence[Call]]:
        """The calls of each layer, by identity."""
        return {layer: calls for run in self._seen for layer, calls in run.calls.items()}

    @property
    def keeping_shape(self) -> set[int]:
        """The layers, by identity, that give what they take the shape of."""
        return {layer for run in self._seen for layer in run.keeping_shape}

    @property
    def _seen(self) -> list[Ran]:
        return [run for run in (self.call, self.training) if run is not None]

    def modes(self, statistics: frozenset[int]) -> Modes:
        """The modes of a layer that holds these variables."""
        call, training = (
            None if run is None else _mode(run.uses, statistics)
            for run in (self.call, self.training)
        )
        predict = None if self.predict is None else _mode(self.predict, statistics)
        return Modes(call=call, predict=predict, training=training)

    def always(self, mode: Mode | None) -> Modes:
        """The modes of a layer that has but one."""
        call, predict, training = (
            None if run is None else mode for run in (self.call, self.predict, self.training)
        )
        return Modes(call=call, predict=predict, training=training)


def _mode(uses: Uses, statistics: frozenset[int]) -> Mode:
    """A layer that looks at its statistics only to move them on goes by those of the batch."""
    return "stored" if uses.looks_at(statistics) else "batch"


def _with_statistics(
    subject: Subject,
    n: NormalizationLayer,
    calls: Sequence[Call],
    runs: _Runs,
    tracked: Sequence[Tracked],
) -> LayerFacts:
    variables = frozenset(id(variable) for variable in n.vectors.values())
    training = runs.training
    moves = training is not None and not variables.isdisjoint(training.uses.writes)
    first = next(iter(n.vectors.values()))
    updates = tracked[0].calls if tracked else len(calls) or 1
    path = calls[0].path if calls else n.path
    moving = moves or _would_move(n)
    return LayerFacts(
        path=path,
        kind="moving statistics" if moving else "fixed statistics",
        momentum=n.declared if n.declared is not None else _measured_momentum(tracked),
        epsilon=n.epsilon,
        axis=_axis(n.layer, calls),
        dtype=_dtype(n.layer, calls) or first.dtype.name,
        statistics_dtype=first.dtype.name,
        trainable=subject.trainable(n.layer),
        frozen_by=_frozen_by(subject, n.layer, calls, path),
        modes=runs.modes(variables) if moving else runs.always("stored"),
        updates=None if training is None else updates if moves else 0,
    )


def _would_move(n: NormalizationLayer) -> bool:
    """Whether a layer whose statistics do not move is one of those that do when not frozen."""
    return n.declared is not None and not n.adapts


def _measured_momentum(tracked: Sequence[Tracked]) -> float | None:
    known = [t for t in tracked if t.known and not t.cumulative]
    return round(known[0].momentum, 6) if known else None


def _without_statistics(subject: Subject, kind: Kind, call: Call, runs: _Runs) -> LayerFacts:
    epsilon = getattr(call.layer, "epsilon", None)
    return LayerFacts(
        path=call.path,
        kind=kind,
        momentum=None,
        epsilon=float(epsilon) if isinstance(epsilon, float) else None,
        axis=_axis(call.layer, [call]),
        dtype=_dtype(call.layer, [call]) or call.args[0].dtype.name,
        statistics_dtype=None,
        trainable=subject.trainable(call.layer),
        frozen_by=_frozen_by(subject, call.layer, [call], call.path),
        modes=runs.always("batch" if kind == "statistics of the batch" else None),
        updates=0 if runs.training is not None else None,
    )


def alike(call: Call) -> Hashable:
    """What tells layers apart that normalise by something else, on what they are given.

    A layer of the library's own without variables does what its configuration says.
    """
    layer, given = call.layer, call.args[0] if call.args else None
    own = id(layer)
    if not (isinstance(given, tf.Tensor) and is_of_library(layer)) or variables_of(layer):
        return own
    try:
        configuration = {**layer.get_config(), "name": ""}
    except Exception:  # it has none
        return own
    return type(layer), repr(configuration), str(given.shape), given.dtype.name


def kind_of_stateless(subject: Subject, call: Call) -> Kind | None:
    """What a layer without statistics of its own normalises by, if it does; tried on the layer.

    Then its outputs do not hang on the scale of its input, and one element moves others.
    """
    given = call.args[0] if call.args else None
    if (
        not (call.is_layer and call.number and isinstance(given, tf.Tensor))
        or not given.dtype.is_floating
        or given.shape.rank < 2
        or (given.shape[1:].num_elements() or LARGEST) >= LARGEST
        or subject.sublayers(call.layer)
    ):
        return None
    isolated, (*sides, channels) = IsolatedLayer(call.layer, ()), given.shape[1:]
    for row in dict.fromkeys(
        ((*(min(side, SIDE) for side in sides), channels), (*sides, channels))
    ):
        numbers = np.random.default_rng(0).normal(3, 2, 997)
        x = np.resize(numbers, (FEW, *row))
        try:
            return _kind_on(isolated, x)
        except Exception:  # it takes another shape, or more than that, or does not run by itself
            continue
    return None


def _kind_on(isolated: IsolatedLayer, x: Array) -> Kind | None:
    plain, scaled = isolated.call(x, training=False), isolated.call(TIMES * x, training=False)
    if plain.shape != x.shape or np.abs(scaled - plain).max() > SAME * plain.std():
        return None
    x.flat[0] += OFF
    differs = isolated.call(x, training=False) != plain
    if differs[1:].any():
        return "statistics of the batch"
    return "statistics of each row" if differs.sum() > 1 else None


def _axis(layer: Any, calls: Sequence[Call]) -> tuple[int, ...] | None:
    """The axes of the statistics, as declared, counted from the front where the rank is known."""
    axis = getattr(layer, "axis", None)
    axes = (axis,) if isinstance(axis, int) else axis
    if not isinstance(axes, Sequence) or not all(isinstance(each, int) for each in axes):
        return None
    rank = _rank(layer, calls)
    return tuple(each % rank if rank else each for each in axes)


def _rank(layer: Any, calls: Sequence[Call]) -> int | None:
    rank = getattr(getattr(layer, "input_spec", None), "ndim", None)
    if isinstance(rank, int):
        return rank
    given = calls[0].args[0] if calls and calls[0].args else None
    return given.shape.rank if isinstance(given, tf.Tensor) else None


def _dtype(layer: Any, calls: Sequence[Call]) -> str | None:
    """The dtype in which a layer computes."""
    declared = getattr(layer, "compute_dtype", None)
    if declared is not None:
        return str(declared)
    given = calls[0].args[0] if calls and calls[0].args else None
    return str(given.dtype.name) if isinstance(given, tf.Tensor) else None


def _frozen_by(subject: Subject, layer: Any, calls: Sequence[Call], path: str) -> str | None:
    """The path of the outermost layer whose flag is off, among it and those around it."""
    above = calls[0].parents if calls else subject.above(layer)
    if not subject.trainable(subject.model):
        return subject.name
    outermost = next((each for each in above if not subject.trainable(each)), None)
    if outermost is not None:
        return subject.path(outermost)
    return None if subject.trainable(layer) else path
