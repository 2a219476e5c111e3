"""Reports of records that no run would make: odd names, and too much of everything."""

import dataclasses
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pytest_bnconsistency.errors import MissingDependencyError
from pytest_bnconsistency.reporting import annotations, formats, gitlab, markdown, sarif, summary
from pytest_bnconsistency.reporting.record import Ending, Place, build, check_entry, check_names
from pytest_bnconsistency.results import CheckResult, Finding, Ignored, Run, Table, Verdict

NAMES = {
    "html": "<img src=x onerror=alert(1)>",
    "script": "</code></summary></details><script>alert(1)</script>",
    "long": "layer" * 800,
    "right to left": "\u05e9\u05db\u05d1\u05d4/\u0637\u0628\u0642\u0629",
    "override": "\u202egnorw\u2066",
    "emoji": "🙂👩\u200d👩\u200d👧/bn",
    "ansi": "\x1b[2J\x1b[31mred",
    "newlines": "x\n::error file=app.py::forged\r\n##[error]forged",
    "fence": "```\n````\n</details> @someone #123 [link](javascript:alert(1)) | cell |",
    "markdown": "*a* _b_ `c` | d ![x](http://x) @someone #1",
    "surrogate": "x\ud800",
    "percent": "50% a:b,c%0A::error::x",
}
NAMED = ("json", "md", "sarif", "gitlab", "html")
ENDING = Ending("2026-01-31T09:30:00+00:00", 1.5, 1)
VERSIONS = dict.fromkeys(("python", "pytest", "pytest-bnconsistency", "numpy"), "1.0")
VERSIONS |= dict.fromkeys(("tensorflow", "keras", "tf-keras"))


def finding(name, rule="BN101"):
    words = dict.fromkeys(("layer", "message", "cause", "remedy", "tested", "bound", "code"), name)
    table = Table((name, "b"), ((name, "1"), (name, name)))
    return Finding(
        rule=rule,
        slug="s",
        cause_tested=True,
        recipe=name,
        table=table,
        evidence={name: name},
        **words,
    )


def failing(name="dense", **more):
    found = finding(name)
    given = {"rows": (8, "default"), "ignore": (None, "ini")}
    result = CheckResult(
        check="batch_invariance",
        verdict=Verdict.FAILED,
        findings=(found, found),
        notes=(name,),
        table=found.table,
        warnings=(finding(name, "BN406"),),
        ignored=(Ignored(finding(name, "BN104"), name, ("BN104",)),),
        unmatched=(name,),
        run=Run(name, given, 2.5, 3),
    )
    return dataclasses.replace(result, **more)


def record(*results, title="models:build", place="models.py", **ending):
    entries = [
        check_entry(result, outcome, Place(title, f"{place}::{title}::{result.check}", place, 3))
        for result, outcome in results
    ]
    return build(entries, [], dataclasses.replace(ENDING, **ending), VERSIONS)


def hostile(name):
    run = record((failing(name), "fail"), title=name)
    place = {"test": name, "path": "models.py", "line": 1}
    run["errors"] = [{"kind": "error", "title": name, "message": name, **place}]
    run["run"].update(stopped=name, not_run=[name], crashed=[{"test": name, "message": name}])
    return run


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.every_case
def test_no_name_does_harm_in_any_format(name, valid_record):
    run = hostile(name)
    valid_record(run)
    shown = {one: formats.FORMATS[one].render(run) for one in NAMED}
    shown["annotations"] = "\n".join(annotations.lines(run))
    for text in shown.values():
        assert text.encode("utf-8", "backslashreplace")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert json.loads(shown["json"]) == run
    for line in "\n".join(shown.values()).splitlines():
        assert not line.lstrip().startswith("##[")
    commands = [line for line in shown["annotations"].splitlines() if line.startswith("::")]
    assert commands == shown["annotations"].splitlines()
    assert all(re.match("::(error|warning) file=models.py,line=[13],title=", c) for c in commands)
    assert not any("::error" in line for key in ("md",) for line in starts(shown[key]))
    lines = "\n".join(summary.lines(run, ["json run.json"]))
    assert "models" in lines or "model" in lines
    outside = outside_of_fences(shown["md"])
    assert "<img" not in outside
    assert "<script" not in outside
    assert "@someone" not in outside
    assert outside.count("<details>") == outside.count("</details>")


def starts(text):
    return [line.strip()[:9] for line in text.splitlines()]


def outside_of_fences(text):
    """What a reader of Markdown does not take for a block of code."""
    kept, fence = [], None
    for line in text.splitlines():
        marks = re.match("`{3,}", line)
        if fence is None and marks:
            fence = marks[0]
        elif fence is not None:
            fence = None if line.strip() == fence else fence
        else:
            kept.append(line)
    assert fence is None
    return "\n".join(kept)


def test_a_name_reads_as_it_is_written():
    assert html.unescape(markdown.code("a|b <c> `d` [e]")) == "<code>a|b <c> `d` [e]</code>"


def many(models, name="x"):
    entries = [
        check_entry(failing(f"{name}{i}"), "fail", Place(f"m:{i}", f"m.py::{i}", "m.py", 3))
        for i in range(models)
    ]
    return build(entries, [], ENDING, VERSIONS)


