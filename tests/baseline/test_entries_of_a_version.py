"""A file may hold what one version of a library does otherwise, and only that."""

from dataclasses import replace

import pytest

from pytest_bnconsistency.checks.baseline import file, update
from pytest_bnconsistency.checks.baseline.compare import compared
from pytest_bnconsistency.checks.baseline.explain import findings
from pytest_bnconsistency.checks.baseline.facts import Facts
from pytest_bnconsistency.errors import BaselineError

BN = {"momentum": 0.99, "modes predict": "stored", "updates": 1}
OLD = Facts(
    model="net",
    versions={"run by": "keras", "keras": "3.15.1", "tensorflow": "2.21.0"},
    graph=("bn: (5,) (5,)",),
    inventory={"bn": BN},
    statistics={"bn mean": {"mean": 0.5, "deviation": 1.0}},
    outputs={"predict": {"shape": "(rows, 2)", "row 0 size": 1.0, "noise": 1e-6}},
)
NEW = replace(
    OLD,
    versions={**OLD.versions, "keras": "3.16.0"},
    inventory={"bn": {**BN, "modes predict": "batch"}},
    outputs={"predict": {"shape": "(rows, 2)", "row 0 size": 2.0, "noise": 1e-6}},
)


def moved(was, now):
    return compared(update.here(was, now), now, lambda name: 0.0, None)


def test_one_file_serves_both_versions():
    found = moved(OLD, NEW)
    assert {one.layer for one in found.moved} == {"bn", "predict"}
    other = replace(NEW, versions={**NEW.versions, "tf-keras": "2.20.0"})  # runs nothing of it
    first, *_ = findings(OLD, other, found)
    assert first.cause.startswith("the library: keras 3.16.0 (was 3.15.1); graph")
    both = update.with_version(OLD, NEW, found)
    assert file.parsed(file.written(both), "net.json") == both
    assert list(both.elsewhere) == ["keras 3.16 inventory: bn", "keras 3.16 outputs: predict"]
    assert both.versions == OLD.versions
    assert not moved(both, OLD).moved
    assert not moved(both, NEW).moved
    assert moved(both, replace(NEW, versions={**NEW.versions, "keras": "3.17.0"})).moved


def test_what_no_library_does_gets_no_entry():
    for other in (
        replace(NEW, inventory={"bn": {**BN, "momentum": 0.9}}),
        replace(NEW, statistics={"bn mean": {"mean": 0.6, "deviation": 1.0}}),
    ):
        with pytest.raises(BaselineError, match="which no library does"):
            update.with_version(OLD, other, moved(OLD, other))


def test_the_version_of_the_baseline_itself_gets_no_entry():
    edited = replace(OLD, inventory=NEW.inventory)
    with pytest.raises(BaselineError, match="the baseline was recorded on it"):
        update.with_version(OLD, edited, moved(OLD, edited))
    both = update.with_version(OLD, NEW, moved(OLD, NEW))
    assert update.with_version(both, NEW, moved(both, NEW)) == both
    again = update.merged(both, NEW, moved(both, NEW))
    assert again.versions == OLD.versions
    assert update.merged(OLD, NEW, moved(OLD, NEW)).versions == NEW.versions


def test_recording_again_keeps_the_entries_apart():
    both = update.with_version(OLD, NEW, moved(OLD, NEW))
    later = replace(NEW, inventory={"bn": {**BN, "modes predict": "batch", "momentum": 0.9}})
    again = update.merged(both, later, moved(both, later))
    assert again.elsewhere["keras 3.16 inventory: bn"]["momentum"] == 0.9
    assert again.inventory["bn"] == BN
    assert again.outputs == OLD.outputs
    assert not moved(again, later).moved


def test_other_rows_are_told_and_no_outputs_compared():
    (one,) = moved(OLD, replace(OLD, batch="8 rows of (4,) from seed 1")).moved
    assert (one.layer, one.fact) == ("batch", "rows")
