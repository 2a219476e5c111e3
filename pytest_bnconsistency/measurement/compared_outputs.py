"""What a model says under some statistics or in some mode, and how far two of these differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pytest_bnconsistency.data.arrays import Array, flatten, is_float
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.words import digits

HALF = 0.5
"""The boundary of shares."""
MUCH = 0.05
"""Scores that differ by this share of theirs are told apart."""
SAME = 1e-4
"""Shares that differ by less are one: scores are float32, sums of batches."""


@dataclass(frozen=True)
class Side:
    """Outputs, rows in the order of the data, and the scores that `evaluate` gives for them."""

    outputs: list[Array]
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def predicted(self) -> Array | list[Array]:
        """The outputs as `predict` gives them: one alone is no list."""
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    @property
    def loss(self) -> float | None:
        return self.scores.get("loss")


def uninformed(side: Side) -> Side:
    """What a model says that gives every row the mean of these outputs."""
    return Side([np.broadcast_to(o.mean(axis=0), o.shape).copy() for o in side.outputs])


def handed_on(side: Side, data: Data) -> Side | None:
    """What hands on what it is given, or the last step of it, or the nearest feature of that.

    To denoise, or to say the next step, only what is better than this is learnt. Other outputs are
    as of `uninformed`; None where that are all.
    """
    given = [x for x in flatten(data.x) if isinstance(x, np.ndarray) and is_float(x)]
    targets = flatten(data.y) if data.y is not None else []
    pairs = itertools.zip_longest(side.outputs, targets[: len(side.outputs)])
    with np.errstate(all="ignore"):  # of numbers too large an answer knows nothing
        found = [_alike(output, target, given) for output, target in pairs]
    if all(answer is None for answer in found):
        return None
    rest = uninformed(side).outputs
    return Side([r if answer is None else answer for answer, r in zip(found, rest, strict=True)])


def _alike(output: Array, target: Array | None, given: list[Array]) -> Array | None:
    """The first of what is given, or of its parts, that has the output's shape."""
    shapes = _shapes_of(output) if is_float(output) else ()
    fitting = (x for x in [*given, *_last(given, target)] if x.shape[1:] in shapes)
    found = next((x for x in fitting if x.size == output.size), None)
    return None if found is None else found.reshape(output.shape).astype(output.dtype)


def _last(given: list[Array], target: Array | None) -> Iterator[Array]:
    """The last steps; and where each row has one target, the features that are nearest to it."""
    for x in (x[:, -1] for x in given if x.ndim > 1 and x.size):
        yield x
        if target is not None and is_float(target) and target.size == len(x) and x.ndim == 2:
            distances = ((x - target.reshape(-1, 1)) ** 2).mean(0)
            yield x[:, int(distances.argmin())]


def _shapes_of(output: Array) -> tuple[tuple[int, ...], ...]:
    """Its shape without the rows, and without a last axis of one."""
    shape = output.shape[1:]
    return (shape, shape[:-1]) if shape[-1:] == (1,) else (shape, (*shape, 1))


@dataclass(frozen=True)
class Gap:
    """How far two sides are apart.

    `outputs` is a root mean square in standard deviations of the reference, `decisions` the share
    of rows whose class changes, None where no output decides on a class.
    """

    outputs: float
    decisions: float | None


def gap(side: Side, reference: Side, data: Data) -> Gap:
    """The distance of a side from the reference; the largest of all outputs."""
    distance = math.sqrt(squared_distances(side, reference).mean())
    changed = changed_rows(side, reference, data)
    return Gap(
        distance if math.isfinite(distance) else math.inf,
        None if changed is None else float(changed.mean()),
    )


def squared_distances(side: Side, reference: Side) -> Array:
    """The mean squared distance of each row, in the output where all are farthest."""
    rows = list[Array]()
    for mine, its in zip(side.outputs, reference.outputs, strict=True):
        if is_float(its):
            mine, its = mine.astype(np.float64), its.astype(np.float64)
            squares = ((mine - its) / spread_of(its)) ** 2
            rows.append(squares.reshape(len(squares), -1).mean(axis=1))
    if not rows:
        return np.zeros(len(side.outputs[0]))
    means = [float(squares.mean()) for squares in rows]
    return rows[int(np.argmax(means))]  # of one that is no number, too


def spread_of(output: Array) -> float:
    """The largest standard deviation of an output among rows; its size where all are alike."""
    return float(output.std(axis=0).max()) or float(np.abs(output).max()) or 1.0


