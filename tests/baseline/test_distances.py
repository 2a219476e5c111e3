"""How far statistics are from those of the data is compared, as far as sampling lets it."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from pytest_bnconsistency import (
    ConsistencyFailure,
    assert_baseline,
    recalibrate,
    record_baseline,
)
from pytest_bnconsistency.checks.baseline import update
from pytest_bnconsistency.checks.baseline.compare import compared
from pytest_bnconsistency.checks.baseline.explain import findings
from pytest_bnconsistency.checks.baseline.facts import DISTANCE, SAMPLING, Facts

HEALTH = "statistics_health"
DIGEST = {"mean": 0.5, "deviation": 1.0}


def facts(distance=None, error=0.01, weights=None, **digest):
    """Facts of one vector, with its distance where there is data."""
    known = {} if distance is None else {DISTANCE: distance, SAMPLING: error}
    return Facts(
        model="net",
        versions={"run by": "keras", "keras": "3.15.0"},
        weights=weights or {"size": 1.0},
        statistics={"bn mean": {**DIGEST, **digest, **known}},
    )


def moved(was, now):
    return compared(was, now, lambda name: 0.0, None)


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("before", "after", "error", "found"),
    [
        (0.1, 0.5, 0.01, True),
        (0.1, 0.15, 1e-5, False),
        (0.1, 0.5, 0.04, False),
        (0.5, 0.1, 0.01, False),
        (None, 0.5, 0.01, False),
        (0.1, None, 0.01, False),
    ],
)
def test_only_what_is_farther_beyond_sampling_is_told(before, after, error, found):
    for weights in ({"size": 1.0}, {"size": 2.0}):
        differences = moved(facts(before, error), facts(after, error, weights)).statistics
        assert [one.layer for one in differences] == (["bn"] if found else [])


def test_a_digest_and_a_distance_have_their_own_causes():
    near, far, other = facts(0.0), facts(1.0), facts(1.0, mean=0.9)
    (finding,) = findings(near, far, moved(near, far))
    assert finding.message == "bn: mean distance to the population is 1, was 0"
    assert finding.cause.startswith("the data: weights and statistics are as they were")
    (finding,) = findings(near, other, moved(near, other))
    assert finding.cause.startswith("the statistics alone")
    later = replace(other, versions={**near.versions, "keras": "3.16.0"})
    (finding,) = findings(near, later, moved(near, later))
    assert finding.cause.startswith("the statistics alone")  # which no library moves


def test_a_distance_that_is_new_is_put_down_where_it_was_missing():
    was, now = facts(), facts(0.1)
    found = moved(was, now)
    assert not found.moved
    assert "does not say how far statistics are" in found.better[0]
    assert update.merged(was, now, found).statistics == now.statistics
    assert update.merged(now, was, moved(now, was)).statistics == now.statistics


def rows(seed, shift=0.0):
    return np.random.default_rng(seed).normal(1 + shift, 2, (256, 6)).astype(np.float32)


def net(seed=3):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(5), keras.layers.BatchNormalization(name="bn")]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])
    recalibrate(model, rows(0))
    return model


@pytest.mark.thorough
def test_other_data_is_told_and_another_sample_is_not(tmp_path):
    options = {"baseline_dir": tmp_path, "baseline_checks": HEALTH}
    model = net()
    record_baseline(model, "net", rows(0), **options)
    assert DISTANCE in (tmp_path / "net.json").read_text("utf-8")
    for same in (rows(0), *map(rows, range(1, 6)), None):
        assert assert_baseline(model, "net", same, **options).verdict == "passed"
    assert assert_baseline(net(seed=4), "net", rows(1), **options).verdict == "passed"
    with pytest.raises(ConsistencyFailure) as failure:
        assert_baseline(model, "net", rows(1, shift=3.0), **options)
    (found,) = (f for f in failure.value.results[0].findings if f.rule == "BN702")
    assert (found.layer, DISTANCE in found.message) == ("bn", True)
    stale = net(seed=4)
    bn = stale.get_layer("bn")
    bn.moving_mean.assign(bn.moving_mean + 9.0)
    with pytest.raises(ConsistencyFailure, match=r"BN702 .* bn: moving_mean distance"):
        assert_baseline(stale, "net", rows(0), **options)
