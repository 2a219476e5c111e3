"""A check that finds nothing to check, or could not have seen a violation, and the test around."""

import pytest

TWO = """
    def test_two(bn_check, fake):
        model = fake(frozen_stability={verdict!r}, batch_invariance={last!r})
        bn_check.frozen_stability(model, None{option})
        with open("went_on", "w"):
            pass
        bn_check.batch_invariance(model)
"""


@pytest.mark.parametrize("verdict", ["not applicable", "vacuous"])
@pytest.mark.parametrize(
    ("option", "last", "outcome"),
    [
        (", {}='skip'", "passed", "passed"),
        (", {}='skip'", "failed", "failed"),
        (", {}='skip'", "{verdict}", "failed"),
        ("", "passed", "failed"),
    ],
)
def test_an_assertion_never_cuts_short_the_test(project, verdict, option, last, outcome):
    name = verdict.replace(" ", "_")
    last, option = last.format(verdict=verdict), option.format(name)
    project.makepyfile(TWO.format(verdict=verdict, last=last, option=option))
    project.runpytest().assert_outcomes(**{outcome: 1})
    assert (project.path / "went_on").exists() is bool(option)


@pytest.mark.parametrize(
    ("verdict", "value", "outcome"),
    [
        ("not applicable", None, "failed"),
        ("not applicable", "fail", "failed"),
        ("not applicable", "skip", "skipped"),
        ("not applicable", "pass", "passed"),
        ("vacuous", None, "failed"),
        ("vacuous", "skip", "skipped"),
    ],
)
@pytest.mark.parametrize("door", ["call", "mark", "line", "ini"])
def test_what_was_asked_for_by_name(project, verdict, value, outcome, door):
    name = verdict.replace(" ", "_")
    given = f"{name}={value!r}" if value else ""
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.bnconsistency({given if door == "mark" else ""})
        def test_it(bn_check, fake):
            model = fake(frozen_stability={verdict!r})
            bn_check.frozen_stability(model, None, {given if door == "call" else ""})
        """
    )
    if value and door == "ini":
        project.makeini(f"[pytest]\nbn_{name} = {value}\n")
    flag = [f"--bn-{name.replace('_', '-')}={value}"] if value and door == "line" else []
    result = project.runpytest("-ra", *flag)
    result.assert_outcomes(**{outcome: 1})
    if outcome == "failed":
        word = "inconclusive" if verdict == "vacuous" else verdict
        result.stdout.fnmatch_lines(
            [
                f"E * frozen_stability {word}: nothing to see in frozen_stability",
                f"E *  on purpose *{name}=*",
                f"FAILED *::test_it - frozen_stability {word}: nothing to see*",
            ]
        )
    if outcome == "skipped":
        result.stdout.fnmatch_lines(["SKIPPED * *.py:3: nothing to see in frozen_stability*"])


@pytest.mark.parametrize("named", [False, True])
def test_suites_skip_the_one_item(project, named):
    checks = "checks = ['batch_invariance', 'frozen_stability']" if named else ""
    project.makepyfile(
        f"""
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        class TestModel(ConsistencySuite):
            {checks}

            def model(self):
                return FakeModel(frozen_stability="not applicable")
        """
    )
    if named:
        project.runpytest().assert_outcomes(passed=1, failed=1)
        project.runpytest("--bn-not-applicable=pass").assert_outcomes(passed=2)
    else:
        project.runpytest().assert_outcomes(passed=2, skipped=1)
        project.runpytest("--bn-not-applicable=fail").assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("args", "outcome"),
    [
        ((), "skipped"),
        (("--bn-check=frozen_stability",), "failed"),
        (("--bn-check=frozen_stability", "--bn-not-applicable=skip"), "skipped"),
        (("--bn-not-applicable=fail",), "failed"),
    ],
)
def test_without_a_test_file(project, args, outcome):
    project.makepyfile(
        models="""
        from conftest import FakeModel

        def build():
            return FakeModel(frozen_stability="not applicable")
        """
    )
    others = {} if "--bn-check=frozen_stability" in args else {"passed": 2}
    result = project.runpytest("--bn-model=models:build", *args)
    result.assert_outcomes(**{outcome: 1}, **others)


def test_what_the_user_waived_is_skipped_and_the_rest_counts(pytester):
    pytester.makepyfile(
        """
        import keras
        import numpy as np
        from pytest_bnconsistency import (assert_batch_invariance, assert_frozen_stability)
        from pytest_bnconsistency import assert_inference_purity

        X = np.ones((8, 4), "float32")

        class Leak(keras.layers.Layer):
            def call(self, x):
                return x - keras.ops.mean(x, axis=0, keepdims=True)

        def leaking():
            return keras.Sequential([keras.Input((4,)), Leak(name="leak"), keras.layers.Dense(2)])

        def test_waived():
            assert_batch_invariance(leaking(), X, transductive="by design")

        def test_waived_and_more():
            assert_batch_invariance(leaking(), X, transductive="by design")
            assert_inference_purity(leaking(), X, examples=0)

        def test_nothing_frozen():
            assert_frozen_stability(leaking(), X)

        def test_the_fault_below():
            assert_frozen_stability(leaking(), X, not_applicable="skip")
            assert_batch_invariance(leaking(), X)
        """
    )
    result = pytester.runpytest("-ra")
    result.assert_outcomes(skipped=1, passed=1, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED * the model is declared transductive: by design",
            "FAILED *::test_nothing_frozen - frozen_stability not applicable: no layer *",
            "FAILED *::test_the_fault_below - BN101 *",
        ]
    )
