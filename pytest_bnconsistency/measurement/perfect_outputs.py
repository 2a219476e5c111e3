"""Outputs that say what the targets say: no model has a smaller loss, whatever it has learnt.

That loss need not be 0. It has the penalties of the weights in it, the entropy of targets that are
shares of classes, and for some losses a number of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_bnconsistency.data.arrays import Array, flatten, is_float
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.compared_outputs import Side, are_classes

SOFTENED = (0.0, 0.05, 0.1, 0.2)
"""Shares of all classes alike in an answer: a loss that smooths its labels wants one."""
LARGE = 2**24
"""Numbers in the outputs beyond which only the targets as they are are tried: each is a copy."""
SURE = 1e-7
"""A score of a class of which nothing is said, before its logarithm is taken."""


def perfect(side: Side, data: Data) -> Iterator[Side]:
    """Sides that answer with the targets, as shares or as scores; none if no output can."""
    given = _answers(side, data)
    shares = any(map(_are_shares, given))
    several = shares and sum(answer.size for answer in given) <= LARGE
    for share in (SOFTENED if several else SOFTENED[:1]) if given else ():
        said = [_softened(answer, share) for answer in given]
        yield _as(side, said)
        if shares and not all(map(_are_shares, side.outputs)):
            yield _as(side, list(map(_scores, said)))


def _answers(side: Side, data: Data) -> list[Array]:
    """The targets in the form of the outputs, none if one has none."""
    targets = flatten(data.y) if data.y is not None else []
    if len(targets) != len(side.outputs):
        return []
    found = map(_answer, targets, side.outputs)
    known = [answer for answer in found if answer is not None]
    return known if len(known) == len(targets) else []


def _as(side: Side, said: list[Array]) -> Side:
    return Side([v.astype(o.dtype) for v, o in zip(said, side.outputs, strict=True)])


def _answer(target: Array, output: Array) -> Array | None:
    """The target in the form of the output."""
    if not is_float(output) or target.dtype.kind not in "biuf":
        return None
    if target.size == output.size:
        return target.reshape(output.shape).astype(np.float32)
    if output.ndim > 1 and output.shape[-1] > 1 and are_classes(target, output):
        one_hot: Array = np.eye(output.shape[-1], dtype=np.float32)[
            target.reshape(output.shape[:-1]).astype(int)
        ]
        return one_hot
    return None


def _are_shares(answer: Array) -> bool:
    """Whether its numbers are shares of the classes of a row, or each that of one class."""
    return bool(answer.min() >= 0 and answer.max() <= 1)


def _softened(answer: Array, share: float) -> Array:
    if not share or not _are_shares(answer):
        return answer
    return (1 - share) * answer + share / (answer.shape[-1] if _sum_to_one(answer) else 2)


def _scores(answer: Array) -> Array:
    """What softmax, or the logistic function, makes these shares of."""
    if not _are_shares(answer):
        return answer
    scores: Array = np.log(np.maximum(answer, SURE))
    return scores if _sum_to_one(answer) else scores - np.log(np.maximum(1 - answer, SURE))


def _sum_to_one(answer: Array) -> bool:
    return answer.shape[-1] > 1 and np.allclose(answer.sum(-1), 1, atol=1e-3)
