"""The conftest of inner runs: a fake model tells each fake check its verdict."""

import dataclasses

import numpy as np
import pytest

from pytest_bnconsistency.checks import check_context, registry
from pytest_bnconsistency.errors import UnsupportedSubjectError
from pytest_bnconsistency.results import CheckResult, Finding, Verdict


class FakeModel:
    def __init__(self, **verdicts):
        self.verdicts = verdicts

    def __call__(self, x):
        raise NotImplementedError


class FakeSubject:
    def __init__(self, model):
        if not isinstance(model, FakeModel):
            raise UnsupportedSubjectError(f"{model!r} is no model; expected a FakeModel")
        self.model, self.name = model, getattr(model, "name", "fake")

    def inputs(self):
        return None


class FakeCheck(registry.Check):
    def __init__(self, name):
        super().__init__(name, "what the fake model says", needs="model", helps="")

    def decide(self, context):
        verdict = Verdict(context.subject.model.verdicts.get(self.name, "passed"))
        finding = Finding(
            rule="BN101",
            slug="fake-leak",
            layer="dense",
            message=f"{self.name} is off by 7",
            cause="fake",
            cause_tested=True,
            remedy="none",
        )
        evidence = dataclasses.asdict(context.settings) | {"number": np.float32(0.5)}
        if context.data is not None:
            evidence["x"], evidence["y"] = context.data.x, context.data.y
            evidence["sample_weight"] = context.data.sample_weight
        return CheckResult(
            check=self.name,
            verdict=verdict,
            findings=(finding,) if verdict is Verdict.FAILED else (),
            summary=f"nothing to see in {self.name}",
            hint="look elsewhere" if verdict is Verdict.VACUOUS else "",
            evidence=evidence,
        )


MORE = {}
"""Checks that are no fakes."""


def pytest_configure(config):
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    names = ("batch_invariance", "train_eval_agreement", "frozen_stability")
    patch.setattr(check_context, "subject_of", FakeSubject)
    patch.setattr(registry, "CHECKS", {name: FakeCheck(name) for name in names} | MORE)


@pytest.fixture(scope="session")
def fake():
    return FakeModel
