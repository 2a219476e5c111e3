"""Words as in a sentence."""

import pytest

from pytest_bnconsistency.words import brief_line, digits, first_line, shortened

GRAPH = """Graph execution error:

Detected at node net/reshape defined at (most recent call last):
  File "train.py", line 3, in <module>

Input to reshape is a tensor with 20 values, but the requested shape has 16
\t [[{{node net/reshape}}]] [Op:__inference_one_step_on_data_14]"""
FUNCTION = "{{function_node __inference_f_12}} Incompatible shapes: [5,16] vs. [8,16] [Op:Add]"
USER_CODE = """in user code:

    File "train.py", line 2, in f  *
        return tf.reshape(x, (2, 2))

    ValueError: Cannot reshape a tensor with 3 elements"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (GRAPH, "Input to reshape is a tensor with 20 values, but the requested shape has 16"),
        (FUNCTION, "Incompatible shapes: [5,16] vs. [8,16] [Op:Add]"),
        (USER_CODE, "ValueError: Cannot reshape a tensor with 3 elements"),
        ("one\ntwo", "one"),
        ("", "ValueError"),
    ],
    ids=["graph", "function", "user code", "plain", "nothing"],
)
def test_the_line_of_an_error_that_says_something(said, line):
    assert first_line(ValueError(said)) == line


@pytest.mark.parametrize(
    ("value", "most", "said"),
    [
        (309.4, 2, "309"),
        (99.6, 2, "100"),
        (0.0123, 2, "0.012"),
        (0.0, 2, "0"),
        (-12345.6, 3, "-12346"),
        (2e9, 3, "2e+09"),
        (float("inf"), 3, "inf"),
        (float("nan"), 3, "nan"),
    ],
)
def test_a_number_has_no_exponent_where_a_person_would_write_none(value, most, said):
    assert digits(value, most) == said


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("three rows", "three rows"),
        ("It is not built.", "It is not built"),
        ("whole words " * 20, "whole words " * 16 + "..."),
        ("x" * 500, "x" * 60 + "..." + "x" * 60),
    ],
    ids=["short", "a sentence", "long", "one word"],
)
def test_a_long_line_of_an_error_ends_after_a_word(said, line):
    assert brief_line(ValueError(f"{said}\nmore")) == line


def test_the_middle_of_long_words_is_left_out():
    assert shortened("a" * 130 + " b") == "a" * 60 + "..." + "a" * 60 + " b"
    assert shortened("a" * 120 + " b") == "a" * 120 + " b"
