"""Texts in a terminal, a log and a shell, whatever names are in them."""

import shlex
import subprocess

import pytest

from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.results import CheckResult, Finding, Ignored, Table, Verdict
from pytest_bnconsistency.words import printable

NAMES = {
    "newline": "x\n::error file=app.py,line=1::forged",
    "return": "x\r::warning::forged",
    "command": "::error file=app.py,line=1::forged",
    "azure": "x ##vso[task.complete result=Succeeded]",
    "runner": "##[add-mask]x",
    "teamcity": "##teamcity[testFinished name='x']",
    "ansi": "\x1b[2J\x1b[31mred",
    "csi": "\x9b2Jgone",
    "bell": "\x07ding",
    "bidi": "\u202egnorw",
    "isolate": "\u2066x\u2069",
    "line separator": "x\u2028::error::forged",
    "next line": "x\x85::error::forged",
    "surrogate": "x\ud800",
}


def everything(name):
    """A result that has `name` in every place that takes a text."""
    words = dict.fromkeys(("layer", "message", "cause", "remedy", "tested", "bound", "code"), name)
    table = Table((name, "b"), ((name, "1"), (name, name)))
    finding = Finding(rule="BN101", slug="s", cause_tested=True, recipe=name, table=table, **words)
    return CheckResult(
        check=name,
        verdict=Verdict.FAILED,
        findings=(finding, finding),
        notes=(name,),
        table=table,
        warnings=(finding,),
    )


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("verdict", ["failed", "vacuous"])
def test_no_name_gives_a_command(name, verdict):
    result = everything(name)
    if verdict == "vacuous":
        result = CheckResult(
            check=name, verdict=Verdict.VACUOUS, summary=name, hint=name, notes=(name,)
        )
    shown = text.render(result, verbose=True, reproduce=name)
    shown += "\n" + "\n".join(text.table_lines(everything(name).to_dict()["table"]))
    shown += "\n" + "\n".join(text.warning_lines([(name, everything(name).to_dict())]))
    shown += "\n" + result.headline + "\n" + str(DataError(name))
    assert all(letter == "\n" or letter.isprintable() for letter in shown)
    assert shown.encode("utf-8")
    for line in shown.split("\n"):
        assert not line.strip().startswith("::")
        assert not any(word in line for word in ("##[", "##vso[", "##teamcity["))


@pytest.mark.parametrize(
    "name", ["bn", "Schicht größer", "层/bn", "🙂👩‍👩‍👧", "a::b", "# [x]", "a\\b"]
)
def test_a_harmless_name_stays_as_it_is(name):
    assert printable(name) == name


def test_the_middle_of_a_long_name_is_left_out():
    name = "a" * 2000 + "b" * 2000
    table = Table(("layer", "b"), ((name, "1"),))
    finding = Finding(
        rule="BN101",
        slug="s",
        layer=name,
        message=f"{name} moves",
        cause=f"it is {name}",
        cause_tested=True,
        remedy=f"mend {name}",
        code=f"net.get_layer({name!r})",
        table=table,
    )
    result = CheckResult(
        check="check",
        verdict=Verdict.FAILED,
        findings=(finding,),
        warnings=(finding,),
        notes=(name,),
        ignored=(Ignored(finding, "reason", ()),),
    )
    shown = text.render(result, reproduce=f"pytest {name}").splitlines()
    rows = [line for line in shown if line.endswith("   1")]
    assert [len(row) for row in rows] == [2 + 83 + 3 + 1]
    # What is to be typed stays whole.
    assert [line[:11].strip() for line in shown if len(line) > 400] == ["code", "reproduce"]
    assert f"  layer      {'a' * 60}...{'b' * 60}" in shown
    assert "..." not in text.render(result, verbose=True, reproduce=f"pytest {name}")
    assert result.to_dict()["findings"][0]["layer"] == name
    for lines in (text.warning_lines, text.ignored_lines):
        (line,) = lines([("test", result.to_dict())])
        assert len(line) < 400
    _, line = text.model_lines({"net": {"check": ("failed", "check inconclusive: why")}})
    assert line == "  failed     check: inconclusive: why"  # and the name once
    assert max(map(len, text.model_lines({name: {"check": ("failed", name)}}))) < 400


QUOTED = """
    import pytest

    @pytest.mark.parametrize("tag", ['a"b', "$HOME", "`id`", "it's", "a b", "!x", "back\\\\slash"])
    def test_q(bn_check, fake, tag):
        bn_check.batch_invariance(fake(batch_invariance="failed"))
"""


def commands(result):
    # Under CI, pytest prints the whole message again in the short summary.
    lines = [line.partition("reproduce")[2] for line in result.outlines if " reproduce " in line]
    found = list(dict.fromkeys(line.strip() for line in lines))
    assert found
    return found


def run_again(pytester, command):
    """The command as a shell takes it apart, in an inner run."""
    said = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True
    )
    words = said.stdout.splitlines()
    assert words == shlex.split(command)
    assert words[:3] == ["python", "-m", "pytest"]
    return pytester.runpytest(*words[3:])


@pytest.mark.parametrize("folder", [".", "tests", "tests/deep", "elsewhere"])
def test_the_printed_command_runs_from_where_the_user_stands(project, monkeypatch, folder):
    project.makeini("[pytest]")
    project.mkdir("elsewhere")
    (project.path / "tests" / "deep").mkdir(parents=True)
    project.makepyfile(**{"tests/deep/test_quoted": QUOTED})
    monkeypatch.chdir(project.path / folder)
    result = project.runpytest(str(project.path))
    result.assert_outcomes(failed=7)
    for command in commands(result)[::3]:
        run_again(project, command).assert_outcomes(failed=1)


def test_the_printed_command_has_what_the_run_was_given(project):
    project.makepyfile(QUOTED)
    (project.path / "other.ini").write_text("[pytest]\nbn_rows = 5\n", encoding="utf-8")
    result = project.runpytest(
        *("-c", "other.ini", "-o", "bn_steps=3", "--bn-padding=-1", "--bn-frozen=back bone/*"),
        *("-k", "HOME"),
    )
    (command,) = commands(result)
    words = shlex.split(command)[4:]
    assert words == [
        *("--bn-frozen", "back bone/*", "--bn-padding=-1.0", "-c", "other.ini"),
        *("-o", "bn_steps=3"),
    ]
    run_again(project, command).assert_outcomes(failed=1)