def deciding(outputs: list[Array], data: Data) -> list[bool]:
    """Which outputs are scores of classes: they sum to one, or the targets are classes."""
    targets = flatten(data.y) if data.y is not None else []
    pairs = itertools.zip_longest(outputs, targets[: len(outputs)])
    return [_are_scores(output, target, data.boundary) for output, target in pairs]


def _are_scores(output: Array, target: Array | None, boundary: float | None) -> bool:
    if output.ndim < 2 or not is_float(output):
        return False
    if output.shape[-1] == 1:
        return boundary == 0 or bool(output.min() >= 0 and output.max() <= 1)
    if output.min() >= 0 and np.allclose(output.sum(-1), 1, atol=1e-2):
        return True
    return target is not None and are_classes(target, output)


def right(side: Side, data: Data) -> float | None:
    """The share of right decisions, over all outputs that decide; None where none does."""
    rows = right_rows(side, data)
    return None if rows is None else float(rows.mean())


def right_rows(side: Side, data: Data) -> Array | None:
    """The share of right decisions of each row."""
    shares = []
    for output, target, decides in zip(
        side.outputs, flatten(data.y), deciding(side.outputs, data), strict=False
    ):
        if decides and are_classes(target, output):
            several = target.shape == output.shape and output.shape[-1] > 1
            classes = target.argmax(-1) if several else target
            same = _decision(output, data).ravel() == classes.ravel()
            shares.append(same.reshape(data.rows, -1).mean(axis=1))
    return np.mean(shares, axis=0) if shares else None


def changed_rows(side: Side, reference: Side, data: Data) -> Array | None:
    """The share of each row's decisions that change, in the output where most do."""
    shares = [
        (_decision(mine, data) != _decision(its, data)).reshape(data.rows, -1).mean(axis=1)
        for mine, its, decides in zip(
            side.outputs, reference.outputs, deciding(reference.outputs, data), strict=True
        )
        if decides
    ]
    return max(shares, key=lambda rows: float(rows.mean())) if shares else None


def numbers(side: Side, reference: Side, data: Data) -> str:
    """The two sides in a few words: scores where there are any, else decisions and outputs."""
    shared = [name for name in side.scores if name in reference.scores]
    if shared:
        pairs = [(side.scores[name], reference.scores[name]) for name in shared]
        said = [
            f"{name} {' against '.join(_unlike(*pair))}"
            for name, pair in zip(shared, pairs, strict=True)
        ]
        return ", ".join([*said, *_decisions(side, reference, data, pairs)])
    deviation = gap(side, reference, data)
    parts = [f"outputs {digits(deviation.outputs, 2)} standard deviations apart"]
    if deviation.decisions is not None:
        parts.insert(0, f"{deviation.decisions:.1%} of the decisions differ")
    return ", ".join(parts)


def _decisions(
    side: Side, reference: Side, data: Data, scores: list[tuple[float, float]]
) -> list[str]:
    """How many decisions are right, where that differs and none of the scores says it."""
    if data.y is None:
        return []
    mine, its = right(side, data), right(reference, data)
    if mine is None or its is None or f"{mine:.1%}" == f"{its:.1%}":
        return []
    if any(np.allclose(pair, (mine, its), atol=SAME) for pair in scores):
        return []
    return [f"{mine:.1%} of the decisions right against {its:.1%}"]


def _unlike(mine: float, its: float) -> tuple[str, str]:
    """Two numbers, in as many digits as tell them apart where they differ by much."""
    said = number(mine), number(its)
    if said[0] == said[1] and not math.isclose(mine, its, rel_tol=MUCH):
        return digits(mine), digits(its)
    return said


def number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.1g}"


def are_classes(target: Array, output: Array) -> bool:
    """Whether targets are numbers of an output's classes, or one-hot rows of them."""
    if output.shape[-1] == 1:
        return bool(target.size == output.size and np.isin(target, (0, 1)).all())
    if target.shape == output.shape:
        return bool(np.isin(target, (0, 1)).all() and (target.sum(-1) == 1).all())
    if target.size != output[..., 0].size or target.dtype.kind not in "iuf":
        return False
    return bool(not np.mod(target, 1).any() and target.max() < output.shape[-1])


def _decision(output: Array, data: Data) -> Array:
    if output.shape[-1] > 1:
        classes: Array = output.argmax(-1)
        return classes
    return np.asarray(output[..., 0] > (HALF if data.boundary is None else data.boundary))
