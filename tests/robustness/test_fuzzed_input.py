"""Damaged options, recipes, reports, archives and models: one sentence, and nothing runs."""

import base64
import copy
import io
import json
import marshal
import os
import random
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tf_keras

from pytest_bnconsistency import BNConsistencyError
from pytest_bnconsistency.__main__ import main
from pytest_bnconsistency.assertions import context_returned
from pytest_bnconsistency.data.recipes import Recipe
from pytest_bnconsistency.models import files
from pytest_bnconsistency.reporting.record import Ending, Place, build, check_entry
from pytest_bnconsistency.results import CheckResult, Finding, Ignored, Run, Table, Verdict
from pytest_bnconsistency.settings import FIELDS, Settings, resolve
from pytest_bnconsistency.targets import Archive

ODD = [
    *(None, True, 0, -1, 2.5, float("nan"), float("inf"), 10**400, -(10**400), 1j, ...),
    *("", " ", "x", "nan", "\x00", "a\nb", "9" * 5000, b"x", "a=(3,);;b", "(((", "(1," * 200),
    *([], [1], {}, {"a": 1}, {1: 2}, {"a": {"b": None}}, (), ((),), range(3), iter([1]), int),
    *(np.array([1, 2]), np.array([]), np.float64("nan"), np.array("x"), Path("x"), object()),
]
RECIPES = [
    "9 rows of random 1",
    "4 rows of data 2; rows 1-2 zero with nan; row 3 like row 0",
    "3 rows; size 48; row 0 random 2.5 seed 7; row 2 constant -0.1 with 1000 at 5",
    "3 rows; row 0 data 5 times 100; row 1 data 1 mixed 0.25 with 2; row 2 data 0 shuffled 3",
]


def outcome(what):
    """`used`, or `refused` in one sentence; whatever else it raises is a fault."""
    try:
        what()
    except BNConsistencyError as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    return "used"


@pytest.mark.thorough
def test_options():
    values = [{name: value} for name in (*FIELDS, "", "row") for value in ODD]
    outcomes = [outcome(lambda given=given: resolve(given)) for given in values]
    assert len(outcomes) > 1000
    assert set(outcomes) == {"used", "refused"}


def edited(draw, text, letters, words=()):
    """The text with up to three of its letters taken out, put in or cut off."""
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(text) + 1)
        text = draw.choice(
            [
                text[:at] + draw.choice(letters) + text[at:],
                text[:at] + text[at + 1 :],
                text[:at] + draw.choice([*words, ""]) + text[at:],
                text[: at + 1],
            ]
        )
    return text


@pytest.mark.thorough
def test_recipes():
    seen = []
    for seed in range(3000):
        draw = random.Random(seed)
        words = ("row", "size", "nan", "inf", "9" * draw.choice([3, 9, 30, 5000]))
        text = edited(draw, draw.choice(RECIPES), "0129 ;-.einfrows\n\x00é٣", words)

        def read(text=text):
            recipe = Recipe.parse(text)
            assert str(Recipe.parse(str(recipe))) == str(recipe)

        seen.append(outcome(read))
    assert set(seen) == {"used", "refused"}


@pytest.mark.parametrize(
    "text", ["99999999999 rows; rows 0-9999999998 zero", "9" * 5000 + " rows"]
)
def test_a_recipe_of_too_many_rows(text):
    with pytest.raises(BNConsistencyError, match="is no recipe of a batch"):
        Recipe.parse(text)


def record():
    words = dict.fromkeys(("layer", "message", "cause", "remedy", "tested", "bound", "code"), "a")
    table = Table(("a", "b"), (("a", "1"), ("b", "2")))
    found = Finding(rule="BN101", slug="s", cause_tested=True, recipe="a", table=table, **words)
    result = CheckResult(
        check="batch_invariance",
        verdict=Verdict.FAILED,
        findings=(found,),
        table=table,
        notes=("a",),
        warnings=(found,),
        ignored=(Ignored(found, "a", ("BN101",)),),
        run=Run("net", {"rows": (8, "default")}, 2.5, 3),
    )
    entry = check_entry(result, "fail", Place("net", "t.py::net::batch_invariance", "t.py", 3))
    versions = dict.fromkeys(("python", "pytest", "pytest-bnconsistency", "numpy"), "1.0")
    versions |= dict.fromkeys(("tensorflow", "keras", "tf-keras"))
    ending = Ending("2026-01-31T09:30:00+00:00", 1.5, 1)
    return json.loads(json.dumps(build([entry], [], ending, versions)))


def paths(node, before=()):
    inside = dict(enumerate(node)) if isinstance(node, list) else node
    for key, inner in inside.items() if isinstance(inside, dict) else ():
        yield (*before, key)
        yield from paths(inner, (*before, key))


def replaced(draw, tree, values):
    """A copy of the tree in which one place holds something else, or is gone."""
    tree = copy.deepcopy(tree)
    *way, last = draw.choice(list(paths(tree)))
    node = tree
    for key in way:
        node = node[key]
    if draw.random() < 0.3:
        del node[last]
    else:
        node[last] = copy.deepcopy(draw.choice(values))
    return tree


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["md", "json", "sarif", "gitlab", "html"])
def test_reports(name, tmp_path, monkeypatch, capsys):
    if name == "html":
        pytest.importorskip("jinja2")
        pytest.importorskip("markdown_it")
    monkeypatch.chdir(tmp_path)
    whole, codes = record(), []
    values = [None, "", 0, -1, 1e308, "x", [], {}, [None], {"a": 1}, True, "\ud800", [[1]], ["x"]]
    for seed in range(200):
        draw = random.Random(seed)
        text = json.dumps(replaced(draw, whole, values))
        if seed % 4 == 3:
            text = edited(draw, text, '{}[]",:0x\x00\\', ["[" * 100_000])
        Path("run.json").write_text(text, encoding="utf-8")
        codes.append(main(["report", "run.json", f"{name}:out"]))
        said = capsys.readouterr()
        assert said.err.count("\n") == (codes[-1] == 2)
    assert set(codes) == {0, 2}


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])


