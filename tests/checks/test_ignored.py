"""What a user accepts is taken out of a result, and is still told."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import ConsistencyFailure, assert_batch_invariance, check_consistency
from pytest_bnconsistency.checks.ignored import without_ignored
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.results import CheckResult, Finding, Report, Table, Verdict


def found(rule, *layers):
    return Finding(
        rule=rule,
        slug="slug",
        layer=layers[0],
        message="it moves",
        cause="cause",
        cause_tested=True,
        remedy="remedy",
        layers=layers,
    )


def failed(*findings, warnings=(), check="frozen_stability"):
    table = Table(("a",), (("1",),))
    return CheckResult(
        check=check,
        verdict=Verdict.FAILED if findings else Verdict.PASSED,
        findings=findings,
        warnings=warnings,
        summary="all is well",
        table=table,
        notes=("a note",),
    )


@pytest.mark.parametrize("entry", ["BN301", "BN301 base/*", "BN301 base/bn", "BN301 *"])
def test_a_check_passes_whose_findings_are_all_ignored(entry):
    result = without_ignored(failed(found("BN301", "base/bn")), {entry: "an old layer"})
    assert result.verdict is Verdict.PASSED
    assert result.findings == ()
    (one,) = result.ignored
    assert (one.finding.layer, one.reason, one.entries) == ("base/bn", "an old layer", (entry,))
    assert result.summary == "nothing was found but what is accepted"
    assert result.table is not None
    assert result.unmatched == ()
    said = text.render(result)
    assert "ignored    BN301 slug: it moves; because: an old layer" in said
    said = str(Report("model", (result,)))
    assert said.endswith("is accepted; ignored on purpose: BN301 (an old layer)")


@pytest.mark.parametrize("entry", ["BN302", "BN301 top/*", "BN301 bn", "BN301 BASE/*"])
def test_other_findings_stay(entry):
    result = without_ignored(failed(found("BN301", "base/bn")), {entry: "why"})
    assert result.verdict is Verdict.FAILED
    assert [f.rule for f in result.findings] == ["BN301"]
    assert result.ignored == ()
    assert result.unmatched == (entry,)
    assert f"nothing: {entry!r} matches no finding" in text.render(result)


def test_one_of_two_findings():
    result = without_ignored(failed(found("BN301", "a"), found("BN303", "b")), {"BN301": "why"})
    assert result.verdict is Verdict.FAILED
    assert [f.rule for f in result.findings] == ["BN303"]
    assert [one.finding.rule for one in result.ignored] == ["BN301"]
    assert str(Report("model", (result,))).endswith("; ignored on purpose: BN301 (why)")


@pytest.mark.parametrize(
    ("ignore", "passes"),
    [
        ({"BN301 a": "one"}, False),
        ({"BN301 a": "one", "BN301 b": "two"}, True),
        ({"BN301 ?": "both"}, True),
        ({"BN301": "both"}, True),
    ],
)
def test_a_finding_about_several_layers_is_accepted_as_a_whole(ignore, passes):
    result = without_ignored(failed(found("BN301", "a", "b")), ignore)
    assert (result.verdict is Verdict.PASSED) == passes
    assert result.unmatched == ()
    if passes:
        assert result.ignored[0].reason == "; ".join(ignore.values())
    else:
        assert "BN301 is about 2 layers, and ignore 'BN301 a' matches 1 of them" in str(
            result.notes
        )


def test_warnings_are_accepted_as_well():
    warning = found("BN406", "bn")
    result = without_ignored(failed(warnings=(warning,)), {"BN406": "ported weights"})
    assert result.verdict is Verdict.PASSED
    assert result.warnings == ()
    assert result.summary == "all is well"
    assert [one.finding for one in result.ignored] == [warning]


def test_an_entry_is_unmatched_in_the_check_of_its_rule_only():
    entries = {"BN301": "why", "BN104": "why"}
    assert without_ignored(failed(), entries).unmatched == ("BN301",)


@pytest.mark.parametrize("verdict", [Verdict.VACUOUS, Verdict.NOT_APPLICABLE])
def test_what_was_not_decided_matches_nothing(verdict):
    result = CheckResult(check="frozen_stability", verdict=verdict)
    assert without_ignored(result, {"BN301": "why"}) == result


def test_the_plain_form_has_them():
    plain = without_ignored(failed(found("BN301", "a")), {"BN301": "why", "BN302": "so"}).to_dict()
    assert plain["ignored"][0]["reason"] == "why"
    assert plain["ignored"][0]["finding"]["rule"] == "BN301"
    assert plain["unmatched"] == ["BN302"]


@pytest.mark.thorough
def test_what_findings_are_about(k):
    """All layers of a finding are in it, so that none is accepted along with another."""
    x = np.random.default_rng(0).standard_normal((8, 4), np.float32)
    inputs = h = k.Input((4,))
    for name in ("one", "two"):
        h = k.layers.BatchNormalization(name=name)(h, training=True)
    model = k.Model(inputs, k.layers.Dense(2)(h))
    model.compile("sgd", "mse")
    model.get_layer("one").trainable = model.get_layer("two").trainable = False
    for layer in (model.get_layer("one"), model.get_layer("two")):
        layer.moving_variance.assign(-np.ones(4))
    report = check_consistency(model, x, x[:, :2])
    several = {f.rule: set(f.layers) for result in report for f in result.findings}
    assert "BN402" in several
    assert all(layers == {"one", "two"} for layers in several.values())


@pytest.mark.thorough
def test_a_leak_that_is_meant(k):
    x = np.random.default_rng(0).standard_normal((8, 4), np.float32)
    leak = k.layers.Lambda(lambda x: x - tf.reduce_mean(x, 0, keepdims=True), name="leak")
    model = k.Sequential([k.Input((4,)), leak, k.layers.Dense(2)])
    with pytest.raises(ConsistencyFailure, match="BN101"):
        assert_batch_invariance(model, x, ignore={"BN101 head/*": "why"})
    result = assert_batch_invariance(model, x, ignore={"BN101 leak": "it is meant", "BN104": "no"})
    assert [one.finding.layer for one in result.ignored] == ["leak"]
    assert result.unmatched == ("BN104",)
    report = check_consistency(
        model, x, checks=["batch_invariance"], ignore={"BN101": "it is meant"}
    )
    assert report.ok
    assert str(report).endswith("accepted; ignored on purpose: BN101 (it is meant)")
