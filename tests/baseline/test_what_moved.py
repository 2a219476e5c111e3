"""What moved in a model is found, and its layer is named; what did not move is not."""

import random
import re

import keras
import numpy as np
import pytest

from pytest_bnconsistency import ConsistencyFailure, assert_baseline, record_baseline
from pytest_bnconsistency.context import Baselines, Door, door
from pytest_bnconsistency.errors import BaselineError

L = keras.layers
BLOCKS = ("first", "second")
VALUES = {"baseline_checks": "none"}


def layers(momentum=None, epsilon=None, dtype=None, name=""):
    """A normalization layer with one thing that is not the default."""
    given = {"momentum": momentum, "epsilon": epsilon, "dtype": dtype}
    return L.BatchNormalization(name=name, **{k: v for k, v in given.items() if v is not None})


def built(edited="", *, dropout_behind="", swapped="", off=(), moved=(), seed=3, **edit):
    """Two blocks with one edit: in the layer `edited`, or as the others say."""
    keras.utils.set_random_seed(seed)
    stack = [keras.Input((6,))]
    for block in BLOCKS:
        bn = layers(name=f"{block}_bn", **(edit if edited == f"{block}_bn" else {}))
        parts = [L.Dense(5, name=f"{block}_dense"), bn, L.ReLU(name=f"{block}_relu")]
        if swapped == f"{block}_bn":
            parts[1:] = parts[2], parts[1]
        for part in parts:
            stack.append(part)
            if part.name == dropout_behind:
                stack.append(L.Dropout(0.3, name="inserted"))
    model = keras.Sequential([*stack, L.Dense(3, name="head")])
    rng = np.random.default_rng(7)
    for block in BLOCKS:
        bn = model.get_layer(f"{block}_bn")
        bn.moving_mean.assign(rng.normal(size=5))
        bn.moving_variance.assign(rng.uniform(0.5, 2, size=5))
    for name in off:
        model.get_layer(name).trainable = False
    for name, attribute, place, by in moved:
        variable = getattr(model.get_layer(name), attribute)
        values = variable.numpy()
        values[place] += by
        variable.assign(values)
    return model


def edit_of(seed):
    """A random single edit, and the layer that it is of."""
    draw = random.Random(seed)
    bn = f"{draw.choice(BLOCKS)}_bn"
    kinds = {
        "flag": lambda: ({"off": [bn]}, bn),
        "momentum": lambda: ({"edited": bn, "momentum": draw.uniform(0.5, 0.98)}, bn),
        "epsilon": lambda: ({"edited": bn, "epsilon": draw.uniform(1.1e-3, 1e-2)}, bn),
        "dtype": lambda: ({"edited": bn, "dtype": draw.choice(["float64", "bfloat16"])}, bn),
        "order": lambda: ({"swapped": bn}, bn),
        "statistic": lambda: (
            {
                "moved": [
                    (
                        bn,
                        draw.choice(["moving_mean", "moving_variance"]),
                        draw.randrange(5),
                        draw.uniform(1e-4, 1e-2),
                    )
                ]
            },
            bn,
        ),
        "dropout": lambda: (
            {"dropout_behind": draw.choice([bn, bn.replace("bn", "relu")])},
            "inserted",
        ),
    }
    return kinds[list(kinds)[seed % len(kinds)]]()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    record_baseline(built(), "net", baseline_dir=folder, **VALUES)
    return folder


def compare(folder, model, **options):
    return assert_baseline(model, "net", baseline_dir=folder, **{**VALUES, **options})


def places_of(failure):
    (result,) = failure.value.results
    return {place for finding in result.findings for place in finding.places}


@pytest.mark.parametrize("seed", range(100))
def test_a_single_edit_is_found_and_its_layer_named(recorded, seed):
    edit, layer = edit_of(seed)
    with pytest.raises(ConsistencyFailure) as failure:
        compare(recorded, built(**edit))
    assert layer in places_of(failure), str(failure.value)


@pytest.mark.thorough
def test_fifty_rebuilds_without_a_change_pass(recorded):
    for _ in range(50):
        result = compare(recorded, built())
        assert result.verdict == "passed"
        assert not result.notes


