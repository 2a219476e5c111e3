"""A finding accepted on purpose: by call, marker, command line, ini, suite or function."""

import json

import pytest

TEST = """
    import pytest

    {mark}
    def test_it(bn_check, fake):
        bn_check.batch_invariance(fake(batch_invariance="failed"){call})
"""
ACCEPTED = "*::test_it: BN101 fake-leak: batch_invariance is off by 7; ignored: meant"


@pytest.mark.parametrize(
    "where", ["call", "marker", "line", "ini", "toml", "list", "native list", "native table"]
)
def test_from_every_source(project, where):
    files = {
        "ini": ("pytest.ini", "[pytest]\nbn_ignore =\n  BN101 dense: meant\n  BN104 x: stale"),
        "toml": ("pyproject.toml", '[tool.pytest.ini_options]\nbn_ignore = """\nBN101: meant"""'),
        "list": ("pyproject.toml", '[tool.pytest.ini_options]\nbn_ignore = ["BN101: meant"]'),
        "native list": ("pytest.toml", '[pytest]\nbn_ignore = ["BN101: meant"]'),
        "native table": ("pytest.toml", '[pytest]\nbn_ignore = {"BN101 d*" = "meant"}'),
    }
    if where.startswith("native") and int(pytest.__version__.partition(".")[0]) < 9:
        pytest.skip("of pytest 9")
    if where in files:
        name, content = files[where]
        (project.path / name).write_text(content, encoding="utf-8")
    mark = '@pytest.mark.bnconsistency(ignore={"BN101": "meant"})' if where == "marker" else ""
    call = ', ignore={"BN101": "meant"}' if where == "call" else ""
    project.makepyfile(TEST.format(mark=mark, call=call))
    words = ["--bn-ignore", "BN104: stale", "--bn-ignore", "BN101: meant"]
    result = project.runpytest("-W", "error", *words * (where == "line"))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= bnconsistency: ignored on purpose =*", ACCEPTED])
    stale = "ignore 'BN104*' matches no finding: correct it or take it out"
    if where in ("line", "ini"):
        result.stdout.fnmatch_lines([stale])
    else:
        result.stdout.no_fnmatch_line(stale)


def test_a_stronger_source_replaces_a_weaker_one(project):
    project.makeini("[pytest]\nbn_ignore = BN101: meant")
    project.makepyfile(TEST.format(mark="", call=', ignore={"BN104": "no"}'))
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *ignored *nothing: 'BN104' matches no finding"])


def test_a_part_of_a_project_says_nothing_of_what_its_ini_file_accepts(project):
    project.makeini("[pytest]\nbn_ignore = BN104: elsewhere")
    project.makepyfile("def test_it(bn_check, fake): bn_check.batch_invariance(fake())")
    stale = "ignore 'BN104' matches no finding: correct it or take it out"
    project.runpytest().stdout.fnmatch_lines([stale])
    project.runpytest(
        "test_a_part_of_a_project_says_nothing_of_what_its_ini_file_accepts.py"
    ).stdout.no_fnmatch_line(stale)


MODELS = """
from conftest import FakeModel

def sound():
    return FakeModel()

def faulty():
    return FakeModel(batch_invariance="failed")

def other():
    return FakeModel(batch_invariance="failed")

other.options = {"ignore": {"BN102": "not this one"}}
"""


def test_what_one_model_is_accepted_for_is_not_told_of_the_others(project):
    project.makepyfile(models=MODELS)
    project.makeini(
        """
        [pytest]
        bn_model =
            models:sound
            models:faulty
        bn_ignore = BN101: meant
        """
    )
    stale = "*matches no finding*"

    def unmatched(*arguments):
        result = project.runpytest(*arguments, "--bn-report", "json:run.json")
        told = any("matches no finding" in line for line in result.outlines)
        models = json.loads((project.path / "run.json").read_text("utf-8"))["models"]
        return [e for m in models for c in m["checks"] for e in c["unmatched"]], told

    assert unmatched() == ([], False)
    assert unmatched("--bn-model", "models:sound") == ([], False)
    assert unmatched("-k", "sound") == ([], False)
    project.makeini("[pytest]\nbn_model = models:sound\nbn_ignore = BN101: meant")
    assert unmatched() == (["BN101"], True)
    failing = project.runpytest("--bn-model", "models:other", "-o", "bn_ignore=BN103: elsewhere")
    failing.assert_outcomes(failed=1, passed=2)
    failing.stdout.fnmatch_lines([" *ignored *'BN102' matches no finding*"])
    project.runpytest(
        "--bn-model", "models:faulty", "-o", "bn_ignore=BN103: elsewhere"
    ).stdout.no_fnmatch_line(stale)


@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(("-p", "xdist", "-n2"), marks=pytest.mark.thorough)],
    ids=["alone", "n2"],
)
def test_one_entry_for_two_tests(project, workers):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.bnconsistency(ignore={"BN101": "meant"})
        @pytest.mark.parametrize("verdict", ["failed", "passed"])
        def test_it(bn_check, fake, verdict):
            bn_check.batch_invariance(fake(batch_invariance=verdict))
        """
    )
    result = project.runpytest(*workers)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_it?failed?: *; ignored: meant"])
    result.stdout.no_fnmatch_line("*matches no finding*")


def test_a_suite_and_a_function_have_their_own(project):
    project.makepyfile(
        models="""
        from conftest import FakeModel

        def build():
            return FakeModel(batch_invariance="failed")

        build.options = {"ignore": {"BN101": "meant"}}

        def wrong():
            return FakeModel()

        wrong.options = 3
        """,
        test_suite="""
        from conftest import FakeModel
        from pytest_bnconsistency import ConsistencySuite

        class TestModel(ConsistencySuite):
            options = {"ignore": {"BN101": "meant"}}

            def model(self):
                return FakeModel(batch_invariance="failed")
        """,
    )
    result = project.runpytest("--bn-model", "models:build", ".")
    result.assert_outcomes(passed=6)
    assert len([line for line in result.outlines if line.endswith("; ignored: meant")]) == 2
    wrong = project.runpytest("--bn-model", "models:wrong")
    wrong.stdout.fnmatch_lines(["*options is 3; expected a dict, as in {'rows': 16}*"])


def test_the_printed_command_has_what_was_ignored(project):
    project.makepyfile(TEST.format(mark="", call=""))
    result = project.runpytest("--bn-ignore=BN104: it's meant", "--bn-ignore=BN106 a/*: so")
    result.stdout.fnmatch_lines(
        ["E *reproduce *--bn-ignore 'BN104: it'\"'\"'s meant' --bn-ignore 'BN106 a/[*]: so'"]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("BN101", "--bn-ignore: option 'ignore' gives no reason for 'BN101'; expected one*"),
        ("BN9: why", "--bn-ignore: option 'ignore': there is no rule 'BN9'; *"),
    ],
)
def test_what_cannot_be_ignored(pytester, given, said):
    result = pytester.runpytest("--bn-ignore", given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}"])
