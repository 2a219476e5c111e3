"""What checks of one model share is made once, and only when it is asked for."""

import itertools

from pytest_bnconsistency.checks import CheckContext
from pytest_bnconsistency.checks.entry_points import entry
from pytest_bnconsistency.checks.registry import CHECKS
from pytest_bnconsistency.settings import Settings, resolve


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


def test_what_is_shared_is_not_shown(k):
    """Pytest shows the arguments of each function that runs when Ctrl-C comes."""
    model = k.Sequential([k.Input((4,)), k.layers.BatchNormalization(), k.layers.Dense(2)])
    context = CheckContext.of(model, None, None, resolve({}))
    CHECKS["batch_invariance"].run(context)
    shown = [repr(context), repr(entry(context, "predict"))]
    assert max(map(len, shown)) < 4000
