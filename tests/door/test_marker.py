import pytest


def test_the_closest_marker_wins_option_by_option(project):
    project.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.bnconsistency(rows=3, steps=3, seed=3)

        @pytest.mark.bnconsistency(rows=4, steps=4)
        class TestIt:
            @pytest.mark.bnconsistency(rows=5)
            def test_it(self, bn_check, fake):
                evidence = bn_check.batch_invariance(fake()).evidence
                assert (evidence["rows"], evidence["steps"], evidence["seed"]) == (5, 4, 3)
        """
    )
    project.runpytest("--strict-markers").assert_outcomes(passed=1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("row=3", "unknown option 'row'; did you mean 'rows'?"),
        ("rows=1", "option 'rows' is 1; expected 2 or more"),
        ("3", "*was given 3 without a name; expected options by name: *"),
    ],
)
def test_a_bad_marker_is_an_error_of_its_test(project, arguments, message):
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.bnconsistency({arguments})
        def test_marked():
            pass

        def test_free():
            pass
        """
    )
    result = project.runpytest("-ra")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines([message, f"ERROR *::test_marked - {message}"])
    result.stdout.no_fnmatch_line("*Error: *")
    result.stdout.no_fnmatch_line("*plugin.py*")


def test_markers_lists_it(pytester):
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.bnconsistency(*"])