def archive(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


@pytest.mark.thorough
def test_archives(model, tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 4), np.float32)
    path = archive(tmp_path / "d.npz", x=x, y=x[:, :1])
    whole, seen = path.read_bytes(), []

    def use():
        given = Archive.find(path.name, [tmp_path]).load()
        context_returned(model, given, Settings(), asked=True)

    for seed in range(300):
        draw, damaged = random.Random(seed), bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        cut = draw.randrange(len(damaged)) if seed % 3 == 0 else None
        path.write_bytes(bytes(damaged[:cut]))
        seen.append(outcome(use))
    odd = {
        "objects": np.array([{"a": 1}], object),
        "a number": np.float32(1),
        "texts": np.array(["a", "b"]),
        "records": np.zeros(3, [("a", "f4")]),
        "no rows": np.zeros((0, 4)),
        "complex": x.astype(complex),
        "dates": np.zeros(3, "M8[s]"),
        "too large": np.full((6, 4), 1e300),
        "axes": np.zeros((6, 4, 4, 4)),
        "other bytes": x.astype(">f4"),
    }
    names = [["x"], ["x", "y"], ["x_a", "x_b"], ["x", "y", "sample_weight"], ["y"], []]
    for array in odd.values():
        for given in names:
            archive(path, **dict.fromkeys(given, array))
            seen.append(outcome(use))
    assert set(seen) == {"used", "refused"}


def test_a_number_that_the_model_cannot_hold(model):
    with pytest.raises(BNConsistencyError, match=r"as large as 1e\+300, which float32 can't hold"):
        context_returned(model, np.full((6, 4), 1e300), Settings(), asked=True)


def attacks(marker):
    """Configurations of layers that would run something, were they taken at their word."""
    command = f"touch {marker}"
    system = {"module": "os", "class_name": "function", "config": "system"}
    code = (lambda x: __import__("os").system(command)).__code__
    marshalled = base64.b64encode(marshal.dumps(code)).decode()
    hidden = {"class_name": "__lambda__", "config": {"code": marshalled}}
    return [
        {"module": "os", "class_name": "system", "config": {"command": command}},
        {"module": "builtins", "class_name": "eval", "config": f"open({str(marker)!r}, 'w')"},
        {"module": "builtins", "class_name": "open", "config": {"file": str(marker), "mode": "w"}},
        {
            "module": "subprocess",
            "class_name": "Popen",
            "config": {"args": ["touch", str(marker)]},
        },
        {"module": "keras.layers", "class_name": "Lambda", "config": {"function": hidden}},
        {"module": "keras.layers", "class_name": "Lambda", "config": {"function": system}},
        {"module": "keras.layers", "class_name": "Activation", "config": {"activation": system}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/none"}},
        {
            "module": "keras.config",
            "class_name": "enable_unsafe_deserialization",
            "config": {},
        },
        {
            "module": "keras.models",
            "class_name": "load_model",
            "config": {"filepath": "net.keras", "safe_mode": False},
        },
    ]


def places(config, attack):
    """The configuration of a model with an attack in each place of a layer, or around it."""
    yield attack
    for place in ("layer", "initializer", "compiled"):
        changed = copy.deepcopy(config)
        dense = changed["config"]["layers"][1]
        if place == "layer":
            changed["config"]["layers"][1] = {**dense, **attack}
        elif place == "initializer":
            dense["config"]["kernel_initializer"] = attack
        else:
            changed["compile_config"] = {"optimizer": attack, "loss": attack}
        yield changed


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_models(library, tmp_path):
    inputs = library.Input((4,))
    outputs = library.layers.BatchNormalization()(library.layers.Dense(3, "relu")(inputs))
    path, marker = tmp_path / "net.keras", tmp_path / "ran"
    library.Model(inputs, outputs).save(path)
    with zipfile.ZipFile(path) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    raw, config = path.read_bytes(), json.loads(parts["config.json"])

    def loaded(content):
        path.write_bytes(content)
        found = outcome(lambda: files.load(path))
        assert not marker.exists()
        return found

    def with_config(changed):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            for name, part in parts.items():
                file.writestr(name, json.dumps(changed) if name == "config.json" else part)
        return packed.getvalue()

    tampered = [c for attack in attacks(marker) for c in places(config, attack)]
    seen = [loaded(with_config(changed)) for changed in tampered]
    values = [None, "", 0, -1, "x", [], {}, [None], True, "os.system", attacks(marker)[0]]
    for seed in range(40):
        draw = random.Random(seed)
        seen.append(loaded(with_config(replaced(draw, config, values))))
        damaged = bytearray(raw)
        for _ in range(3):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        seen.append(loaded(bytes(damaged[: draw.randrange(len(raw)) if seed % 3 else None])))
    assert set(seen) == {"used", "refused"}
    os.system(f"touch {marker}")
    assert marker.exists()  # had one of them run, it would have shown
