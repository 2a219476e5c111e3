"""How far sampling moves moving averages, beside a calculation by hand."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency.assertions import check_context
from pytest_bnconsistency.checks.population_statistics import estimated
from pytest_bnconsistency.checks.train_eval_agreement import sampling_error
from pytest_bnconsistency.checks.train_eval_agreement.measure import measured

pytestmark = pytest.mark.thorough
MOMENTUM = 0.9


@pytest.fixture
def drawn():
    """Rows of independent features, and what the model says of them under drawn statistics."""

    def draw(rows, batch_size, features=2):
        x = np.random.default_rng(0).standard_normal((rows, features), np.float32)
        layer = keras.layers.BatchNormalization(momentum=MOMENTUM, center=False, scale=False)
        model = keras.Sequential([keras.Input((features,)), layer])
        context = check_context(model, x, None, {"batch_size": batch_size})
        known = estimated(context)
        m = measured(context, context.given, known, None)
        return x, sampling_error.alternatives(context, m, known)

    return draw


def mean_of(x, side):
    """The moving mean under which two rows come out as they do."""
    first, second = side.outputs[0][:2]
    return x[0] - first * (x[0] - x[1]) / (first - second)


def test_moving_averages_jitter_as_those_over_batches_of_endless_rows(drawn):
    rows, size = 32, 16
    x, known = drawn(rows, size, features=256)
    assert len(known.converged) == sampling_error.DRAWS
    away = [mean_of(x, side) - x.mean(0) for side in known.converged]
    of_a_batch = x.std(0, ddof=1) / np.sqrt(size)
    expected = of_a_batch * np.sqrt((1 - MOMENTUM) / (1 + MOMENTUM))
    assert np.sqrt(np.mean((away / expected) ** 2)) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(("last", "tells"), [(1, False), (2, True), (6, True), (7, False)])
def test_a_last_batch_counts_where_it_moves_averages_as_much_as_all_others(drawn, last, tells):
    size = 32  # an average of momentum 0.9 moves by (1 - 0.9 ** 2) * 32 = 6.1 rows' worth
    _, known = drawn(size + last, size)
    assert len(known.ended) == (sampling_error.LAST_BATCHES if tells else 0)
