"""Every option: call, marker, command line, ini, default, in that order."""

import pytest

from pytest_bnconsistency.settings import FIELDS

TEST = """
    import pytest

    {mark}
    def test_rows(bn_check, fake):
        assert bn_check.batch_invariance(fake(){call}).evidence["rows"] == {expected}
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", 8),
        ("ini", 3),
        ("ini line", 4),
        ("ini line mark", 5),
        ("ini line mark call", 6),
        ("ini mark", 5),
        ("line call", 6),
    ],
)
def test_precedence(project, given, expected):
    project.makepyfile(
        TEST.format(
            mark="@pytest.mark.bnconsistency(rows=5)" if "mark" in given else "",
            call=", rows=6" if "call" in given else "",
            expected=expected,
        )
    )
    if "ini" in given:
        project.makeini("[pytest]\nbn_rows = 3")
    result = project.runpytest("--strict-markers", *(["--bn-rows=4"] if "line" in given else []))
    result.assert_outcomes(passed=1)


def test_a_plain_function_sees_the_same_options(project):
    project.makepyfile(
        """
        def test_rows(fake):
            from pytest_bnconsistency import assert_batch_invariance
            assert assert_batch_invariance(fake()).evidence["rows"] == 4
        """
    )
    project.runpytest("--bn-rows=4").assert_outcomes(passed=1)


def test_a_fixture_sees_the_options_of_the_test_that_sets_it_up(project):
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def rows(bn_check, fake):
            return bn_check.batch_invariance(fake()).evidence["rows"]

        @pytest.mark.bnconsistency(rows=5)
        def test_rows(rows):
            assert rows == 5
        """
    )
    project.runpytest().assert_outcomes(passed=1)


def test_help_tells_every_option(pytester):
    result = pytester.runpytest("--help")
    text = result.stdout.str()
    for name, field in FIELDS.items():
        assert f"--bn-{name.replace('_', '-')}=" in text.replace(" VALUE", "=")
        assert f"bn_{name}" in text
        assert field.metadata["help"].split()[0] in text
    result.stdout.fnmatch_lines(["*--bn-model=*", "*--bn-data=*", "*--bn-check=*"])


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_option_is_read_from_the_command_line(project, name):
    words = {
        "vacuous": "warn",
        "not_applicable": "pass",
        "entry_points": "all",
        "baseline": "True",
        "baseline_checks": "batch_invariance",
        "replay": "2 rows",
        "decisions_tolerance": "0.7",
        "weights": "same",
        "frozen": "a/*",
        "shape": "(7,)",
        "ignore": "BN101: why",
    }
    value = words.get(name, "7")
    project.makepyfile(
        f"""
        def test_option(bn_check, fake):
            assert str(bn_check.batch_invariance(fake()).evidence[{name!r}]) in ("7.0", {value!r})
        """
    )
    flag = f"--bn-{name.replace('_', '-')}"
    project.runpytest(flag, value).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bn-rows=many"], "*--bn-rows: option 'rows' is 'many'; expected a whole number"),
        (["--bn-rows=1"], "*--bn-rows: option 'rows' is '1'; expected 2 or more"),
        (["--bn-vacuous=no"], "*--bn-vacuous: *'no'; expected one of fail, skip, warn"),
        (["-o", "bn_rows=x"], "*bn_rows: option 'rows' is 'x'; expected a whole number"),
    ],
)
def test_a_bad_value_stops_the_run_at_once(pytester, args, message):
    result = pytester.runpytest(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


@pytest.mark.parametrize(
    ("vacuous", "outcome"),
    [(None, "failed"), ("fail", "failed"), ("skip", "skipped"), ("warn", "passed")],
)
def test_vacuous(project, vacuous, outcome):
    project.makepyfile(
        """
        def test_it(bn_check, fake):
            bn_check.batch_invariance(fake(batch_invariance="vacuous"))
        """
    )
    result = project.runpytest(
        "-rs", "-Wdefault", *([f"--bn-vacuous={vacuous}"] if vacuous else [])
    )
    result.assert_outcomes(**{outcome: 1}, warnings=int(vacuous == "warn"))
    if vacuous == "skip":
        result.stdout.fnmatch_lines(["SKIPPED*test_vacuous.py:1: nothing to see*; look elsewhere"])
    if vacuous == "warn":
        result.stdout.fnmatch_lines(
            ["*test_vacuous.py:2: UserWarning: batch_invariance inconclusive*"]
        )
