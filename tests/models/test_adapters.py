"""Kinds of models that other packages bring, by an entry point."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import BNConsistencyError, assert_batch_invariance
from pytest_bnconsistency import models as subjects
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

X = np.random.default_rng(0).standard_normal((16, 4), np.float32)

PACKAGE = """
from pytest_bnconsistency.models import Subject

class Box:
    def __init__(self, leaks): self.leaks = leaks
    def score(self, x): return x - (sum_of(x) if self.leaks else 1)

def sum_of(x):
    import tensorflow as tf
    return tf.reduce_mean(x, 0)

class BoxSubject(Subject):
    @classmethod
    def accepts(cls, model): return isinstance(model, Box)
    def call(self, x, training): return self.model.score(x)

not_an_adapter = 3
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that names `value` as its adapter; its module."""
    names = iter(["boxes", "more_boxes"])

    def install(value):
        name = next(names)
        (tmp_path / f"{name}.py").write_text(PACKAGE, encoding="utf-8")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(
            f"[{subjects.ADAPTERS}]\nboxes = {name}:{value}\n", encoding="utf-8"
        )
        monkeypatch.syspath_prepend(tmp_path)
        subjects._adapters.cache_clear()
        return __import__(name)

    yield install
    monkeypatch.undo()
    subjects._adapters.cache_clear()


def test_an_adapter_by_its_entry_point(installed):
    boxes = installed("BoxSubject")
    expect_failure("batch_invariance", boxes.Box(True), X, rule="BN101", layer="Box")
    expect_pass("batch_invariance", boxes.Box(False), X)
    result = expect_verdict("train_eval_agreement", "not applicable", boxes.Box(False), X)
    assert result.summary == "Box has no argument that tells it to train"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("Gone", "can't be loaded"), ("not_an_adapter", r"has no accepts\(model\)")],
)
def test_an_adapter_that_cannot_be_used_is_named(installed, value, sentence):
    installed(value)
    with pytest.raises(BNConsistencyError, match=f"the adapter boxes = .*{sentence}"):
        assert_batch_invariance(lambda x: x, X)


def test_a_subject_is_taken_as_it_is():
    class Shifting(Subject):
        """All that an adapter has to say, and what it may say besides."""

        mode = "learn"
        step = tf.Variable(tf.zeros(4), trainable=False)

        @classmethod
        def accepts(cls, model):
            return False

        def call(self, x, training):
            if not training:
                return x - self.step
            mean = tf.reduce_mean(x, 0)
            self.step.assign(0.5 * self.step + 0.5 * mean)
            return x - mean

        def variables(self):
            return [self.step]

    subject = Shifting(object())
    expect_pass("batch_invariance", subject, X)
    expect_pass("inference_purity", subject, X)
    subject.step.assign(tf.reduce_mean(X + 30, 0) / 2)
    expect_failure(
        "train_eval_agreement", subject, X + 30, updates=1, rule="BN201", layer="object"
    )
