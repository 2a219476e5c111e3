import inspect

import pytest

import pytest_bnconsistency
from pytest_bnconsistency.assertions import BnCheck


@pytest.mark.parametrize(
    "name",
    [
        "batch_invariance",
        "inference_purity",
        "train_eval_agreement",
        "frozen_stability",
        "statistics_health",
        "healthy_statistics",
    ],
)
def test_a_method_is_the_assertion(name):
    assertion = getattr(pytest_bnconsistency, f"assert_{name}")
    assert getattr(BnCheck, name) is assertion
    assert "options" in inspect.signature(assertion).parameters


def test_it_lives_as_long_as_the_session(project):
    """A function-scoped fixture trips Hypothesis' health check."""
    project.makepyfile(
        """
        from hypothesis import given, settings, strategies as st

        @settings(database=None)
        @given(st.integers(2, 9))
        def test_it(bn_check, fake, rows):
            assert bn_check.batch_invariance(fake(), rows=rows).evidence["rows"] == rows
        """
    )
    project.runpytest().assert_outcomes(passed=1)


ALL = """
    def test_it(bn_check, fake):
        model = fake(batch_invariance={0!r}, train_eval_agreement={1!r}, frozen_stability={2!r})
        report = bn_check.all(model{3})
        assert report["frozen_stability"].verdict == {2!r}
"""


@pytest.mark.parametrize(
    ("verdicts", "call", "outcome"),
    [
        (("passed", "passed", "passed"), "", "passed"),
        (("passed", "vacuous", "not applicable"), "", "passed"),
        (("passed", "vacuous", "passed"), ", vacuous='fail'", "failed"),
        (("passed", "vacuous", "passed"), ", checks=['train_eval_agreement']", "failed"),
        (("not applicable", "vacuous", "not applicable"), "", "skipped"),
        (("failed", "vacuous", "not applicable"), "", "failed"),
    ],
)
def test_all(project, verdicts, call, outcome):
    project.makepyfile(ALL.format(*verdicts, call))
    project.runpytest().assert_outcomes(**{outcome: 1})


def test_all_tells_every_failure(project):
    project.makepyfile(
        """
        import pytest
        from pytest_bnconsistency import ConsistencyFailure

        def test_raise(bn_check, fake):
            with pytest.raises(ConsistencyFailure) as caught:
                bn_check.all(fake(batch_invariance="failed", frozen_stability="failed"))
            assert [r.check for r in caught.value.results] == [
                "batch_invariance", "frozen_stability"
            ]

        def test_show(bn_check, fake):
            bn_check.all(fake(batch_invariance="failed", frozen_stability="failed"))
        """
    )
    result = project.runpytest("-rf")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * BN101 fake-leak: batch_invariance is off by 7",
            "E * BN101 fake-leak: frozen_stability is off by 7",
            "FAILED *::test_show - BN101 fake-leak: batch_invariance is off by 7*",
        ]
    )
