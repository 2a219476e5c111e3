"""A check has the process to itself, and puts back what it took before Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pytest_bnconsistency.checks import heap

PAUSE, PATIENCE = 0.01, 2.0
"""Seconds until Ctrl-C is tried again, and how long what is put back may take."""
LOST_AFTER = 1.0
"""Seconds after which what still runs has lost the Ctrl-C that was raised in it."""
SAFE = ("__enter__", "__exit__")
"""The functions in which things are taken and put back; an exception there would leave a trace."""
LOSING = weakref.__file__
"""The file of the functions that run when an object goes: an exception there goes with it."""
_ONE_AT_A_TIME = threading.RLock()
Made = TypeVar("Made")


def undisturbed(work: Callable[[], Made]) -> Made:
    """What `work` gives.

    It changes what all threads share, the random generators and the classes of libraries among
    them, so that one at a time can.
    """
    depth = _depth(sys._getframe())
    with _ONE_AT_A_TIME, _interrupts_wait(depth), heap.at_rest():
        return work()


def _depth(frame: types.FrameType | None) -> int:
    """How many functions are running in which an exception must wait."""
    found = 0
    while frame is not None:
        code = frame.f_code
        found += code.co_name in SAFE or code.co_filename == LOSING
        frame = frame.f_back
    return found


@contextlib.contextmanager
def _interrupts_wait(depth: int) -> Iterator[None]:
    """Within it, Ctrl-C waits until what is being taken or put back is."""
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not callable(before) or isinstance(before, _Interrupts) or not in_main_thread:
        yield  # signals come to the main thread alone
        return
    interrupts = _Interrupts(before, depth)
    signal.signal(signal.SIGINT, interrupts)
    ended_by: BaseException | None = None
    try:
        yield
    except BaseException as error:
        ended_by = error
        raise
    finally:
        late = interrupts.closed(ended_by)
        if signal.getsignal(signal.SIGINT) is interrupts:
            signal.signal(signal.SIGINT, before)
        if late:
            before(signal.SIGINT, None)


class _Interrupts:
    """A handler of Ctrl-C that asks again and again until the one `before` can be called."""

    def __init__(self, before: Callable[..., Any], depth: int) -> None:
        self._before, self._depth = before, depth
        self._since: float | None = None
        """When the one that waits came."""
        self._raised: type[BaseException] | None = None
        self._asked_at = math.inf
        """When it is asked next; what comes before that, where one was raised, is the same one."""
        self._over = threading.Event()
        self._asking: threading.Thread | None = None

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        now = time.monotonic()
        if self._raised is not None and now < self._asked_at:
            return
        since = self._since or now
        # What was raised may be what puts things back now, however long that takes.
        has_time = self._raised is not None or now - since < PATIENCE
        if self._over.is_set() or (_depth(frame) > self._depth and has_time):
            self._since = since
            self._ask(now + PAUSE)
            return
        self._since, self._asked_at = None, math.inf
        try:
            self._before(number, frame)
        except BaseException as raised:
            self._raised = type(raised)
            self._ask(now + LOST_AFTER)
            raise

    def _ask(self, at: float) -> None:
        self._asked_at = at
        if self._asking is None and not self._over.is_set():
            self._asking = threading.Thread(target=self._ask_again, daemon=True)
            self._asking.start()

    def _ask_again(self) -> None:
        while not self._over.wait(PAUSE):
            if time.monotonic() >= self._asked_at:
                signal.raise_signal(signal.SIGINT)

    def closed(self, ended_by: BaseException | None) -> bool:
        """Stop asking; whether somebody still waits, or lost what was raised for them.

        What a library calls from C may lose an exception, or make another one of it.
        """
        self._over.set()
        if (asking := self._asking) is not None:
            asking.join()
        lost = self._raised is not None and not isinstance(ended_by, self._raised)
        return lost or self._since is not None
