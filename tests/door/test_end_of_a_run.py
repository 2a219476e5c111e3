"""What a run of models without a test file ends with."""

import pytest

MODELS = """
    from conftest import FakeModel

    def sound():
        return FakeModel()

    def broken():
        return FakeModel(batch_invariance="failed", frozen_stability="not applicable",
                         train_eval_agreement="vacuous")

    def raising():
        raise ValueError("no weights")
"""


@pytest.mark.parametrize("workers", [(), ("-n2", "--dist=loadfile")], ids=["alone", "n2"])
def test_what_was_not_checked_why_and_what_to_give(project, workers):
    project.makepyfile(models=MODELS, test_own="def test_own(): pass")
    names = ("sound", "broken", "raising")
    run = project.runpytest_subprocess if workers else project.runpytest
    result = run(*(f"--bn-model=models:{name}" for name in names), ".", *workers)
    result.assert_outcomes(passed=3 + 1, failed=1, skipped=2 + 2, errors=1)
    result.stdout.fnmatch_lines(["=* bnconsistency: models =*"])
    result.stdout.fnmatch_lines_random(
        [
            "models:sound: 3 checks, 3 passed",
            "models:broken: 3 checks, 1 failed, 2 skipped",
            "  failed     batch_invariance: BN101 fake-leak: batch_invariance is off by 7",
            "  skipped    train_eval_agreement: nothing to see in train_eval_agreement; look*",
            "  skipped    frozen_stability: nothing to see in frozen_stability",
            "models:raising: 3 checks, 1 error, 2 skipped",
            "  error      batch_invariance: ValueError: no weights (models.py:*)",
            "  skipped    train_eval_agreement and frozen_stability: not checked, for the same*",
        ]
    )


def test_without_a_model_nothing_is_said(project):
    project.makepyfile("def test_it(bn_check, fake): bn_check.all(fake())")
    result = project.runpytest()
    result.stdout.no_fnmatch_line("*bnconsistency: models*")


def test_a_real_model_of_which_half_is_not_checked(pytester):
    pytester.makepyfile(
        models="""
        import keras

        def build():
            bn = keras.layers.BatchNormalization(name="bn")
            return keras.Sequential([keras.Input((4,)), bn, keras.layers.Dense(2)])
        """
    )
    result = pytester.runpytest("--bn-model=models:build")
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "models:build: 5 checks, 3 passed, 2 skipped",
            "  skipped    train_eval_agreement: needs training data; give x and y, or --bn-data",
            "  skipped    frozen_stability: no layer with variables is declared frozen; *",
        ]
    )
