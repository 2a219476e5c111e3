"""Methods of the subject, such as `predict`: run as they are, or around what inference gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pytest_bnconsistency.checks.check_context import Case
from pytest_bnconsistency.data.arrays import Array, Nest, flatten, is_text, rebuild
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.execution.state import Variables
from pytest_bnconsistency.models.base import Subject


def method(
    case: Case,
    seen: Pass,
    known: Callable[[Nest], Observation | None],
    run: Callable[[Nest], Nest],
    held: list[Any],
) -> Callable[[Nest, bool], Observation]:
    """How a method runs on rows, and whether it keeps what it changed.

    Args:
        seen: the traced inference.
        known: what inference gave for a batch, if it ran on it.
        held: the variables that the method may change.
    """

    def call(rows: Nest, keep: bool) -> Observation:
        before, moved = Variables(held), None
        try:
            outputs = _handed_on(case.subject, seen, known, run, rows)
            if outputs is None:
                before.restore()
                outputs = as_it_is(rows)
            moved = before.moved()
            return Observation(outputs, [], tuple(moved), {})
        finally:
            if not keep and moved != []:
                before.restore()

    def as_it_is(rows: Nest) -> list[Array]:
        # Each check leaves the model without the function that it came without; the trace is the
        # same for the next one.
        if "predict function" in case.shared:
            case.subject.predict_function = case.shared["predict function"]
        outputs = arrays_of(run(rows))
        case.shared["predict function"] = case.subject.predict_function
        return outputs

    return call


def _handed_on(
    subject: Subject,
    seen: Pass,
    known: Callable[[Nest], Observation | None],
    run: Callable[[Nest], Nest],
    rows: Nest,
) -> list[Array] | None:
    """What an entry point gives that hands all rows on to the model's inference, as they are.

    None if it does more, or other outputs come back than the model gave. Nothing runs but the
    code around the model: that is given what inference gave for its batches before.
    """
    whole = known(rows)
    if whole is None or not seen.pure or seen.written:
        return None
    if not all(flatten(seen.structure)) or any(is_text(leaf) for leaf in flatten(rows)):
        return None  # an output is None; texts come as bytes
    given, gave = list[Nest](), list[list[Array]]()

    def answer(batch: Nest) -> list[Array] | None:
        if (found := known(batch)) is None:
            return None
        given.append(batch)
        gave.append(found.outputs)
        return found.outputs

    context = subject.answered(rows, rebuild(seen.structure, whole.outputs), answer)
    if context is None:
        return None
    try:
        with context:
            outputs = arrays_of(run(rows))
        given_rows = [np.concatenate(leaves) for leaves in zip(*map(flatten, given), strict=True)]
        expected = [np.concatenate(leaves) for leaves in zip(*gave, strict=True)]
    except Exception:
        return None  # run as it is, it says what is wrong
    as_they_are = same_outputs(given_rows, flatten(rows)) and same_outputs(outputs, expected)
    return outputs if as_they_are else None


def arrays_of(outputs: Nest) -> list[Array]:
    """The outputs of a method, one array each; a text for each row is one."""
    if isinstance(outputs, list) and all(isinstance(leaf, (str, bytes)) for leaf in outputs):
        return [np.array(outputs, object)]
    # As in a pass, an output that is None is none.
    return [np.asarray(leaf) for leaf in flatten(outputs) if leaf is not None]