@pytest.mark.thorough
def test_other_names_by_a_count_are_no_change(tmp_path):
    def unnamed(units):
        keras.utils.set_random_seed(3)
        parts = [keras.Input((4,)), L.Dense(units), L.BatchNormalization(), L.Dense(2)]
        return keras.Sequential(parts)

    record_baseline(unnamed(5), "net", baseline_dir=tmp_path, **VALUES)
    assert "weights" not in "".join(compare(tmp_path, unnamed(5)).notes)
    assert compare(tmp_path, unnamed(5), weights="same").verdict == "passed"
    with pytest.raises(ConsistencyFailure) as failure:
        compare(tmp_path, unnamed(6))
    assert "shape of its arrays is (4,6) (6,), was (4,5) (5,)" in str(failure.value)


@pytest.mark.thorough
def test_weights_that_were_trained_anew_are_told(recorded):
    anew = built(seed=4)
    result = compare(recorded, anew)
    assert "the weights are not those of the baseline" in result.notes[0]
    assert compare(recorded, anew, weights="retrained").verdict == "passed"
    with pytest.raises(ConsistencyFailure, match="BN702 statistics-moved: all weights"):
        compare(recorded, anew, weights="same")
    with pytest.raises(
        ConsistencyFailure, match=r"BN701 .* first_bn: what freezes it is first_bn"
    ):
        compare(recorded, built(seed=4, off=["first_bn"]))
    moved = built(moved=[("first_bn", "moving_mean", 0, 1.0)])
    assert compare(recorded, moved, weights="retrained").verdict == "passed"


@pytest.mark.thorough
def test_what_is_recorded_again_is_what_moved(recorded, tmp_path):
    path = tmp_path / "net.json"
    path.write_bytes((recorded / "net.json").read_bytes())
    before = path.read_text().splitlines()
    record_baseline(built(), "net", baseline_dir=tmp_path, **VALUES)
    assert path.read_text().splitlines() == before
    edited = built("first_bn", momentum=0.5)
    record_baseline(edited, "net", baseline_dir=tmp_path, **VALUES)
    compare(tmp_path, edited)
    came = set(path.read_text().splitlines()) - set(before)
    assert len(came) == 2  # the momentum, and the sum of its block
    assert '   "momentum": 0.5,' in came


