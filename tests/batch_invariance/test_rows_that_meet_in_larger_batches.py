"""Rows that keep apart in a batch of eight, and meet in one as large as `predict` makes it."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import functional, layer_of

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"


@pytest.fixture
def many() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(40, 4)).astype("float32")


def seats(k, free, *, the_last_first=False):
    """Two experts, by the sign of the first feature, with so many seats each."""

    def route(h):
        chosen = tf.one_hot(tf.cast(h[:, 0] > 0, "int32"), 2)
        ordered = chosen[::-1] if the_last_first else chosen
        place = tf.cumsum(ordered, axis=0)
        place = place[::-1] if the_last_first else place
        seated = tf.reduce_sum(chosen * tf.cast(place <= free, h.dtype), -1, keepdims=True)
        return h * (1.0 + seated)

    return functional(k, layer_of(k, route))


@pytest.mark.parametrize("the_last_first", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_an_expert_that_is_full_after_ten_rows(k, many, the_last_first):
    full = seats(k, 10.0, the_last_first=the_last_first)
    finding = expect_failure(CHECK, full, many, rule="BN101", layer="leak", cause_tested=True)
    assert "(32 rows)" in finding.message
    assert finding.recipe.startswith("32 rows of data 0; rows ")
    never_full = seats(k, 100.0, the_last_first=the_last_first)
    assert "in a batch of 32" in expect_pass(CHECK, never_full, many).summary


@pytest.mark.thorough
def test_without_data_as_well(k):
    expect_failure(CHECK, seats(k, 10.0), None, rule="BN101", layer="leak", cause_tested=True)
    expect_pass(CHECK, seats(k, 100.0), None)


def test_rows_that_shrink_with_their_number(k, many):
    def shrink(from_rows):
        def scaled(h):
            rows = tf.cast(tf.shape(h)[0], h.dtype)
            return h * tf.minimum(1.0, from_rows / rows)

        return functional(k, layer_of(k, scaled))

    finding = expect_failure(CHECK, shrink(16.0), many, rule="BN104", layer="leak")
    assert "between a batch of 32 and one of 8" in finding.message
    expect_pass(CHECK, shrink(64.0), many)


@pytest.mark.thorough
def test_no_more_rows_than_are_given(k, many):
    """What `predict` makes of twelve rows is a batch of twelve."""
    full = seats(k, 8.0)
    few = many[:12]
    finding = expect_failure(CHECK, full, few, rule="BN101", layer="leak", cause_tested=True)
    assert "(12 rows)" in finding.message
    (result,) = check_consistency(full, few[:6], checks=[CHECK]).results
    assert "in a batch of" not in result.summary.rpartition(";")[2]
