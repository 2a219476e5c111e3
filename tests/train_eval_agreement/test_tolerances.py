"""The numbers that decide whether evaluation is worse, each beside a calculation by hand."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency.assertions import check_context
from pytest_bnconsistency.checks.train_eval_agreement import tolerances
from pytest_bnconsistency.checks.train_eval_agreement.sampling_error import Alternatives
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.measurement.compared_outputs import Side

ROWS = 32
DISTANCE = "distance of the outputs"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def data(rng):
    return Data(rng.standard_normal((ROWS, 4), np.float32))


@pytest.fixture
def reference(rng):
    return Side([rng.standard_normal((ROWS, 2))])


@pytest.fixture
def stored(reference, rng):
    return Side([reference.outputs[0] + 0.3 * rng.standard_normal((ROWS, 2))])


def context_of(data, loss=None):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    if loss is not None:
        model.compile("sgd", loss)
    return check_context(model, data.x, None, {})


def test_the_distance_of_outputs_row_by_row(data, stored, reference):
    context = context_of(data)
    (distance,) = tolerances.quantities(context, data, stored, reference)
    assert (distance.name, distance.counted) == (DISTANCE, False)
    assert (distance.sure, distance.deviations) == (1, tolerances.DEVIATIONS)
    assert distance.certain == tolerances.ANOTHER_ROW / distance.tolerance
    mine, its = stored.outputs[0], reference.outputs[0]
    squares = (((mine - its) / its.std(0).max()) ** 2).mean(1)
    whole = np.sqrt(squares.mean())
    assert distance.of(stored) == pytest.approx(whole)
    np.testing.assert_allclose(distance.parts(stored), (squares / whole + whole) / 2)
    assert not distance.parts(reference).any()


def test_outputs_of_a_model_with_a_loss_must_move_unmistakably(data, stored, reference):
    (distance,) = tolerances.quantities(context_of(data, "mse"), data, stored, reference)
    assert distance.name == DISTANCE
    assert (distance.sure, distance.deviations) == (tolerances.CLEAR, tolerances.UNMISTAKABLE)
    assert distance.of(stored) > distance.of(reference) == 0


def test_scores_decide_without_targets_if_the_loss_says_that_they_are_scores(
    data, stored, reference
):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    decisions, distance = tolerances.quantities(context_of(data, loss), data, stored, reference)
    changed = stored.outputs[0].argmax(1) != reference.outputs[0].argmax(1)
    assert decisions.name == "changed decisions"
    assert decisions.of(stored) == changed.mean() > 0
    assert (distance.name, distance.negligible) == (DISTANCE, 1 / tolerances.CLEAR)


def with_loss(side, y, weight):
    rows = ((side.outputs[0] - y) ** 2).mean(1)
    return Side(side.outputs, {"loss": float((rows * weight).mean())})


def test_a_loss_in_parts_with_weights(data, stored, reference, rng):
    y, weight = rng.standard_normal((ROWS, 2)), rng.uniform(0.5, 2, ROWS)
    known = Data(data.x, y, weight)
    mine, its = (with_loss(side, y, weight) for side in (stored, reference))
    (loss,) = tolerances.quantities(context_of(data, "mse"), known, mine, its)
    assert (loss.name, loss.counted) == ("loss", False)
    parts = loss.parts(mine)
    assert parts.shape == (tolerances.PARTS,)
    assert parts.mean() == pytest.approx(loss.of(mine), rel=1e-5)
    assert np.ptp(parts) > 0


def test_a_tenth_of_the_loss_of_a_constant_answer_is_the_least_unit(data, reference):
    y = reference.outputs[0]
    known, perfect = Data(data.x, y), Side([y], {"loss": 0.0})
    units = tolerances.loss_units(context_of(data, "mse"), known, perfect)
    assert units["loss"] == pytest.approx(0.1 * ((y - y.mean(0)) ** 2).mean(), rel=1e-5)


def test_answers_that_are_no_decisions_any_more_are_all_wrong(data):
    y = np.arange(ROWS) % 2
    known, right = Data(data.x, y), Side([y[:, None].astype(np.float32)])
    beyond = Side([np.full((ROWS, 1), 5, np.float32)])
    (wrong,) = tolerances.quantities(context_of(data), known, beyond, right)
    assert (wrong.name, wrong.of(right), wrong.of(beyond)) == ("wrong decisions", 0, 1)


def test_targets_tell_by_a_loss_or_by_decisions(data):
    y = np.arange(ROWS) % 2
    scores = Side([np.eye(2)[y]])
    assert tolerances.by_targets(Data(data.x, y), scores)
    assert not tolerances.by_targets(data, scores)
    assert tolerances.by_targets(data, Side(scores.outputs, {"loss": 1.0}))


def test_where_single_rows_cannot_be_compared(data, stored, reference):
    unknown = tolerances.Quantity("loss", 0.5, lambda side: 0.0, lambda side: None, str)
    found = tolerances._counting(unknown, stored, reference, amount=-3, rows=ROWS, moved=1)
    assert found == pytest.approx(tolerances.UNLIKE * 3 * 0.5 / np.sqrt(ROWS))


def test_an_excess_counts_from_the_worse_of_reference_and_converged(data, reference):
    """Chance of few converged averages and of few halves is in it, in tolerances."""

    def moved(by):
        return Side([reference.outputs[0] * (1 + by)])

    context = context_of(data)
    nothing = Alternatives([], [], [])
    (plain,) = tolerances.excesses(context, data, moved(1.0), reference, nothing)
    distance = tolerances.quantities(context, data, moved(1.0), reference)[0]
    assert plain.amount == pytest.approx(distance.of(moved(1.0)) / distance.tolerance)
    assert (plain.sampling_error, plain.jitter) == (0, 0)
    others = Alternatives([moved(0.2), moved(0.4)], [moved(0.1), moved(0.3)], [])
    (known,) = tolerances.excesses(context, data, moved(1.0), reference, others)
    unit = distance.of(moved(1.0)) / distance.tolerance
    assert known.amount == pytest.approx(0.8 * unit)
    assert known.sampling_error == pytest.approx(np.sqrt((0.2**2 + 0.4**2) / 2) * unit)
    deviation = np.std([0.1, 0.3], ddof=1)
    assert known.jitter == pytest.approx(tolerances.OF_FEW * deviation * unit)
    assert known.noise == pytest.approx(
        np.sqrt(known.counting**2 + known.sampling_error**2 + known.jitter**2)
    )