@pytest.mark.parametrize(
    ("models", "name"),
    [(400, ""), (40, "🙂" * 4000), (100, "|`<" * 300)],
    ids=["short", "emoji", "escaped"],
)
def test_markdown_fits_a_comment_whatever_the_run(models, name):
    said = markdown.render(many(models, name))
    assert len(said) < 65_000
    assert len(said.encode("utf-8")) < 65_000
    assert f"{models} failed" in said
    assert "The rest did not fit here; `--bn-report json:PATH` holds everything." in said
    outside = outside_of_fences(said)
    assert outside.count("<details>") == outside.count("</details>") > 3


def test_failures_come_first():
    passing = CheckResult(
        check="statistics_health", verdict=Verdict.PASSED, summary="fine", run=Run("m", {}, 0, 0)
    )
    said = markdown.render(record((passing, "pass"), (failing(), "fail")))
    assert "| <code>models&#58;build</code> <code>dense</code> | failed | - |" in said
    assert "None" not in said
    assert said.index("❌") < said.index("warnings: 1") < said.index("Models 1 to 2")


def test_checks_stand_in_the_order_in_which_they_are_always_told():
    names = ("statistics_health", "of_an_adapter", "baseline", "batch_invariance")
    run = record(*((failing(check=name), "fail") for name in names))
    assert check_names(run["models"]) == [
        "batch_invariance",
        "statistics_health",
        "baseline",
        "of_an_adapter",
    ]


def test_sarif_is_what_its_schema_says():
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(__file__).with_name("schemas") / "sarif-2.1.0.json"
    validator = jsonschema.Draft4Validator(json.loads(schema.read_text(encoding="utf-8")))
    vacuous = CheckResult(
        check="inference_purity", verdict=Verdict.VACUOUS, summary="constant", hint="train"
    )
    run = record((failing(), "fail"), (vacuous, "fail"), stopped="KeyboardInterrupt")
    for one in (run, hostile(NAMES["html"]), record()):
        validator.validate(json.loads(sarif.render(one)))
    (said,) = json.loads(sarif.render(run))["runs"]
    rules = said["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["BN101", "inconclusive", "BN406", "BN104"]
    assert rules[0]["name"] == "rows-mix"
    assert rules[0]["help"]["markdown"].startswith("# BN101")
    first, *_, ignored = said["results"]
    place = first["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == ("models.py", {"startLine": 3})
    assert (first["level"], ignored["level"]) == ("error", "note")
    assert ignored["suppressions"] == [{"kind": "external", "justification": "dense"}]
    assert not said["invocations"][0]["executionSuccessful"]
    wrong = json.loads(sarif.render(run))
    wrong["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(wrong)


def test_gitlab_gets_each_problem_once():
    issues = json.loads(gitlab.render(record((failing(), "fail"), (failing(), "fail"))))
    assert [issue["check_name"] for issue in issues] == ["BN101", "BN406"]
    assert [issue["severity"] for issue in issues] == ["major", "minor"]
    assert issues[0]["location"] == {"path": "models.py", "lines": {"begin": 3}}
    assert len({issue["fingerprint"] for issue in issues}) == 2


@pytest.mark.parametrize(
    ("folder", "place", "path"),
    [
        ("", "tests/a.py", "tests/a.py"),
        ("packages/a", "tests/a.py", "packages/a/tests/a.py"),
        ("packages/a", "../b.py", "packages/b.py"),
        ("", "../b.py", None),
        ("", "/usr/lib/b.py", None),
    ],
)
def test_paths_count_from_the_top_of_the_repository(folder, place, path):
    run = record((failing(), "fail"), folder=folder, place=place)
    command = next(annotations.lines(run))
    assert command.startswith(f"::error file={path},line=3," if path else "::error title=")


def test_what_a_test_wants_to_fail_is_no_problem():
    run = record((failing(warnings=(), ignored=()), "expected"))
    assert not list(annotations.lines(run))
    assert json.loads(gitlab.render(run)) == []
    assert (run["counts"]["failed"], run["counts"]["expected"]) == (0, 1)


def test_a_step_shows_no_more_lines_than_github_does():
    commands = list(annotations.lines(many(40)))
    assert len(commands) == 20


def test_numbers_are_numbers_but_for_those_that_are_none(valid_record):
    evidence = {
        "float": np.float32(0.5),
        "int": np.int64(3),
        "none": [float("nan"), np.inf, -np.inf],
        "array": np.ones((2, 2)),
        "flag": np.bool_(True),
    }
    run = record((failing(evidence=evidence), "fail"))
    valid_record(run)
    assert run["models"][0]["checks"][0]["evidence"] == {
        "float": 0.5,
        "int": 3,
        "none": ["nan", "inf", "-inf"],
        "array": [[1.0, 1.0], [1.0, 1.0]],
        "flag": True,
    }


def test_the_schema_refuses_what_it_does_not_describe(valid_record):
    run = record((failing(), "fail"))
    valid_record(run)
    for spoil in ({"extra": 1}, {"schema_version": 2}, {"models": [{}]}):
        with pytest.raises(Exception, match=r"unexpected|expected|required"):
            valid_record(run | spoil)


def test_a_format_without_its_libraries_is_one_sentence(monkeypatch, tmp_path):
    needy = formats.Format("nothing", ("no_such_library",))
    monkeypatch.setattr(formats, "FORMATS", {"fancy": needy})
    with pytest.raises(MissingDependencyError) as raised:
        formats.outputs(["fancy:x"], tmp_path)
    assert str(raised.value) == (
        "--bn-report fancy takes no_such_library, not installed here; install with: "
        "pip install 'pytest-bnconsistency[report]'"
    )
