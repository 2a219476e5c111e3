"""The same model and data give the same rows, figures and verdict through every door."""

import json

import numpy as np
import pytest

MODELS = """
    import keras
    import numpy as np

    L = keras.layers

    def rows():
        '''Two kinds of rows, one after the other: the first 100 are not as all of them.'''
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.normal(0, 1, (110, 4)), rng.normal(3, 2, (50, 4))])
        return x.astype("float32"), (x[:, :1] > 1).astype("float32")

    def sets():
        x, y = rows()
        return (x, y), (x[:50] + 9, y[:50])

    def weighted():
        return *rows(), np.linspace(0, 1, 160)

    def named():
        x, y = rows()
        return {"left": x[:, :2], "right": x[:, 2:]}, y

    def pair_of_pairs():
        x, y = rows()
        return (x[:, :2], x[:, 2:]), (y, 1 - y)

    def dataset():
        import tensorflow as tf
        return tf.data.Dataset.from_tensor_slices(rows()).batch(10)

    def trained(inputs, h, outputs=1):
        keras.utils.set_random_seed(0)
        bn = L.BatchNormalization(momentum=0.9, name="bn")
        h = L.Dense(1, activation="sigmoid", name="head")(bn(L.Dense(5, name="stem")(h)))
        model = keras.Model(inputs, [h] * outputs if outputs > 1 else h)
        model.compile("sgd", ["binary_crossentropy"] * outputs, jit_compile=False)
        return model

    def fitted(model, x, y):
        model.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0)
        return model

    def single():
        inputs = keras.Input((4,))
        return fitted(trained(inputs, inputs), *rows())

    def double():
        inputs = {"left": keras.Input((2,), name="left"), "right": keras.Input((2,), name="right")}
        return fitted(trained(inputs, L.Concatenate()(list(inputs.values()))), *named())

    def twice():
        inputs = [keras.Input((2,)), keras.Input((2,))]
        x, y = pair_of_pairs()
        return fitted(trained(inputs, L.Concatenate()(inputs), 2), list(x), list(y))
"""
TESTS = """
    import models
    from pytest_bnconsistency import (ConsistencySuite, assert_train_eval_agreement)

    def test_assertion():
        x, y = models.{data}(){first}
        assert_train_eval_agreement(models.{model}(), x, y)

    class TestSuite(ConsistencySuite):
        checks = ["train_eval_agreement"]

        def model(self):
            return models.{model}()

        def data(self):
            return models.{data}()
"""
OPTIONS = ("--bn-batch-size=20", "--bn-max-rows=100", "--bn-check=train_eval_agreement")
CONFTEST = """
    import json

    def pytest_runtest_logreport(report):
        if report.when == "call":
            with open("seen.jsonl", "a") as file:
                for value in json.loads(getattr(report, "bn_entries", "[]")):
                    file.write(json.dumps(value) + "\\n")
"""

OF_THE_DOOR = {"name", "title", "shared", "path", "line", "test", "reproduce", "seconds"}
"""What the record says of who asked, and how long it took."""


def said(pytester):
    """What the checks of all runs said, whoever asked."""
    lines = (pytester.path / "seen.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [{k: v for k, v in entry.items() if k not in OF_THE_DOOR} for entry in entries]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "data", "first"),
    [
        ("single", "rows", ""),
        ("single", "sets", "[0]"),
        ("double", "named", ""),
        ("twice", "pair_of_pairs", ""),
    ],
)
def test_the_same_figures_through_every_door(pytester, model, data, first):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(models=MODELS, test_it=TESTS.format(model=model, data=data, first=first))
    pytester.runpytest(
        "test_it.py", f"--bn-model=models:{model}", f"--bn-data=models:{data}", *OPTIONS
    )
    seen = said(pytester)
    assert len(seen) == 3
    for result in seen:
        result["notes"] = [note for note in result["notes"] if "sets of data" not in note]
        assert result == seen[0]
    assert "100 of 160 rows" in json.dumps(seen[0]["notes"])


@pytest.mark.thorough
def test_rows_of_a_file_and_of_a_data_set(pytester):
    """Arrays are kept spread out; of a data set, the first rows are kept: through each door."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(models=MODELS)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (110, 4)), rng.normal(3, 2, (50, 4))])
    y = (x[:, :1] > 1).astype("float32")
    x = x.astype("float32")
    np.savez(pytester.path / "rows.npz", x=x, y=y)
    np.savez(pytester.path / "sets.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    names = ("models:rows", "rows.npz", "sets.npz", "models:dataset")
    for name in names:
        pytester.runpytest("--bn-model=models:single", f"--bn-data={name}", *OPTIONS)
    seen = dict(zip(names, said(pytester), strict=True))
    assert seen["models:rows"] == seen["rows.npz"]
    assert seen["rows.npz"]["evidence"] == seen["sets.npz"]["evidence"]
    assert "first 100 rows" in json.dumps(seen["models:dataset"]["notes"])


@pytest.mark.thorough
def test_weights_of_the_rows_arrive(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(models=MODELS)
    for name in ("rows", "weighted"):
        pytester.runpytest("--bn-model=models:single", f"--bn-data=models:{name}", *OPTIONS)
    plain, weighted = (result["evidence"] for result in said(pytester))
    assert plain != weighted
