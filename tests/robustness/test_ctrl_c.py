"""Ctrl-C at random times, by a timer: all is as it was before, whenever it comes."""

import contextlib
import os
import random
import signal
import time
import weakref

import pytest
from six_kinds import KINDS, Trained
from surroundings import assert_same_code, assert_unchanged, code_of_libraries, surroundings

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.checks.undisturbed import undisturbed
from pytest_bnconsistency.execution.traces import Traces
from pytest_bnconsistency.testing import leaves_no_trace

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer to set"),
    # Python itself loses an exception that comes while it takes things away.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def interrupted_after():
    """Whether a run ended by a Ctrl-C that comes so many seconds after it began."""
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))

    def run(seconds, what):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                what()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:  # of the last moment, too
            return True
        return False

    yield run
    signal.signal(signal.SIGALRM, before)


def interrupts(kind, count, interrupted_after):
    """How many of so many checks were cut short, each at a time drawn from a seed."""
    twin = Trained(kind)
    wanted = twin.trained_on()
    trained, draw = Trained(kind), random.Random(kind)

    def check():
        check_consistency(trained.model, trained.x, trained.y, **trained.options)

    check()  # imports, and what libraries make when it is first needed
    begun = time.perf_counter()
    check()
    took = time.perf_counter() - begun
    code, around = code_of_libraries(), surroundings()
    cut = 0
    for _ in range(count):
        with leaves_no_trace(trained.model, trained.x, trained.y):
            cut += interrupted_after(draw.uniform(0.01, 1) * took, check)
        assert_unchanged(around)
    assert_same_code(code)
    assert trained.trained_on() == wanted
    return cut


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_times(kind, interrupted_after):
    assert interrupts(kind, 4, interrupted_after) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_times(kind, interrupted_after):
    cut = interrupts(kind, 34, interrupted_after)
    print(f"{kind}: {cut} of 34 checks were cut short")
    assert cut > 20


def test_it_waits_until_all_is_put_back(monkeypatch):
    trained, restore, sent = Trained("functional"), Traces.restore, []

    def interrupted(self):
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
        restore(self)

    monkeypatch.setattr(Traces, "restore", interrupted)
    before = surroundings()
    with leaves_no_trace(trained.model), pytest.raises(KeyboardInterrupt):
        check_consistency(trained.model, trained.x, trained.y, checks=["frozen_stability"])
    assert sent
    assert_unchanged(before)


def test_it_is_not_lost_while_an_object_goes():
    class Anything:
        pass

    def work():
        one = Anything()
        weakref.finalize(one, os.kill, os.getpid(), signal.SIGINT)
        del one
        time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        undisturbed(work)


def test_it_is_not_lost_in_a_library_that_makes_another_error_of_it():
    def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        except KeyboardInterrupt:
            raise ValueError("None values not supported") from None

    with pytest.raises(KeyboardInterrupt):
        undisturbed(work)


def test_it_is_raised_again_in_what_lost_it(monkeypatch):
    monkeypatch.setattr("pytest_bnconsistency.checks.undisturbed.LOST_AFTER", 0.05)
    begun, put_back = time.monotonic(), []

    class Restores:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            time.sleep(0.3)
            put_back.append(True)

    def work():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        with Restores():
            while time.monotonic() < begun + 6:
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        undisturbed(work)
    assert time.monotonic() < begun + 5
    assert put_back


def test_a_handler_that_raises_nothing_is_called_once():
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        undisturbed(lambda: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [1]
