"""From which score on a single output says "yes": the loss that it was trained by tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.models import Subject

BOUNDARIES = (0.5, 0.0)
"""That of a share, and that of a score whose logistic function is one."""
ASIDE = (0.05, 0.3)
"""So far on both sides of it, the loss of a "yes" and of a "no" is alike."""


def with_boundary(subject: Subject, data: Data) -> Data:
    """The data with its boundary, if its targets are 0 and 1, one a row, and the loss tells."""
    if data.boundary is not None or not subject.evaluates or not _one_of_two(data):
        return data
    with preserve_state(subject):
        found = next((b for b in BOUNDARIES if _is_alike(subject, data, b)), None)
    return data if found is None else replace(data, boundary=found)


def _one_of_two(data: Data) -> bool:
    y = data.y
    return isinstance(y, np.ndarray) and y.size == data.rows and bool(np.isin(y, (0, 1)).all())


def _is_alike(subject: Subject, data: Data, boundary: float) -> bool:
    """Whether scores on both sides of it cost the same, right ones less than wrong ones."""
    for aside in ASIDE:
        losses = [
            _loss(subject, data, target, boundary + side * aside)
            for target, side in ((1, 1), (0, -1), (1, -1), (0, 1))
        ]
        if not np.isfinite(losses).all() or not np.allclose(losses[:2], losses[1::-1], rtol=1e-3):
            return False
        if not max(losses[:2]) < min(losses[2:]):
            return False
    return True


def _loss(subject: Subject, data: Data, target: int, score: float) -> float:
    two = data.take([0, 0])
    assert two.y is not None
    targets = replace(two, y=np.full_like(two.y, target), sample_weight=None)
    loss = subject.loss(targets, np.full((2, 1), score, np.float32))
    return np.nan if loss is None else loss
