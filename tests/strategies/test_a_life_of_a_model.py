"""What depends on the order of steps: a machine lives the lives of a model and finds it."""

import re

import keras
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from pytest_bnconsistency import ConsistencyFailure, strategies
from pytest_bnconsistency.errors import DataError


def base_of(k):
    layers = [k.layers.Dense(4, name="dense"), k.layers.BatchNormalization(name="bn")]
    return k.Sequential([k.Input((4,)), *layers], name="base")


def builder(k, body=base_of, loss="sparse_categorical_crossentropy"):
    def build():
        inputs = k.Input((4,))
        outputs = k.layers.Dense(3, activation="softmax", name="head")(body(k)(inputs))
        model = k.Model(inputs, outputs)
        if loss:
            model.compile("sgd", loss)
        return model

    return build


def careful(machine, k):
    """A project that compiles after freezing, and freezes the normalization layers again."""

    class Careful(machine):
        def set_trainable(self, model, layer, value):
            layer.trainable = value
            for each in model._flatten_layers():
                if isinstance(each, k.layers.BatchNormalization) and each is not layer:
                    each.trainable = False
            self.compile_model(model)

    return Careful


def live(machine, *steps):
    life = machine()
    for step in steps:
        name, _, layer = step.partition(" ")
        getattr(life, name)(*[layer] * bool(layer))
    life.teardown()


def fails(machine, *steps):
    with pytest.raises(ConsistencyFailure) as caught:
        live(machine, *steps)
    return caught.value.results[0].findings[0]


def found(machine, lives):
    """The rules that Hypothesis finds broken, each with the steps that it shows."""
    chosen = settings(
        machine.TestCase.settings,
        max_examples=lives,
        derandomize=True,
        database=None,
        print_blob=False,
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception as error:  # several failures come as a group
        failures = getattr(error, "exceptions", [error])
        return {
            failure.results[0].findings[0].rule: re.findall(
                r"state\.(\w+)\(", "".join(failure.__notes__)
            )
            for failure in failures
        }
    return {}


@pytest.mark.thorough
def test_freezing_after_training_without_compiling(k):
    machine = strategies.lifecycle_machine(builder(k))
    finding = fails(machine, "fit", "freeze base/bn", "fit")
    assert (finding.rule, finding.layer, finding.cause_tested) == ("BN304", "base/bn", True)
    live(machine, "fit", "freeze base/bn", "compile", "fit")


@pytest.mark.thorough
def test_unfreezing_what_holds_a_frozen_normaliser(k):
    machine = strategies.lifecycle_machine(builder(k))
    steps = ["freeze base/bn", "freeze base", "unfreeze base", "compile", "fit"]
    finding = fails(machine, *steps)
    assert (finding.rule, finding.layer, finding.cause_tested) == ("BN306", "base/bn", True)
    live(careful(machine, k), *steps)


@pytest.mark.thorough
def test_a_long_life_of_a_careful_project(k):
    machine = careful(strategies.lifecycle_machine(builder(k)), k)
    steps = ["predict", "fit", "evaluate", "freeze base", "save_and_load", "fit", "compile"]
    live(machine, *steps, "unfreeze base", "fit", "freeze the model", "save_and_load", "fit")


def test_training_mode_in_inference_shows_at_once():
    machine = strategies.lifecycle_machine(
        builder(
            keras, lambda k: lambda x: k.layers.BatchNormalization(name="bn")(x, training=True)
        )
    )
    assert fails(machine).rule == "BN001"


def test_a_model_that_is_not_compiled_and_has_no_normaliser():
    machine = strategies.lifecycle_machine(builder(keras, lambda k: k.layers.Dense(4), loss=None))
    live(machine, "fit", "freeze the model", "compile", "fit", "evaluate", "predict")


def test_rules_of_the_user_see_the_model_at_that_point():
    machine = strategies.lifecycle_machine(builder(keras), (np.ones((9, 4)), np.zeros(9)))
    life = machine()
    before = life.model.layers[-1].get_weights()[1]
    life.fit()
    assert (life.model.layers[-1].get_weights()[1] != before).any()
    life.teardown()


@pytest.mark.slow
def test_both_faults_are_found():
    plain = strategies.lifecycle_machine(builder(keras))

    class Compiles(plain):
        def set_trainable(self, model, layer, value):
            layer.trainable = value
            self.compile_model(model)

    class Refreezes(plain):
        def set_trainable(self, model, layer, value):
            careful(plain, keras).set_trainable(Quiet(), model, layer, value)

    class Quiet:
        def compile_model(self, model):
            pass

    assert set(found(plain, 30)) <= {"BN304", "BN306"}  # the first that is met
    # Hypothesis stops shrinking after five minutes: how far it gets is the machine's.
    assert {"fit", "freeze"} <= set(found(Refreezes, 30)["BN304"])
    assert {"freeze", "unfreeze"} <= set(found(Compiles, 30)["BN306"])


@pytest.mark.slow
def test_nothing_is_found_in_30_lives_of_a_careful_project(k):
    assert found(careful(strategies.lifecycle_machine(builder(k)), k), 30) == {}


@pytest.mark.slow
def test_nothing_is_found_in_30_lives_of_a_model_without_batch_statistics():
    build = builder(keras, lambda k: k.layers.LayerNormalization())
    assert found(strategies.lifecycle_machine(build), 30) == {}


@pytest.mark.parametrize(
    ("factory", "data", "sentence"),
    [
        ("a model", None, "give a function that builds one"),
        (builder(keras), np.ones((8, 4)), "data holds no targets"),
        (builder(keras, loss="no_such_loss"), None, "takes neither targets of the shape"),
    ],
)
def test_mistakes_get_a_sentence(factory, data, sentence):
    with pytest.raises(DataError, match=sentence):
        strategies.lifecycle_machine(factory, data)()
