"""Strategies fit the inputs, keep to their bounds, and shrink to what matters."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from pytest_bnconsistency import strategies
from pytest_bnconsistency.data.arrays import Spec
from pytest_bnconsistency.errors import BNConsistencyError

quick = settings(max_examples=50, database=None, deadline=None)
FIXED = settings(database=None, derandomize=True, deadline=None)


def simplest(strategy, condition):
    return find(strategy, condition, settings=settings(FIXED, max_examples=2000))


@pytest.mark.thorough
def test_inputs_of_every_kind():
    specs = {
        "image": Spec((None, None, 3), "float16", "image"),
        "ids": [Spec((None,), "int32", "ids", 50)],
        "more": (
            Spec((4,), "bool", "more"),
            Spec((None,), "int32", "mask"),
            Spec((), "int32", "length"),
            Spec((2,), "uint8", "pixels", 256),
        ),
    }

    @quick
    @given(strategies.batches(specs, size=(4, 9), nan=True))
    def check(x):
        image, (ids,), (more, mask, length, pixels) = x["image"], x["ids"], x["more"]
        rows, size = ids.shape
        assert image.shape == (rows, size, size, 3)
        assert image.dtype == np.float16
        assert 4 <= size <= 9
        assert (more.dtype, pixels.dtype) == (np.bool_, np.uint8)
        assert 0 <= ids.min() <= ids.max() < 50
        assert (np.diff(mask, axis=1) <= 0).all()  # ones and then zeros
        assert (mask[:, 0] == 1).all()
        assert ((length >= 1) & (length <= size)).all()

    check()


def test_a_models_inputs_are_fitted():
    ids, extra = keras.Input((6,), dtype="int32", name="ids"), keras.Input((None, 2), name="e")
    h = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(7, 3)(ids))
    pooled = keras.layers.GlobalAveragePooling1D()(extra)
    model = keras.Model({"ids": ids, "e": extra}, keras.layers.Concatenate()([h, pooled]))

    @settings(quick, max_examples=5)
    @given(strategies.batches(model))
    def check(x):
        assert x["ids"].max() < 7
        assert model(x).shape == (len(x["ids"]), 5)

    check()


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (0.25, None)])
def test_bounds_of_the_user(low, high):
    @quick
    @given(strategies.batches(Spec((3,), "float32"), low=low, high=high, max_scale=1000))
    def check(x):
        assert x.min() >= low
        assert high is None or x.max() <= high

    check()


def test_bounds_learnt_from_a_sample():
    sample = {"a": np.arange(12.0).reshape(4, 3), "ids": np.array([3, 5, 2, 9])}
    seen = set()

    @settings(quick, max_examples=200)
    @given(strategies.batches_like(sample, nan=True))
    def check(x):
        assert x["a"].shape[1:] == (3,)
        assert x["ids"].max() <= 9
        seen.update("nan" for row in x["a"] if np.isnan(row).any())
        seen.update("row" for row in x["a"] if (row == sample["a"]).all(axis=1).any())
        seen.update("zero" for row in x["a"] if not row.any())
        seen.update("outlier" for row in x["a"] if np.abs(row).max() > 200)

    check()
    assert seen == {"nan", "row", "zero", "outlier"}


def test_shrinking_works_on_rows_kinds_and_magnitudes():
    batches = strategies.batches(Spec((4,), "float32"), nan=True)
    large = simplest(batches, lambda x: np.nanmax(x, initial=0) > 50)
    assert large.shape == (1, 4)
    assert len(np.unique(large)) == 1
    poisoned = simplest(batches, lambda x: np.isnan(x).any())
    np.testing.assert_array_equal(poisoned, [[np.nan, 0, 0, 0]])
    assert simplest(batches, lambda x: len(x) > 3).tolist() == np.zeros((4, 4)).tolist()


def test_a_pair_shares_its_first_row():
    @quick
    @given(strategies.batch_pairs(Spec((4,), "float32")))
    def check(pair):
        assert pair.first.shape == pair.second.shape
        np.testing.assert_array_equal(pair.first[0], pair.second[0])

    check()
    pairs = strategies.batch_pairs(Spec((4,), "float32"))
    found = simplest(pairs, lambda pair: pair.first.max() > 50 > pair.second.max())
    assert len(found.first) == 2
    assert not found.second.any()


def test_sizes_and_splits():
    assert simplest(strategies.batch_sizes(), lambda n: n > 1 and n % 8 == 1) == 9
    assert simplest(strategies.splits(5), lambda s: True) == [slice(0, 5)]

    @quick
    @given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), strategies.splits(n))))
    def check(drawn):
        n, parts = drawn
        assert [i for part in parts for i in range(n)[part]] == list(range(n))
        assert all(part.start < part.stop for part in parts)

    check()


def test_large_batches_are_drawn_within_the_health_checks():
    @settings(max_examples=30, database=None, phases=[Phase.generate])
    @given(strategies.batches(Spec((224, 224, 3), "float32"), min_rows=8))
    def check(x):
        assert x.shape == (8, 224, 224, 3)

    check()


def test_a_seed_gives_the_same_examples():
    def drawn():
        seen = []

        @FIXED
        @given(strategies.batches(Spec((4,), "float32")))
        def collect(x):
            seen.append(x.tobytes())

        collect()
        return seen

    assert drawn() == drawn()


def test_the_recipe_is_told_with_a_failing_example():
    @settings(FIXED, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(strategies.batches(Spec((4,), "float32"), min_rows=2))
    def check(x):
        assert x.max() < 50

    with pytest.raises(AssertionError) as caught:
        check()
    notes = "\n".join(caught.value.__notes__)
    recipe = notes.partition("batch: ")[2].splitlines()[0]
    again = strategies.from_recipe(Spec((4,), "float32"), recipe)
    assert again.shape == (2, 4)
    assert again.max() >= 50


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (Spec((None, 3), "float32"), {}, "axes of unknown length.*size=32"),
        (Spec(None, "float32"), {}, "has no shape, not even a number of axes"),
        (Spec((3,), "float32"), {"low": 2, "high": 1}, "low=2 and high=1 exclude every value"),
        (Spec((3,), "int32", "x", 5), {"low": 7}, "exclude every id.*0 to 4"),
        (Spec((3,), "int32", "x", 0), {}, "vocabulary of 0"),
        (Spec((0,), "float32"), {}, "expected axes of 1 or more"),
        (Spec((3,), "float32"), {"min_rows": 3, "max_rows": 2}, "expected 1 <= min <= max"),
        (Spec((3,), "float32"), {"max_scale": 0}, "max_scale=0; expected a positive number"),
        (Spec((3,), "float32"), {"size": 0}, "size=0; expected 1 or more"),
        ("model", {}, "is no model that can be checked"),
        (keras.Sequential([keras.layers.Dense(1)]), {}, "is not built"),
    ],
)
def test_mistakes_get_a_sentence(arguments, options, sentence):
    with pytest.raises(BNConsistencyError, match=sentence) as caught:
        strategies.batches(arguments, **options)
    assert "\n" not in str(caught.value)
