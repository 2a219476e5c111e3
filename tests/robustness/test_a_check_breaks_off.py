"""An exception at each operation of a check, and after each write: all is as it was before.

A place is a line of ours with the kind of the operation that it comes to, in a trace or outside.
The suite takes some of them, the cases that are marked slow take all.
"""

import contextlib
import sys

import pytest
from six_kinds import CHECKS, KINDS, Trained
from surroundings import (
    assert_same_code,
    assert_unchanged,
    code_of_libraries,
    surroundings,
)
from tensorflow.python import pywrap_tfe
from tensorflow.python.framework import func_graph

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import leaves_no_trace

PUTTING_BACK = {"__exit__", "restore"}


class Injected(KeyboardInterrupt):
    """As if somebody pressed Ctrl-C."""


class BrokenError(RuntimeError):
    """As if TensorFlow could not go on."""


def place_of(kind):
    """Our line that comes to an operation; None where something is put back, or it is no check."""
    frame, line = sys._getframe(2), None
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name in PUTTING_BACK:
            return None
        if line is None and module.startswith("pytest_bnconsistency."):
            line = module, frame.f_lineno
        frame = frame.f_back
    return line and (*line, kind)


def after(kind):
    """Whether an exception tells more after the operation: it writes, or runs what may write."""
    return kind.startswith(("Assign", "Resource", "__inference", "Stateful", "Partitioned"))


@contextlib.contextmanager
def operations(note):
    """Within it, `note(place, is_after)` is told of each operation, and may raise."""

    def told(original, kind_of):
        def operation(*args, **kwargs):
            kind = kind_of(args)
            place = place_of("function" if kind.startswith("__inference") else kind)
            if place is not None and not after(kind):
                note(place)
            outcome = original(*args, **kwargs)
            if place is not None and after(kind):
                note(place)
            return outcome

        return operation

    def name(text):
        return text.decode() if isinstance(text, bytes) else str(text)

    targets = (
        (pywrap_tfe, "TFE_Py_FastPathExecute", lambda args: name(args[1])),
        (pywrap_tfe, "TFE_Py_Execute", lambda args: name(args[2])),
        (func_graph.FuncGraph, "_create_op_internal", lambda args: name(args[1])),
    )
    with contextlib.ExitStack() as stack:
        for owner, attribute, kind_of in targets:
            original = getattr(owner, attribute)
            stack.callback(setattr, owner, attribute, original)
            setattr(owner, attribute, told(original, kind_of))
        yield


def checked(trained, check):
    check_consistency(trained.model, trained.x, trained.y, checks=[check], **trained.options)


def places(trained, check):
    found = {}
    with operations(lambda place: found.setdefault(place)):
        checked(trained, check)
    return list(found)


def break_off(trained, check, at, error):
    """Whether the place was reached; the check ended with the error or said so in a sentence."""
    reached = []

    def note(place):
        if place == at and not reached:
            reached.append(place)
            raise error("in the middle")

    ours = contextlib.suppress(KeyboardInterrupt, Exception)
    with ours, operations(note):
        checked(trained, check)
    return bool(reached)


def walk(kind, every):
    """How many exceptions there were, and at how many places one can be."""
    twin = Trained(kind)
    wanted = twin.trained_on()
    trained = Trained(kind)
    for check in CHECKS:  # imports, and what libraries make when it is first needed
        checked(trained, check)
    known, tried, missed = set(), 0, []
    code, around = code_of_libraries(), surroundings()
    for check in CHECKS:
        fresh = [place for place in places(trained, check) if place not in known]
        known.update(fresh)
        for number, place in enumerate(fresh[::every]):
            error = BrokenError if number % 3 == 2 else Injected
            try:
                with leaves_no_trace(trained.model, trained.x, trained.y):
                    reached = break_off(trained, check, place, error)
                assert_unchanged(around)
            except AssertionError as wrong:
                raise AssertionError(f"{check}, {error.__name__} at {place}: {wrong}") from None
            tried += reached
            missed += [] if reached else [place]
    assert_same_code(code)
    assert not missed
    assert trained.trained_on() == wanted
    return tried, len(known)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_some_places(kind):
    tried, known = walk(kind, every=60)
    assert tried >= known // 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_places(kind):
    tried, known = walk(kind, every=1)
    print(f"{kind}: {tried} exceptions at {known} places")
    assert tried == known > 80
