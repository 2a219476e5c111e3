"""More of the conftest of inner runs: the check of baselines, with a fake model's facts.

It stands behind `fake_checks.py` in one file.
"""

import contextlib

import pytest

from pytest_bnconsistency.checks.baseline import check as baseline
from pytest_bnconsistency.checks.baseline.facts import Facts
from pytest_bnconsistency.checks.baseline.observe import _results
from pytest_bnconsistency.checks.baseline.verdicts import verdict_facts


class NoNoise:
    def __init__(self, context):
        pass

    def __call__(self, name):
        return 0.0

    def put_down(self, facts):
        return facts


def facts_of(context, name):
    given = context.subject.model.verdicts
    facts, weights = given.get("facts", {"momentum": 0.99}), given.get("weights", {})
    verdicts = verdict_facts(_results(context))
    return Facts(
        model=name, graph=("bn",), weights=weights, inventory={"bn": facts}, verdicts=verdicts
    )


def pytest_sessionstart(session):
    patch = pytest.MonkeyPatch()
    session.config.add_cleanup(patch.undo)
    patch.setattr(baseline, "facts_of", facts_of)
    patch.setattr(baseline, "OutputNoise", NoNoise)
    patch.setattr(baseline, "preserve_state", contextlib.nullcontext)
