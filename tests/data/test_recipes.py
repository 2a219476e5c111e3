"""A batch as a few words: read, written, and made into the same bits everywhere."""

import hashlib

import numpy as np
import pytest

from pytest_bnconsistency.data.arrays import Spec
from pytest_bnconsistency.data.generation import Source, specs_like
from pytest_bnconsistency.data.recipes import Recipe
from pytest_bnconsistency.errors import DataError

SPEC = Spec((3,), "float32")


@pytest.mark.parametrize(
    "words",
    [
        "1 row",
        "2 rows; row 1 constant 100",
        "9 rows of random 1",
        "4 rows of data 2; rows 1-2 zero with nan; row 3 like row 0",
        "6 rows; rows 1-4 constant 2",
        "3 rows; size 48; row 0 random 2.5 seed 7; row 2 constant -0.1 with 1000 at 5",
        "3 rows; row 0 data 5 times 100; row 1 data 1 mixed 0.25 with 2; row 2 data 0 shuffled 3",
    ],
)
def test_words_are_read_as_they_were_written(words):
    assert str(Recipe.parse(words)) == words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "expected the number of its rows"),
        ("0 rows", "expected the number of its rows"),
        ("2 rows; row 2 zero", "expected rows from 0 to 1"),
        ("2 rows; row 1 huge", "'huge' is no row of a recipe; expected zero, constant 100"),
        ("2 rows; huge", "says no row"),
        ("2 rows; row 0 like row 1", "expected an earlier row"),
    ],
)
def test_what_is_no_recipe_is_refused(words, sentence):
    with pytest.raises(DataError, match=sentence):
        Recipe.parse(words)


def test_rows_are_made_as_the_words_say():
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    words = (
        "7 rows; row 1 constant 2 with nan at 2; row 2 like row 1; row 3 data 1 times 10; "
        "row 4 data 0 mixed 0.5 with 1; row 5 data 1 shuffled 4; row 6 random 3"
    )
    made = Source(specs_like(data), data).expand(Recipe.parse(words))
    np.testing.assert_array_equal(made[:3], [[0, 0, 0], [2, 2, np.nan], [2, 2, np.nan]])
    np.testing.assert_array_equal(made[3:5], [[30, 40, 50], [1.5, 2.5, 3.5]])
    assert sorted(made[5]) == [3, 4, 5]
    assert made.dtype == np.float32


def test_the_rest_are_rows_of_the_data_one_after_the_other():
    data = np.arange(4, dtype=np.float32)[:, None]
    made = Source(specs_like(data), data).expand(Recipe.parse("4 rows of data 1; row 3 zero"))
    assert made.ravel().tolist() == [1, 2, 3, 0]


def test_what_a_row_may_be_is_said_with_an_example_each():
    with pytest.raises(DataError) as refused:
        Recipe.parse("2 rows; row 1 blue")
    examples = (
        "zero, constant 100, random 1 seed 3, like row 0, data 5, data 5 times 100, "
        "data 5 shuffled 3 or data 5 mixed 0.5 with 2, each with one element set where wanted: "
        "zero with nan at 7"
    )
    assert str(refused.value).endswith(f"expected {examples}")


def test_the_rest_are_rows_of_one_kind_each_its_own():
    made = Source(SPEC).expand(Recipe.parse("3 rows of random 1; row 1 zero"))
    again = Source(SPEC).expand(Recipe.parse("2 rows; row 1 random 1 seed 2"))
    assert (made[0] != made[2]).all()
    np.testing.assert_array_equal(made[2], again[1])


def test_a_recipe_gives_the_same_bits_on_every_machine():
    specs = [Spec((5, 7), "float32"), Spec((9,), "int32", "ids", 1000), Spec((3,), "float16")]
    made = Source(specs).expand(Recipe.parse("4 rows of random 1; row 1 random 0.3 seed 99"))
    bits = b"".join(leaf.astype(leaf.dtype.newbyteorder("<")).tobytes() for leaf in made)
    assert hashlib.sha256(bits).hexdigest()[:16] == "6070fa926fe1bf17"


def test_random_numbers_are_standard_normal_as_far_as_it_matters():
    made = Source(Spec((100_000,), "float32")).expand(Recipe.parse("1 row of random 1"))
    assert abs(made.mean()) < 0.02
    assert abs(made.std() - 1) < 0.01


def test_data_that_was_not_given():
    with pytest.raises(DataError, match="'data 5', and no data was given"):
        Source(SPEC).expand(Recipe.parse("2 rows; row 1 data 5"))
