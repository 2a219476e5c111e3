import pytest

CHECKS = 3


def test_a_class_becomes_a_set_of_tests(project):
    project.makepyfile(
        """
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        built = []

        class TestModel(ConsistencySuite):
            options = {"rows": 5}

            def model(self):
                built.append(1)
                return FakeModel(train_eval_agreement="vacuous")

            def data(self):
                return [[1.0], [2.0]], [0.0, 1.0]

            def test_own(self):
                assert self.model() is not None

        class TestNamed(TestModel):
            checks = ["train_eval_agreement"]

        def test_built_once_for_a_class():
            assert len(built) == 1 + 1 + 1 + 1
        """
    )
    result = project.runpytest("-v", "-ra")
    result.assert_outcomes(passed=2 + 1 + 1 + 1, skipped=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*::TestModel::test_batch_invariance *PASSED*",
            "*::TestModel::test_train_eval_agreement *SKIPPED*",
            "*::TestModel::test_own *",
            "*::TestNamed::test_train_eval_agreement *FAILED*",
            "SKIPPED *test_a_class_becomes_a_set_of_tests.py:6: nothing to see*; look elsewhere",
            "FAILED *::TestNamed::test_train_eval_agreement - train_eval_agreement inconclusive*",
        ]
    )
    result.stdout.no_fnmatch_line("*::TestNamed::test_batch_invariance*")
    result.stdout.no_fnmatch_line("*ConsistencySuite::*")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "*TestModel has no model; expected a method model(self)*"),
        ("model = lambda self: 3", "3 is no model; expected a FakeModel"),
        ("model = lambda self: FakeModel(); options = {'row': 3}", "*did you mean*"),
    ],
)
def test_misuse_is_told_once(project, body, message):
    project.makepyfile(
        f"""
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        class TestModel(ConsistencySuite):
            {body}
        """
    )
    result = project.runpytest("-ra")
    result.assert_outcomes(errors=1, skipped=CHECKS - 1)
    result.stdout.fnmatch_lines(
        [
            message,
            "SKIPPED [[]2[]] *.py:4: not checked, for the same error as *::test_batch_invariance",
            f"ERROR *::test_batch_invariance - {message}",
        ]
    )
    alone = project.runpytest("-k", "frozen")
    alone.assert_outcomes(errors=1)
    alone.stdout.fnmatch_lines([message])


@pytest.mark.parametrize("checks", [["batch_invariant"], []], ids=["unknown", "none"])
def test_what_is_wrong_with_checks_is_told_once_and_other_tests_run(project, checks):
    project.makepyfile(
        f"""
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        class TestModel(ConsistencySuite):
            checks = {checks}
            model = FakeModel()

        def test_other():
            pass
        """
    )
    result = project.runpytest("-ra")
    result.assert_outcomes(passed=1, errors=1, skipped=CHECKS - 1)
    said = "unknown check 'batch_invariant'; did you mean*" if checks else "checks is empty; *"
    result.stdout.fnmatch_lines([said, f"ERROR *::TestModel::test_batch_invariance - {said}"])
    result.stdout.no_fnmatch_line("*registry.py*")


def test_options_of_the_class_and_of_the_command_line(project):
    project.makepyfile(
        """
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        class TestModel(ConsistencySuite):
            checks = ["batch_invariance"]

            def model(self):
                return FakeModel(batch_invariance="vacuous")
        """
    )
    project.runpytest().assert_outcomes(failed=1)
    project.runpytest("--bn-vacuous=skip").assert_outcomes(skipped=1)
