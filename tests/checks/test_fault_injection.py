"""An exception at each step of each probe: all is as before to the bit, the next fit too."""

import contextlib
import importlib
import pkgutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import pytest_bnconsistency
from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_pass, leaves_no_trace

CHECKS = ["batch_invariance", "inference_purity", "train_eval_agreement", "frozen_stability"]
ROOMS = ("checks", "measurement", "execution", "models")
PUTTING_BACK = {  # what an exception must not stop
    "restore",
    "_refill_dict",
    "_refill_list",
    "_refill_set",
    "same_bits",
    "preserve_state",
    "writers_of",
    "__exit__",
    "_stay_without_decay",
}


class Injected(KeyboardInterrupt):
    """As if somebody pressed Ctrl-C."""


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


@pytest.fixture
def y(x):
    return (x[:, 0] > 0).astype(np.int32)


def build():
    """One model in which every check finds something, so that all diagnoses run."""
    inputs = keras.Input((4,))
    h = keras.layers.BatchNormalization(name="bn")(keras.layers.Dense(4, name="dense")(inputs))
    h = keras.layers.Dropout(0.2, seed=3)(h)
    told = keras.layers.BatchNormalization(name="told")(h, training=False)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="head")(told))
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    return model


def trained(x, y):
    keras.utils.set_random_seed(7)
    model = build()
    model.fit(x + 3, y, verbose=0, batch_size=6, shuffle=False)
    model.get_layer("dense").trainable = False  # and not compiled again
    return model


def our_code():
    """The files of the rooms whose functions are interrupted."""
    files = set()
    for room in ROOMS:
        package = importlib.import_module(f"{pytest_bnconsistency.__name__}.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            files.add(importlib.import_module(module.name).__file__)
    return files


def calls_of(run, files, stop_at=None):
    """The functions of ours that `run` enters, in order; raises at entry number `stop_at`."""
    entered = []

    def profile(frame, event, argument):
        code = frame.f_code
        if event != "call" or code.co_filename not in files or code.co_name.startswith("<"):
            return
        if _putting_back(frame):
            return
        entered.append((code.co_filename, code.co_name))
        if stop_at is not None and len(entered) == stop_at:
            sys.setprofile(None)
            raise Injected

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return entered


def _putting_back(frame):
    while frame is not None:
        if frame.f_code.co_name in PUTTING_BACK:
            return True
        frame = frame.f_back
    return False


def steps_to_interrupt(entered, each):
    """The first entry of each function of ours, and the last: `each` takes every so many."""
    places = {}
    for number, function in enumerate(entered, 1):
        first, _ = places.setdefault(function, (number, number))
        places[function] = (first, number)
    chosen = sorted({number for pair in places.values() for number in pair})
    return chosen[::each]


def walk(check, x, y, each):
    files = our_code()
    model = trained(x, y)

    def run():
        check_consistency(model, x, y, checks=[check], batch_size=6, rows=4, steps=1)

    entered = calls_of(run, files)
    chosen = steps_to_interrupt(entered, each)
    for number in chosen:
        with leaves_no_trace(model, x, y), contextlib.suppress(Injected):
            calls_of(run, files, stop_at=number)
    assert len(entered) > 1000
    return model


def weights_after_fit(model, x, y):
    history = model.fit(x, y, epochs=2, batch_size=6, verbose=0, shuffle=False)
    slots = [np.asarray(v) for v in model.optimizer.variables]
    return [*model.get_weights(), *slots], history.history, float(tf.random.normal([]))


@pytest.mark.thorough
def test_some_steps_of_each_probe(x, y):
    walk("frozen_stability", x, y, each=150)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_each_step_of_each_probe(check, x, y):
    model = walk(check, x, y, each=1)
    mine = weights_after_fit(model, x, y)
    its = weights_after_fit(trained(x, y), x, y)
    assert mine[1] == its[1]
    assert all(np.array_equal(a, b) for a, b in zip(mine[0], its[0], strict=True))


def masked_attention(k, depth=14):
    """Attention over ids with a mask of its own, which passes through `depth` layers."""
    layers = k.layers
    ids = k.Input((6,), dtype="int32", name="ids")
    mask = k.Input((1, 6), dtype="int32", name="mask")
    words = layers.Embedding(30, 8)(ids)
    hidden = layers.Lambda(lambda m: tf.cast(1 - m, "float32") * -1e4, output_shape=(1, 6))(mask)
    for _ in range(depth):
        hidden = layers.Activation("linear")(hidden)
    scores = layers.Add()([layers.Dot(axes=2)([words, words]), hidden])
    mixed = layers.Dot(axes=(2, 1))([layers.Softmax(name="share")(scores), words])
    return k.Model([ids, mask], layers.Dense(2)(layers.GlobalAveragePooling1D()(mixed)))


@pytest.mark.thorough
def test_a_fault_is_injected_where_rows_differ(k):
    ids = np.random.default_rng(0).integers(1, 30, (8, 6)).astype(np.int32)
    x = {"ids": ids, "mask": np.ones((8, 1, 6), np.int32)}  # no row has padding
    seen = expect_pass("batch_invariance", masked_attention(k), x).evidence["resolution"]
    assert min(seen.values()) <= 1e-5
