"""The facts of normalization layers are what runs of the model show."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import OwnNormalization

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.layer_facts import known_layer_facts, layer_facts
from pytest_bnconsistency.checks.registry import named
from pytest_bnconsistency.execution.traces import counted
from pytest_bnconsistency.settings import resolve


def context_of(model, x=None, y=None):
    return CheckContext.of(model, x, y, resolve({}), asked=False)


def several_kinds(k):
    """A frozen backbone, and normalization layers that are told their mode in the graph."""
    norm = k.layers.BatchNormalization
    backbone = k.Sequential(
        [k.Input((4,)), k.layers.Dense(4), norm(name="inside", momentum=0.9, epsilon=1e-5)],
        name="backbone",
    )
    inputs = k.Input((4,))
    h = k.layers.LayerNormalization(name="row")(backbone(inputs))
    h = k.layers.Dense(4)(norm(name="baked")(h, training=True))
    h = k.layers.Dense(4)(norm(name="told")(h, training=False))
    h = k.layers.Activation("relu")(norm(name="free")(h))
    model = k.Model(inputs, k.layers.Dense(2)(h))
    backbone.trainable = False
    return model


@pytest.mark.thorough
def test_the_facts_of_each_layer(k):
    facts = {facts.path: facts for facts in layer_facts(context_of(several_kinds(k)))}
    assert list(facts) == ["backbone/inside", "row", "baked", "told", "free"]
    inside, row = facts["backbone/inside"], facts["row"]
    assert (inside.kind, inside.momentum, inside.epsilon) == ("moving statistics", 0.9, 1e-5)
    assert (inside.axis, inside.dtype, inside.statistics_dtype) == ((1,), "float32", "float32")
    assert (inside.trainable, inside.frozen_by, inside.updates) == (False, "backbone", 0)
    assert (row.kind, row.momentum, row.statistics_dtype) == ("statistics of each row", None, None)
    assert set(row.plain()["modes"].values()) == {None}
    free = facts["free"]
    assert (free.trainable, free.frozen_by, free.updates) == (True, None, 1)
    assert free.plain()["axis"] == [1]


@pytest.mark.thorough
def test_the_modes_are_those_of_layers_whose_stored_statistics_matter(k, x):
    model = several_kinds(k)
    ways = {
        "call": lambda: model(x),
        "predict": lambda: model.predict(x, verbose=0),
        "training": lambda: model(x, training=True),
    }
    weights = model.get_weights()

    def outputs(run):
        found = np.asarray(run())
        model.set_weights(weights)
        return found

    held = [*model.get_layer("backbone").layers, *model.layers]
    for facts in layer_facts(context_of(model)):
        layer = next(each for each in held if each.name == facts.path.split("/")[-1])
        for way, run in ways.items() if facts.statistics_dtype else ():
            before = outputs(run)
            layer.moving_variance.assign(np.array([9, 1, 0.2, 4], np.float32))
            looks = not np.allclose(outputs(run), before, rtol=1e-3)
            assert (facts.path, way, facts.plain()["modes"][way]) == (
                facts.path,
                way,
                "stored" if looks else "batch",
            )


@pytest.mark.thorough
@pytest.mark.parametrize("given", ["x, y", "nothing"])
def test_beside_checks_it_traces_nothing_and_says_the_same(k, x, given):
    model = several_kinds(k)
    model.compile("sgd", "mse")
    targets = np.zeros((8, 2), np.float32)
    context = context_of(model, *((x, targets) if given == "x, y" else ()))
    for check in named(None):
        check.run(context)
    with counted() as traces:
        known = known_layer_facts(context)
        assert layer_facts(context) == known
    assert traces() == 0
    alone = layer_facts(context_of(model, *((x, targets) if given == "x, y" else ())))
    assert alone == known


def test_before_any_check_it_knows_what_is_stored(x):
    (inside, *_, free) = known_layer_facts(context_of(several_kinds(keras)))
    assert (inside.frozen_by, inside.momentum) == ("backbone", 0.9)
    assert set(free.plain()["modes"].values()) == {None}
    assert free.updates is None


class OfTheBatch(keras.layers.Layer):
    def call(self, x):
        mean, variance = tf.nn.moments(x, [0])
        return (x - mean) / tf.sqrt(variance + 1e-3)


class Hardened(keras.layers.Layer):
    """No normalization, though its outputs don't hang on the scale of what it is given."""

    def call(self, x):
        return tf.sign(x)


