"""How long the axes may be that a model leaves open."""

from __future__ import annotations

from collections.abc import Callable

from pytest_bnconsistency.data import Nest, map_nest
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.probes.state import preserve_state
from pytest_bnconsistency.subjects import Subject
from pytest_bnconsistency.words import first_line

SIZES = (32, 96, 224)


def fitting_size(subject: Subject, make: Callable[[int], Nest]) -> int:
    """The first of `SIZES` whose rows, as `make` makes them, run through the model.

    Raises:
        DataError: none of them does.
    """
    reasons = []
    for size in SIZES:
        x = make(size)
        try:
            with preserve_state(subject):
                subject.forward(map_nest(lambda leaf: leaf[:1], x), False)
        except Exception as error:
            reasons.append(f"{size}: {first_line(error)}")
        else:
            return size
    raise DataError(
        f"generated rows do not run through model {subject.name!r} ({reasons[0]}); give some "
        "rows as x"
    )
