"""What a type checker says of the public names."""

import subprocess
import sys
import typing

import pytest

from pytest_bnconsistency import settings

RIGHT = """
from pytest_bnconsistency import (
    BNConsistencyError, BnCheck, CheckResult, ConsistencyFailure, ConsistencySuite, Finding,
    Report, Verdict, assert_baseline, assert_batch_invariance, assert_consistency,
    assert_frozen_stability, assert_healthy_statistics, assert_inference_purity,
    assert_statistics_health, assert_train_eval_agreement, check_consistency, preserve_state,
    recalibrate, record_baseline, strategies,
)
import hypothesis
import pytest

@hypothesis.given(strategies.batches(object(), max_rows=3))
def test_drawn(x: object) -> None:
    with pytest.raises(ConsistencyFailure) as caught, preserve_state(object()):
        assert_inference_purity(object(), x, entry_points="all")
    failed: CheckResult = caught.value.results[0]
    found: Finding = failed.findings[0]
    assert (failed.verdict is Verdict.FAILED, found.rule) == (True, "BN001")

def judged() -> Report:
    try:
        assert_train_eval_agreement(object(), [1], [1], train_step=print, planned_updates=3)
        assert_healthy_statistics(object(), [1], statistics_rows=3)
        record_baseline(object(), "net", baseline_dir="there")
        assert_baseline(object(), "net", [1], weights="same")
    except BNConsistencyError as error:
        raise SystemExit(str(error)) from None
    report: Report = assert_consistency(object(), ignore={"BN104": "why"})
    return report if report.ok else check_consistency(object())

result: CheckResult = assert_batch_invariance(object(), rows=3, transductive={"a": "why"})
assert_frozen_stability(object(), [1], frozen="a/*", steps=3, not_applicable="pass")
check_consistency(object(), vacuous="warn", padding=0.0)
names: list[str] = recalibrate(object(), [1], frozen=True, batch_size=3)

class TestA(ConsistencySuite):
    checks = ["batch_invariance"]
    options = {"rows": 3}

    def model(self, factory: object) -> object:
        return factory

    def data(self) -> object:
        return None

    def test_batch_invariance(self) -> None:
        super().test_batch_invariance()

def test_x(bn_check: BnCheck) -> None:
    found: CheckResult = bn_check.statistics_health(object())
    bn_check.all(object(), checks=["batch_invariance"], baseline_checks=["baseline"], seed=3)
    bn_check.all(object(), checks=("batch_invariance",), baseline_checks="baseline, none")
"""
WRONG = """
from pytest_bnconsistency import BnCheck, ConsistencySuite, assert_batch_invariance
from pytest_bnconsistency import assert_frozen_stability, check_consistency, recalibrate

assert_batch_invariance(object(), rwos=3)
assert_batch_invariance(object(), rows="3")
assert_frozen_stability(object(), [1], vacuous="no")
check_consistency(object(), not_aplicable="pass")
recalibrate(object(), [1], rows=3)

class TestA(ConsistencySuite):
    checks = ["batch_invarience"]
    options = {"rwos": 3}

def test_x(bn_check: BnCheck) -> None:
    bn_check.batch_invariance(object(), sed=3)
    bn_check.batch_invarience(object())
    bn_check.all(object(), checks=["batch_invarience"])
    check_consistency(object(), checks=["typo"])
    check_consistency(object(), baseline_checks=["typo"])
"""


def test_the_options_of_a_call_are_the_settings():
    hints = typing.get_type_hints(settings.Settings)
    expected = {name: hints[name] for name in settings.FIELDS}
    assert typing.get_type_hints(settings.Options) == expected


@pytest.mark.thorough
def test_a_typo_is_seen(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert not [line for line in lines if not line.startswith("wrong.py")], done.stdout
    numbered = enumerate(WRONG.splitlines(), 1)
    faulty = {
        at for at, line in numbered if any(word in line for word in ("object()", "rwos", "rience"))
    }
    assert {int(line.split(":")[1]) for line in lines} == faulty