@pytest.mark.parametrize("as_function", [False, True])
def test_layers_of_ones_own_are_known_by_what_they_do(as_function):
    own = OwnNormalization(as_function, name="own")
    layers = [keras.Input((4,)), Hardened(), own, OfTheBatch(name="always"), keras.layers.ReLU()]
    model = keras.Sequential([*layers[:2], keras.layers.Dense(4), *layers[2:]])
    first, always = layer_facts(context_of(model))
    assert (first.path, first.kind, first.momentum) == ("own", "moving statistics", 0.8)
    modes = {"call": "stored", "predict": "stored", "training": "batch"}
    assert (first.plain()["modes"], first.updates) == (modes, 1)
    assert (always.path, always.kind) == ("always", "statistics of the batch")
    assert set(always.plain()["modes"].values()) == {"batch"}


def test_statistics_that_are_adapted_stay_and_a_layer_that_is_called_twice_updates_twice(x):
    adapted = keras.layers.Normalization(name="adapted")
    adapted.adapt(x)
    twice = keras.layers.BatchNormalization(name="twice")
    inputs = keras.Input((4,))
    h = adapted(inputs)
    model = keras.Model(inputs, twice(keras.layers.Dense(4)(twice(h))))
    fixed, shared = layer_facts(context_of(model, x))
    assert (fixed.path, fixed.kind, fixed.updates) == ("adapted", "fixed statistics", 0)
    assert set(fixed.plain()["modes"].values()) == {"stored"}
    assert (shared.updates, shared.modes.training) == (2, "batch")


class Net(tf.Module):
    """The same for a module with no Keras in it; what is not called comes last."""

    def __init__(self):
        super().__init__()
        self.norm = Norm()

    def __call__(self, x, training=False):
        return self.norm(x, training) @ tf.ones((4, 2))


class Norm(tf.Module):
    def __init__(self):
        super().__init__()
        self.level = tf.Variable(tf.zeros(4), trainable=False)
        self.momentum = 0.75

    def __call__(self, x, training):
        mean = tf.reduce_mean(x, 0)
        if training:
            self.level.assign(self.momentum * self.level + (1 - self.momentum) * mean)
        return x - (mean if training else self.level)


def test_a_module(x):
    (norm,) = layer_facts(context_of(Net(), x))
    assert (norm.path, norm.kind, norm.momentum) == ("norm", "moving statistics", 0.75)
    assert norm.plain()["modes"] == {"call": "stored", "predict": None, "training": "batch"}


class Lagging(keras.layers.Layer):
    """It moves its statistics on, and normalises by what was stored before, or by the batch."""

    momentum = 0.9

    def __init__(self, by_stored, **options):
        super().__init__(**options)
        self.by_stored = by_stored

    def build(self, shape):
        self.level = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False)

    def call(self, x, training=None):
        before, mean = tf.identity(self.level), tf.reduce_mean(x, 0)
        if training:
            self.level.assign(0.9 * self.level + 0.1 * mean)
        return x - (before if self.by_stored or not training else mean)


class Repeated(keras.layers.Layer):
    """A normalization layer that a loop runs three times."""

    def __init__(self, **options):
        super().__init__(**options)
        self.norm = keras.layers.BatchNormalization(name="norm", momentum=0.9)

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=None):
        def once_more(done, h):
            return done + 1, self.norm(h, training=training)

        return tf.while_loop(lambda done, h: done < 3, once_more, [tf.constant(0), x])[1]


def lagging_and_repeated():
    layers = [Lagging(True, name="lagging"), Lagging(False, name="twin"), Repeated(name="loop")]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])


@pytest.mark.thorough
def test_a_layer_that_writes_its_statistics_may_normalise_by_those_stored():
    model = lagging_and_repeated()
    model.layers[2].trainable = False  # for a check that runs layers in both modes
    alone, beside = context_of(model), context_of(model)
    (check,) = named(["frozen_stability"])
    check.run(beside)
    for context in (alone, beside):
        lagging, twin, loop = layer_facts(context)
        assert (lagging.modes.training, twin.modes.training) == ("stored", "batch")
        assert (lagging.modes.call, twin.modes.predict) == ("stored", "stored")
        assert (lagging.updates, twin.updates) == (1, 1)
        assert (loop.modes.training, loop.updates) == ("stored", 0)


def test_updates_in_a_loop_are_counted():
    *_, loop = layer_facts(context_of(lagging_and_repeated()))
    assert (loop.modes.call, loop.modes.training, loop.updates) == ("stored", "batch", 3)
