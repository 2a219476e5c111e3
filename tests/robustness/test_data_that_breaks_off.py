"""Data sets that raise, never end or change their structure: one sentence, or enough of them."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, check_consistency

X = np.random.default_rng(0).standard_normal((40, 4), np.float32)
Y = (X[:, :1] > 0).astype(np.float32)
BATCHES = [(X[start : start + 8], Y[start : start + 8]) for start in range(0, 40, 8)]
FIRST = BATCHES[0]
OPTIONS = {"checks": ["train_eval_agreement"], "updates": 100, "max_rows": 16}


@pytest.fixture(scope="module")
def model():
    layers = [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    return model


def raising(at, error):
    yield from BATCHES[:at]
    raise error


class Own(keras.utils.PyDataset):
    """A data set of five batches that says that it has as many as it is told."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return BATCHES[index]


def in_graph():
    """A data set of TensorFlow's whose own code raises."""
    signature = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    generator = lambda: raising(2, ValueError("inside"))  # noqa: E731
    return tf.data.Dataset.from_generator(generator, output_signature=signature)


REFUSED = {
    "raises at once": (lambda: raising(0, OSError("no disk\nat all")), "raised OSError: no disk;"),
    "raises at the third": (
        lambda: raising(2, KeyError("a")),
        "the data set raised KeyError: 'a'",
    ),
    "is shorter than it says": (lambda: Own(9), "the data set raised IndexError: list index out"),
    "has no length": (lambda: Own(-1), "the data set raised ValueError"),
    "raises in TensorFlow": (in_graph, "raised InvalidArgumentError: ValueError: inside;"),
    "has empty batches for ever": (
        lambda: itertools.repeat((X[:0], Y[:0])),
        "1000 batches of the data set have no rows, one after the other",
    ),
    "gets targets": (lambda: [X[:8], FIRST], "has 2 parts and the one before it 1;"),
    "loses its targets": (lambda: [FIRST, X[:8]], "has 1 part and the one before it 2;"),
    "loses its weights": (lambda: [(*FIRST, Y[:8, 0]), FIRST], "has 2 parts and the one before"),
    "has four parts": (lambda: [(X, X, X, X)], "has 4 parts; expected x, (x, y) or"),
    "gets wider": (lambda: [FIRST, (np.zeros((8, 5)), Y[:8])], "x has shape (16, 5) for input"),
    "gets an axis": (lambda: [FIRST, (X[:8, None], Y[:8])], "rows of unlike shapes in x"),
    "gets names": (
        lambda: [FIRST, ({"a": X[:8]}, Y[:8])],
        "give x as array and as {'a': 'array'}; expected one structure",
    ),
    "gets a second input": (lambda: [FIRST, ([X[:8]] * 2, Y[:8])], "expected one structure"),
    "turns into texts": (
        lambda: [FIRST, (X[:8].astype(str), Y[:8])],
        "x has dtype object; expected",
    ),
    "gives nothing": (lambda: [None, FIRST], "x holds NoneType; expected arrays"),
    "gives fewer targets": (lambda: [FIRST, (X[:8], Y[:3])], "y has 11 rows and x has 16"),
    "gives a not-a-number": (lambda: [*BATCHES[:3], (X[:8] * np.nan, Y[:8])], "x has NaN or Inf"),
    "ends before it began": (lambda: [], "the data set has no batches"),
}


def stream(given):
    return iter(given) if isinstance(given, list) else given


@pytest.mark.every_case
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(model, name):
    make, sentence = REFUSED[name]
    with pytest.raises(BNConsistencyError) as caught:
        check_consistency(model, stream(make()), **OPTIONS)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ctrl_c_in_a_data_set_is_ctrl_c(model):
    with pytest.raises(KeyboardInterrupt):
        check_consistency(model, raising(1, KeyboardInterrupt()), **OPTIONS)


@pytest.mark.thorough
def test_one_that_never_ends_is_read_so_far(model):
    given = itertools.cycle(BATCHES)
    check_consistency(model, given, statistics_rows=24, **OPTIONS)
    assert next(given)[0] is BATCHES[3][0]


@pytest.mark.thorough
def test_parts_that_are_none_are_not_there(model):
    given = [(X[:8], None, None)] * 2, [X[:8]] * 2
    with_none, without = (check_consistency(model, iter(one), **OPTIONS) for one in given)
    assert with_none.results[0].headline == without.results[0].headline
