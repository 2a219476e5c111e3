"""Words as in a sentence."""

import pytest

from pytest_bnconsistency.words import first_line

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
