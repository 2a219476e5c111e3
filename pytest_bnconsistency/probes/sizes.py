"""How many rows a model takes, and how long the axes may be that it leaves open."""

from __future__ import annotations

from collections.abc import Callable

from pytest_bnconsistency.data import Nest, generate, map_nest
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
        "rows as x, or --bn-data"
    )


def only_size(subject: Subject) -> str:
    """Why no other number of rows can be run than the one that the model declares, "" if any can.

    A stateful recurrence is such a model: it keeps a state for each row.
    """
    rows, specs = subject.declared_rows(), subject.inputs()
    if rows is None or specs is None:
        return ""
    for count in (rows, rows + 1):
        try:
            with preserve_state(subject):
                subject.forward(generate(specs, count, 0, SIZES[0]), False)
        except Exception as error:
            if count == rows:
                return ""  # generated rows are not what it takes
            return f"the model takes batches of {rows} rows and no others: {first_line(error)}"
    return ""
