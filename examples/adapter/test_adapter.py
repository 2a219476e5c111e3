"""`pytest examples/adapter`: a pipeline of one's own under the checks, by an adapter."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_bnconsistency import assert_batch_invariance, assert_train_eval_agreement, recalibrate

sys.path.insert(0, str(Path(__file__).parent))

from adapter import PipelineSubject
from pipelines import HastyPipeline, Pipeline


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (64, 4)).astype("float32")


def test_fault_it_learns_while_it_serves(x: np.ndarray) -> None:
    assert_batch_invariance(PipelineSubject(HastyPipeline(4)), x)


def test_remedy_it_learns_when_told(x: np.ndarray) -> None:
    assert_batch_invariance(PipelineSubject(Pipeline(4)), x)


def test_fault_one_batch_of_learning(x: np.ndarray) -> None:
    pipeline = Pipeline(4)
    pipeline.run(x, learn=True)
    assert_train_eval_agreement(PipelineSubject(pipeline), x, updates=1)


def test_remedy_recalibrated(x: np.ndarray) -> None:
    pipeline = Pipeline(4)
    pipeline.run(x, learn=True)
    recalibrate(PipelineSubject(pipeline), x)
    assert_train_eval_agreement(PipelineSubject(pipeline), x, updates=1)