def graph(seed=3, **mode):
    """A net whose normalization layer is called with `mode`."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,))
    h = L.BatchNormalization(name="bn")(L.Dense(5, name="dense")(x), **mode)
    return keras.Model(x, L.Dense(2, name="head")(h))


@pytest.mark.thorough
def test_a_training_mode_that_is_baked_in_is_told_by_entry_point(tmp_path):
    record_baseline(graph(), "net", baseline_dir=tmp_path, **VALUES)
    with pytest.raises(ConsistencyFailure) as failure:
        compare(tmp_path, graph(training=True))
    said = str(failure.value)
    assert "bn: mode in model(x) is batch, was stored" in said
    assert "code that the baseline has no fact of" in said
    assert re.search(r"model\(x\): row \d moved by [\d.]+, and rounding by \S+ at most", said)
    assert "model(x)" in places_of(failure)
    assert "predict" not in places_of(failure)  # there Keras 3.15 overrides it


@pytest.mark.thorough
def test_other_weights_are_not_blamed_for_a_mode(tmp_path):
    record_baseline(graph(), "net", baseline_dir=tmp_path, **VALUES)
    assert compare(tmp_path, graph(seed=4)).verdict == "passed"
    with pytest.raises(ConsistencyFailure) as failure:
        compare(tmp_path, graph(seed=4, training=True))
    (finding,) = failure.value.results[0].findings
    assert finding.headline.endswith("bn: mode in model(x) is batch, was stored")
    assert finding.cause.startswith("code that the baseline has no fact of")
    assert "weights" not in finding.cause


@pytest.mark.thorough
def test_a_new_finding_is_told_by_its_name(tmp_path):
    record_baseline(graph(), "net", baseline_dir=tmp_path, baseline_checks="inference_purity")
    with pytest.raises(ConsistencyFailure) as failure:
        assert_baseline(
            graph(training=True), "net", baseline_dir=tmp_path, baseline_checks="inference_purity"
        )
    assert "bn: BN001 inference-changes-state is a finding, was none" in str(failure.value)


class TwoOfOneName(keras.Model):
    def __init__(self, momenta=(0.99, 0.99)):
        super().__init__()
        keras.utils.set_random_seed(3)
        self.first, self.second = (layers(m, name="bn") for m in momenta)
        self.head = L.Dense(2, name="head")

    def call(self, x, training=None):
        return self.head(self.second(self.first(x, training=training), training=training))


def run_once(model):
    model(np.zeros((2, 4), np.float32))
    return model


@pytest.mark.thorough
def test_each_of_two_layers_of_one_name_is_compared(tmp_path):
    record_baseline(run_once(TwoOfOneName()), "net", baseline_dir=tmp_path, **VALUES)
    assert compare(tmp_path, run_once(TwoOfOneName())).verdict == "passed"
    for momenta, name in (((0.9, 0.99), "bn"), ((0.99, 0.9), r"bn \(2\)")):
        with pytest.raises(ConsistencyFailure, match=f"{name}: momentum is 0.9, was 0.99"):
            compare(tmp_path, run_once(TwoOfOneName(momenta)))


class Logarithm(L.Layer):
    """Of a number that has none."""

    def call(self, x):
        return keras.ops.log(keras.ops.abs(x) * 0 - 1)


def with_end(layer):
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((4,)), L.Dense(2, name="dense"), layer])


@pytest.mark.thorough
def test_outputs_that_are_no_numbers_are_compared_and_told(tmp_path):
    """With all checks, since those run on the same outputs: bits of NaN differ, and no values."""
    made = {"nan": Logarithm(name="end"), "number": L.Identity(name="end")}
    for kind, end in made.items():
        record_baseline(with_end(end), kind, baseline_dir=tmp_path)
        result = assert_baseline(with_end(type(end)(name="end")), kind, baseline_dir=tmp_path)
        assert result.verdict == "passed"
    with pytest.raises(ConsistencyFailure, match="predict: row 0 is nan, was a number"):
        assert_baseline(with_end(Logarithm(name="end")), "number", baseline_dir=tmp_path)


@pytest.mark.thorough
def test_layers_that_came_and_went_are_called_so(tmp_path):
    record_baseline(with_end(L.ReLU(name="relu")), "net", baseline_dir=tmp_path, **VALUES)
    with pytest.raises(ConsistencyFailure, match="elu is new, after dense; 1 more difference"):
        compare(tmp_path, with_end(L.ELU(name="elu")))
    record_baseline(graph(), "net", baseline_dir=tmp_path / "bn", **VALUES)
    bare = keras.Sequential([keras.Input((4,)), *graph().layers[1::2]])
    with pytest.raises(ConsistencyFailure) as failure:
        compare(tmp_path / "bn", bare)
    said = str(failure.value)
    assert said.startswith("BN701 inventory-changed: bn is gone, was after dense")
    assert said.count("  bn  ") == 1, said


def test_names_that_no_file_may_have_are_shortened_and_kept_apart(tmp_path):
    first, second = "net" * 100, "net" * 101
    record_baseline(graph(), first, baseline_dir=tmp_path, **VALUES)
    assert assert_baseline(graph(), first, baseline_dir=tmp_path, **VALUES).verdict == "passed"
    with pytest.raises(BaselineError, match="has no baseline"):
        assert_baseline(graph(), second, baseline_dir=tmp_path, **VALUES)


@pytest.mark.thorough
def test_code_is_not_recorded_as_what_a_version_does(tmp_path):
    record_baseline(graph(), "net", baseline_dir=tmp_path, **VALUES)
    before = (tmp_path / "net.json").read_text("utf-8")
    written = {}
    token = door.set(Door(baselines=Baselines(update="version", write=written.__setitem__)))
    try:
        assert compare(tmp_path, graph()).verdict == "passed"
        with pytest.raises(BaselineError, match="the baseline was recorded on it"):
            compare(tmp_path, graph(training=True))
    finally:
        door.reset(token)
    assert not written
    assert (tmp_path / "net.json").read_text("utf-8") == before
