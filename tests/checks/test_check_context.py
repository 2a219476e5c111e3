"""What checks of one model share is made once, and only when it is asked for."""

import itertools

from pytest_bnconsistency.checks import CheckContext
from pytest_bnconsistency.settings import Settings


def test_what_is_shared_is_made_once_for_each_key():
    context, numbers = CheckContext(None, None, Settings()), itertools.count()
    assert context.known("one") is None
    made = [context.once(key, lambda: next(numbers)) for key in ("one", "other", "one")]
    assert made == [0, 1, 0]
    assert (context.known("one"), context.known("other")) == (0, 1)


def test_nothing_is_shared_between_contexts():
    first, second = (CheckContext(None, None, Settings()) for _ in range(2))
    assert [context.once("key", list) for context in (first, second)] == [[], []]
    assert first.known("key") is not second.known("key")


def test_updates_are_those_that_the_user_says():
    class Counted:
        def updates(self):
            return 5

    assert CheckContext(Counted(), None, Settings()).updates() == 5
    assert CheckContext(Counted(), None, Settings(updates=0)).updates() == 0
