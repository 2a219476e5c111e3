"""What is given as data is read, or refused with a sentence that says what to write instead."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Spec
from pytest_bnconsistency.data.reading import Returned, read
from pytest_bnconsistency.errors import DataError

SPEC = Spec((4,), "float32", "x")
PAIR = {"a": Spec((4,), "float32", "a"), "b": Spec((), "int32", "b")}
ROWS = np.ones((6, 4), np.float32)
POISONED = ROWS.copy()
POISONED[2, 1] = np.nan
DATASET = tf.data.Dataset


@pytest.mark.parametrize(
    ("x", "y", "specs", "sentence"),
    [
        ([], None, SPEC, "x is empty; expected at least one row"),
        ({}, None, SPEC, "x is empty; expected at least one row"),
        (ROWS[:0], None, SPEC, "x has no rows; expected at least one"),
        (1.5, None, SPEC, "x holds a single float64; expected arrays"),
        ("rows.csv", None, SPEC, "expected arrays of shape"),
        (None, None, SPEC, "x holds NoneType; expected arrays"),
        (np.array([object()] * 3), None, SPEC, "x has dtype object; expected numbers"),
        (POISONED, None, SPEC, "x has NaN or Inf in 1 of 6 rows (the first is row 2)"),
        (ROWS * np.inf, None, SPEC, "x has NaN or Inf in 6 of 6 rows (the first is row 0)"),
        (ROWS, POISONED[:, 1], SPEC, "y has NaN or Inf in 1 of 6 rows"),
        (ROWS, np.zeros(5), SPEC, "y has 5 rows and x has 6; expected one target a row"),
        (ROWS[:, :3], None, SPEC, "x has shape (6, 3) for input 'x'; expected (rows, 4)"),
        (ROWS, None, Spec((None, 4, 3), "float32"), "expected (rows, any, 4, 3)"),
        (ROWS, None, Spec((), "float32"), "expected (rows,)"),
        ({"a": ROWS}, None, PAIR, "x lacks the inputs b; expected a, b"),
        (ROWS, None, PAIR, "x has 1 array; the model takes 2 inputs: a, b"),
        ({"a": ROWS, "b": np.arange(5)}, None, PAIR, "the parts of x have [5, 6] rows"),
        (DATASET.from_tensor_slices(ROWS[:0]).batch(2), None, SPEC, "the data set has no batches"),
        (DATASET.from_tensor_slices(ROWS), None, SPEC, "expected batches: write ds.batch(32)"),
        (DATASET.from_tensor_slices((ROWS, ROWS)), None, SPEC, "gives single rows, of shape (4,)"),
        (iter([]), None, SPEC, "the data set has no batches; expected at least one row"),
        (iter([(ROWS, ROWS, ROWS, ROWS)]), None, SPEC, "has 4 parts; expected x, (x, y)"),
        (iter([()]), None, SPEC, "has 0 parts; expected x, (x, y)"),
        (DATASET.from_tensors(ROWS), ROWS, SPEC, "leave y out"),
    ],
)
def test_what_cannot_be_used_is_refused(x, y, specs, sentence):
    with pytest.raises(DataError) as caught:
        read(x, y, specs, 100)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "specs", "targets"),
    [
        ((ROWS, ROWS[:, 0]), SPEC, True),
        ((ROWS, ROWS), PAIR, False),
        (((ROWS, ROWS), ROWS[:, 0]), PAIR, True),
        ((ROWS, ROWS[:, 0]), None, True),
        (ROWS, SPEC, False),
    ],
)
def test_what_a_function_of_data_returns(value, specs, targets):
    _, y, _, _ = Returned(value).parts(specs)
    assert (y is not None) is targets


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (ROWS, 6),
        (ROWS.tolist(), 6),
        (tf.constant(ROWS), 6),
        (DATASET.from_tensor_slices(ROWS).batch(4), 6),
        (DATASET.from_tensor_slices((ROWS, ROWS)).batch(4).repeat(), 8),
        (iter([ROWS, ROWS[:1]]), 7),
        (iter([(ROWS, ROWS, np.ones(6))]), 6),
    ],
)
def test_forms_of_data(x, rows):
    read_rows = read(x, None, SPEC, 8)
    assert read_rows.rows == rows
    assert read_rows.x.dtype == np.float32


def test_a_pydataset_gives_its_batches():
    class Own(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return ROWS[:2], np.full(2, index)

    given = read(Own(), None, SPEC, 100)
    assert given.rows == 6
    assert given.y.tolist() == [0, 0, 1, 1, 2, 2]


def test_only_so_many_rows_are_read_and_a_note_says_so():
    given = read(ROWS, np.arange(6), SPEC, 4)
    assert given.rows == 4
    assert (np.diff(given.y) > 0).all()
    assert given.notes[0].startswith("outputs and loss are those of 4 of 6 rows (option max_rows)")


def test_rows_whose_kinds_take_turns_are_read_in_equal_parts():
    """Every so-many-th row of them would be of one kind."""
    given = read(np.zeros((1536, 4), np.float32), np.arange(1536) % 3, SPEC, 1024)
    counts = np.bincount(given.y)
    assert counts.sum() == 1024
    assert counts.max() - counts.min() < 60


def test_an_endless_generator_is_read_as_far_as_needed():
    def endless():
        while True:
            yield ROWS, np.zeros(6)

    assert read(endless(), None, SPEC, 20).rows == 20


def test_doubles_become_what_the_model_takes():
    assert read(ROWS.astype(float), None, SPEC, 9).x.dtype == np.float32
    assert read(ROWS.astype(float), None, Spec((4,), "float64"), 9).x.dtype == np.float64


def test_rows_of_unequal_length():
    with pytest.raises(DataError):
        read([[1.0, 2.0], [3.0]], None, SPEC, 9)


def test_one_array_given_for_two_inputs():
    specs = [Spec((4,), "float32", "a"), Spec((4,), "float64", "b")]
    doubles = ROWS.astype(float)
    given = read([doubles, doubles], None, specs, 9)
    assert [leaf.dtype.name for leaf in given.x] == ["float32", "float64"]


def test_the_rows_taken_are_copies():
    given = read(ROWS, None, SPEC, 9)
    taken = given.take(slice(0, 3)).x
    taken[:] = 7
    assert (ROWS == 1).all()


def test_a_misspelt_key_is_named():
    with pytest.raises(DataError, match="x lacks the inputs b"):
        read({"a": ROWS, "c": np.arange(6)}, None, PAIR, 9)
