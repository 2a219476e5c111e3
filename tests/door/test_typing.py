"""What a type checker says of the public names."""

import subprocess
import sys
import typing

import pytest

from pytest_bnconsistency import settings

RIGHT = """
from pytest_bnconsistency import (
    BnCheck, CheckResult, ConsistencySuite, assert_batch_invariance, assert_frozen_stability,
    assert_consistency, assert_statistics_health, check_consistency, recalibrate,
)

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
