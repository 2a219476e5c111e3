"""Batches from Hypothesis in users' own tests, and the replay of one that failed."""

import pytest

MODEL = """
    import keras
    import numpy as np
    import pytest
    import tensorflow as tf
    import unittest
    from hypothesis import HealthCheck, Phase, given, settings, strategies as st
    from pytest_bnconsistency import (assert_batch_invariance, strategies)

    class Leak(keras.layers.Layer):
        def call(self, x):
            return tf.where(tf.reduce_max(x) > 50, x + 1, x)

    def build(leak=False):
        inputs = keras.Input((4,))
        h = Leak(name="leak")(inputs) if leak else inputs
        return keras.Model(inputs, keras.layers.Dense(3)(h))
"""


@pytest.mark.thorough
def test_given_batches_of_a_model(pytester):
    pytester.makepyfile(
        MODEL
        + """
    MODEL = build()
    few = settings(max_examples=2, deadline=None, database=None)

    @few
    @given(x=strategies.batches(MODEL))
    def test_of_a_module(bn_check, x):
        bn_check.batch_invariance(MODEL, x, vacuous="warn")

    @pytest.fixture(scope="session")
    def shared():
        return build()

    @few
    @given(data=st.data())
    def test_of_the_session(bn_check, shared, data):
        bn_check.inference_purity(shared, data.draw(strategies.batches(shared)))

    @pytest.fixture
    def fresh():
        return build()

    @settings(few, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_of_the_function(bn_check, fresh, data):
        bn_check.inference_purity(fresh, data.draw(strategies.batches(fresh)))

    class TestOwn(unittest.TestCase):
        @few
        @given(strategies.batches(MODEL))
        def test_of_a_class(self, x):
            assert_batch_invariance(MODEL, x, vacuous="warn")

    @few
    @given(st.integers(1, 2))
    def test_without_rows(bn_check, seed):
        bn_check.batch_invariance(MODEL, seed=seed)
    """
    )
    pytester.runpytest("-W", "ignore").assert_outcomes(passed=5)


def test_the_printed_line_runs_the_batch_again(pytester):
    pytester.makepyfile(
        MODEL
        + """
    def test_it(bn_check):
        bn_check.batch_invariance(build(leak=True))

    def test_sound(bn_check):
        bn_check.batch_invariance(build())
    """
    )
    result = pytester.runpytest("-k", "test_it")
    recipe = "2 rows; row 1 constant 100"
    name = "test_the_printed_line_runs_the_batch_again.py::test_it"
    line = f"  replay     python -m pytest \"{name}\" --bn-replay '{recipe}'"
    result.stdout.fnmatch_lines(
        [f"E *  batch      {recipe} (the simplest that fails)", f"E *{line}"]
    )
    again = pytester.runpytest(name, "--bn-replay", recipe)
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["E *BN101 rows-mix: row 0 moves by * when row 1 is constant 100*"])
    again.stdout.no_fnmatch_line("*  replay  *")
    pytester.runpytest("-k", "sound", "--bn-replay", recipe).assert_outcomes(passed=1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="here"),
        pytest.param(["-p", "xdist", "-n", "2"], id="xdist", marks=pytest.mark.slow),
    ],
)
def test_a_seed_finds_the_same_batch_under_every_runner(pytester, arguments):
    pytest.importorskip("xdist")
    pytester.makepyfile(
        MODEL
        + """
    @pytest.mark.parametrize("again", [1, 2])
    def test_it(bn_check, again):
        bn_check.batch_invariance(build(leak=True), seed=7, examples=30)
    """
    )
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(failed=2)
    lines = [line for line in result.outlines if line.startswith("E         batch")]
    assert [line.partition("batch")[2].partition("(")[0].strip() for line in lines] == [
        "2 rows; row 1 constant 100"
    ] * 2


def test_the_profile_of_the_project_counts(pytester):
    pytester.makepyfile(
        MODEL
        + """
    def test_it(bn_check):
        settings.register_profile("mine", database=None, phases=[Phase.explicit])
        settings.load_profile("mine")
        try:
            result = bn_check.batch_invariance(build(), examples=20)
        finally:
            settings.load_profile("default")
        assert result.evidence["examples"]["tried"] == 0
    """
    )
    pytester.runpytest().assert_outcomes(passed=1)
