"""The normalization layers of a model, in its record and on its page."""

import json

import pytest

from pytest_bnconsistency.reporting import html
from pytest_bnconsistency.reporting.layers import table
from pytest_bnconsistency.reporting.record import Ending, Place, build, check_entry
from pytest_bnconsistency.results import CheckResult, Run, Verdict

ENDING = Ending("2026-01-31T09:30:00+00:00", 1.5, 0)
LAYER = {
    "path": "backbone/bn",
    "kind": "moving statistics",
    "momentum": 0.99,
    "epsilon": 0.001,
    "axis": [3],
    "dtype": "float16",
    "statistics_dtype": "float32",
    "trainable": True,
    "frozen_by": None,
    "modes": {"call": "stored", "predict": None, "training": None},
    "updates": None,
    "initial_share": None,
    "population": None,
}
ROW = LAYER | {
    "path": "row",
    "kind": "statistics of each row",
    "momentum": None,
    "statistics_dtype": None,
}
DISTANCE = {"mean": {"standard_errors": 12.25, "off": 0.5, "ratio": 1.5}}


def record(*layers_seen):
    """The record of a model, of which each check saw other facts of its layers."""
    entries = []
    for number, layers in enumerate(layers_seen):
        result = CheckResult(
            check="statistics_health",
            verdict=Verdict.PASSED,
            summary="fine",
            run=Run("net", {}, 1.0, 1, tuple(layers)),
        )
        entries.append(check_entry(result, "pass", Place("m:build", f"t{number}", "m.py", 1)))
    versions = dict.fromkeys(
        ("python", "pytest", "pytest-bnconsistency", "numpy", "tensorflow", "keras", "tf-keras")
    )
    return build(entries, [], ENDING, versions)


def test_what_several_checks_saw_is_joined_once_a_model(valid_record):
    trained = LAYER | {
        "modes": {"call": None, "predict": None, "training": "batch"},
        "updates": 1,
        "population": DISTANCE,
    }
    run = record([LAYER, ROW], [], [trained])
    valid_record(run)
    (model,) = run["models"]
    assert not any("layers" in check for check in model["checks"])
    joined, row = model["layers"]
    assert joined["modes"] == {"call": "stored", "predict": None, "training": "batch"}
    assert (joined["updates"], joined["population"], joined["momentum"]) == (1, DISTANCE, 0.99)
    assert row["path"] == "row"


def test_the_page_says_once_what_is_so_of_all_layers():
    frozen = LAYER | {"path": "stem/bn", "frozen_by": "stem", "initial_share": 0.951}
    measured = {"initial_share_measured": 0.48, "population": DISTANCE}
    own = LAYER | {"path": "own", "frozen_by": "own", **measured}
    found = table([LAYER, frozen, own])
    alike = dict(found.alike)
    assert alike["dtype"] == "float16, stored as float32"
    assert (alike["axis"], alike["predict"], alike["momentum"]) == ("3", "?", "0.99")
    by_name = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert [row["frozen"] for row in by_name] == ["no", "by stem", "itself"]
    assert [row["initial share"] for row in by_name] == ["?", "95.1%", "measured 48.0%"]
    assert [row["mean, standard errors off"] for row in by_name] == ["?", "?", "12.2"]
    (row,) = table([ROW]).rows
    assert (row[1], row[2], row[7]) == ("statistics of each row", "\N{EN DASH}", "\N{EN DASH}")
    page = html.render(record([LAYER, frozen, own]))
    assert "3 normalization layers" in page
    assert "float16, stored as float32" in page
    assert "normalization layers" not in html.render(record([]))


def test_the_record_of_an_older_version_still_becomes_a_page():
    run = record([LAYER])
    del run["models"][0]["layers"]
    assert html.render(run)


MODELS = """
import keras, numpy

def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    h = keras.layers.BatchNormalization(name="first", trainable=False)(inputs)
    h = keras.layers.BatchNormalization(name="second")(keras.layers.Dense(4)(h))
    model = keras.Model(inputs, keras.layers.Dense(2)(h))
    model.compile("sgd", "mse")
    model.fit(*data(), verbose=0)
    return model

def data():
    return numpy.random.default_rng(0).normal(2, 3, (96, 4)).astype("f"), numpy.zeros((96, 2))
"""


@pytest.mark.thorough
def test_a_run_records_the_layers_of_each_model(pytester):
    pytester.makepyfile(models=MODELS)
    arguments = ["--bn-model", "models:build", "--bn-data", "models:data", "-n2"]
    pytester.runpytest_subprocess(*arguments, "--bn-report", "json:run.json")
    (model,) = json.loads((pytester.path / "run.json").read_text("utf-8"))["models"]
    first, second = model["layers"]
    assert (first["path"], first["frozen_by"], first["updates"]) == ("first", "first", 0)
    assert set(first["modes"].values()) == {"stored"}
    assert (second["path"], second["updates"]) == ("second", 1)
    assert second["modes"] == {"call": "stored", "predict": "stored", "training": "batch"}
    assert second["initial_share"] == pytest.approx(0.99**3)
    assert second["initial_share_measured"] == pytest.approx(0.99**3, abs=0.02)
    assert first["initial_share_measured"] is None
    assert second["population"]["mean"]["standard_errors"] > 1
