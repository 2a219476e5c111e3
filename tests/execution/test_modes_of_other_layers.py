"""A mode that we tell one layer reaches no other: from Keras 3.16 on, calls hand theirs on."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.hooked_calls import Instrument
from pytest_bnconsistency.models import subject_of

X = np.ones((3, 4), "float32")


class Replayed(Instrument):
    """Each layer with a mode runs once more, in inference."""

    def __init__(self, subject):
        self.subject = subject

    def on_call(self, call, outputs, replay):
        if call.is_layer and self.subject.takes_training(call.layer):
            replay(False)
        return outputs, None


@pytest.fixture
def subject():
    inputs = h = keras.Input((4,))
    for name in ("first", "second"):
        h = keras.layers.ReLU()(keras.layers.BatchNormalization(name=name)(h))
    return subject_of(keras.Model(inputs, h))


def moved_by(seen):
    moved = {id(variable) for variable in seen.written}
    own = seen.subject.own_variables
    return {c.layer.name for c in seen.calls for v in own(c.layer) if id(v) in moved}


def test_of_a_replay(subject):
    seen = Pass(subject, X, training=True, instrument=Replayed(subject))
    assert moved_by(seen) == {"first", "second"}


def test_of_a_layer_that_is_told_another_mode(subject):
    first = subject.model.get_layer("first")
    assert moved_by(Pass(subject, X, training=True, modes={id(first): False})) == {"second"}
    assert moved_by(Pass(subject, X, training=False, modes={id(first): True})) == {"first"}
