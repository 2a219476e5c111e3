"""One number that all channels of a statistic are multiplied by."""

from __future__ import annotations

import math

import numpy as np

from pytest_bnconsistency.data.arrays import Array

ONE_FACTOR = 0.1
"""Factors of channels, as logarithms, that are one differ by less in the median."""
ONE_COUNT = 0.05
"""A factor that is a number of batches or replicas is as near to a whole one, in parts of it."""


def one_factor(stored: Array, given: Array) -> float | None:
    """The number that positive numbers are of others, None where they differ in it."""
    with np.errstate(all="ignore"):
        logs = np.log(stored / given)
        middle = float(np.median(logs))
        spread = float(np.median(np.abs(logs - middle)))
    return math.exp(middle) if np.isfinite(middle) and spread < ONE_FACTOR else None


def is_count(factor: float) -> bool:
    """Whether a factor is about a whole number, or one divided by it."""
    count = max(factor, 1 / factor)
    return round(count) > 1 and abs(count - round(count)) < ONE_COUNT * count
