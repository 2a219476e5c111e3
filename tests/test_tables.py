"""The tables of faults and of sound models say what was recorded, and nothing else."""

import importlib.util
import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import keras
import pytest
from small_models import MIXING, functional, layer_of

from pytest_bnconsistency.testing import expect_failure, expect_pass

ROOT = Path(__file__).parents[1]
CHECK = "batch_invariance"


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def faults():
    return script(".ci/fault_table.py")


@pytest.fixture(scope="module")
def green():
    return script("benchmarks/green_table.py")


def expectation(**other):
    versions = {"python": "3.11.7", "tensorflow": "2.21.0", "keras": "3.15.1"}
    expected = {
        "check": CHECK,
        "expected": "failed",
        "verdict": "failed",
        "kind": "Keras3Subject",
        "rule": "BN101",
        "found": [["BN101", "leak", True]],
        "met": True,
        "remedied": False,
        "model": 0,
        "options": [],
        "versions": versions,
    }
    return expected | other


PASSES = {"expected": "passed", "verdict": "passed", "rule": "", "found": []}


def left_by(folder, name, *expected, inside="", test="test_it[keras-a]"):
    """The file that a run of one test left."""
    properties = "".join(
        f'<property name="expectation" value={quoteattr(json.dumps(one))} />' for one in expected
    )
    case = f'<testcase classname="tests.batch_invariance.test_rows" name="{test}">'
    text = f"<testsuite>{case}<properties>{properties}</properties>{inside}</testcase></testsuite>"
    path = folder / f"{name}.xml"
    path.write_text(text, encoding="utf-8")
    return path


def rows(page):
    return [line for line in page.splitlines() if line.startswith("| it: a")]


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("later", "said"),
    [
        ([], "-"),
        ([{}], "passes"),
        ([{"model": 1}], "twin passes"),
        ([{"model": 1, "remedied": True}], "passes"),
        ([{"options": ["ignore"]}], "twin passes"),
        ([{"check": "inference_purity"}], "-"),
        ([{"met": False}], "-"),
    ],
)
def test_what_a_row_says_of_a_remedy(faults, tmp_path, later, said):
    expected = [expectation(), *(expectation(**PASSES) | one for one in later)]
    environments = faults.joined([faults.read(left_by(tmp_path, "a", *expected))])
    (row,) = rows(faults.page(environments))
    assert row == f"| it: a | Keras 3 | BN101 | `leak` | tested | {said} | found |"


def test_what_the_columns_say(faults, tmp_path):
    def in_tensorflow(version, **other):
        versions = expectation()["versions"] | {"tensorflow": version}
        return expectation(**other, versions=versions)

    missed = in_tensorflow("2.20.0", found=[["BN102", "bn", False]], met=False)
    other = in_tensorflow("2.18.0")
    broken = left_by(tmp_path, "d", in_tensorflow("2.16.1"), test="test_other")
    text = broken.read_text(encoding="utf-8")
    case = '<testcase classname="tests.batch_invariance.test_rows" name="test_it[keras-a]">'
    with_error = text.replace("<testsuite>", f"<testsuite>{case}<failure /></testcase>")
    broken.write_text(with_error, encoding="utf-8")
    files = [
        left_by(tmp_path, "a", expectation()),
        left_by(tmp_path, "b", missed, inside="<failure />"),
        left_by(tmp_path, "c", other, test="test_other"),
        broken,
    ]
    environments = faults.joined(map(faults.read, files))
    (row,) = rows(faults.page(environments))
    cells = [cell.strip() for cell in row.strip("|").split("|")][-4:]
    assert cells == ["found", "**not found** (BN102)", "-", "**not found** (error)"]


def test_what_ran_again_replaces_what_it_said(faults, tmp_path):
    before = left_by(tmp_path, "a", expectation(met=False))
    after = left_by(tmp_path, "b", expectation())
    (environment,) = faults.joined(map(faults.read, (before, after)))
    (row,) = rows(faults.page([environment]))
    assert row.endswith("| found |")


@pytest.mark.thorough
def test_tests_record_what_they_expect(x, request):
    faulty = functional(keras, layer_of(keras, MIXING["centred"]))
    twin = functional(keras, lambda h: h)
    expect_failure(CHECK, faulty, x, rule="BN101", remedy=lambda _: twin)
    expect_pass(CHECK, twin, x)
    with pytest.raises(AssertionError, match="expected passed, and batch_invariance said failed"):
        expect_failure(CHECK, faulty, x, rule="BN101", remedy=lambda model: model)
    recorded = [json.loads(text) for _, text in request.node.user_properties]
    failed, mended = [["BN101", "leak", True]], []
    assert [one["found"] for one in recorded] == [failed, mended, mended, failed, failed]
    assert [one["remedied"] for one in recorded] == [False, True, False, False, True]
    assert [one["model"] for one in recorded] == [0, 1, 1, 0, 0]
    assert [one["met"] for one in recorded] == [True, True, True, True, False]


def judged(model, precision="float32", **verdicts):
    verdicts = {CHECK: "passed", "inference_purity": "passed"} | verdicts
    versions = {"python": "3.11", "tensorflow": "2.21", "keras": "3.15", "tf-keras": None}
    return {
        "package": "hub",
        "version": "1.0",
        "model": model,
        "precision": precision,
        "parameters": 1234,
        "verdicts": verdicts,
        "said": dict.fromkeys(verdicts, "BN101 rows: they meet"),
        "margin": 0.25,
        "versions": versions,
    }


def test_what_the_page_of_sound_models_says(green):
    lines = [
        {"package": "hub", "model": "a", "precision": "float32", "begun": True},
        judged("a", batch_invariance="failed"),
        judged("a"),  # again, mended
        judged("a", "mixed_float16", inference_purity="vacuous"),
        judged("b") | {"verdicts": {CHECK: "vacuous", "inference_purity": "not applicable"}},
        {"package": "hub", "model": "c", "precision": "float32", "error": "OSError"},
    ]
    page = green.table(lines)
    assert "| hub 1.0 | a | 1,234 | passed | - | inconclusive (inference_purity) | 0.25 |" in page
    assert "| hub 1.0 | b | 1,234 | inconclusive (batch_invariance) | - | - | 0.25 |" in page
    assert "| c |" not in page
    assert "**0 false alarms in 1 models**" in page
    assert "300.0%" not in page
    alarm = green.table([judged("a", batch_invariance="failed"), judged("b")])
    assert "| hub 1.0 | a | 1,234 | **failed** BN101 rows | - | - | 0.25 |" in alarm
    assert "**1 false alarms in 2 models**" in alarm
