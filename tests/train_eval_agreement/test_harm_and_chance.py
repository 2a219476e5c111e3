"""What is harm, what may be chance, and what is neither."""

import keras
import numpy as np
import pytest

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.checks.train_eval_agreement.tolerances import (
    Excess,
    Quantity,
    doubted,
    proven,
)
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"


def rows(count):
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def undecided(x):
    """A classifier of ten classes that learned nothing: most rows are close calls."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    bn = keras.layers.BatchNormalization(momentum=0.9, name="bn")
    h = keras.layers.ReLU()(bn(keras.layers.Dense(16)(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy")
    y = np.random.default_rng(1).integers(0, 10, len(x))
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    recalibrate(model, x)
    return model, bn


@pytest.mark.thorough
@pytest.mark.parametrize(("shift", "verdict"), [(0.08, "passed"), (0.3, "vacuous")])
def test_close_calls_are_decided_otherwise(shift, verdict):
    """Without targets, decisions that change count where the outputs move as well."""
    x = rows(512)
    model, bn = undecided(x)
    bn.moving_mean.assign_add(shift * keras.ops.sqrt(bn.moving_variance))
    result = expect_verdict(CHECK, verdict, model, x)
    changed = next(e for e in result.evidence["excess"] if e["of"] == "changed decisions")
    assert changed["excess"] > 0.03


def two_outputs(k, x):
    """The loss of the second, noise in hundreds, is nearly all of the sum."""
    k.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    inputs = k.Input((8,))
    h = k.layers.BatchNormalization(momentum=0.99, name="bn")(k.layers.Dense(16)(inputs))
    first = k.layers.Dense(1, name="first")(k.layers.ReLU()(h))
    model = k.Model(inputs, [first, k.layers.Dense(1, name="second")(inputs)])
    targets = x.sum(1, keepdims=True), 500 * rng.normal(size=(len(x), 1)).astype(np.float32)
    model.compile(k.optimizers.SGD(1e-2), ["mse", "mse"])
    model.fit(x, list(targets), batch_size=32, epochs=2, verbose=0)
    return model, targets


@pytest.mark.thorough
def test_a_large_loss_does_not_hide_that_of_another_output(k):
    x = 3 + 2 * rows(256)
    model, targets = two_outputs(k, x)
    finding = expect_failure(CHECK, model, x, targets, rule="BN201", layer="bn")
    assert "first_loss above" in finding.bound
    recalibrate(model, x)
    expect_pass(CHECK, model, x, targets)


def sides(count):
    """A classifier of two sides, its momentum 0.5, and what it is trained on."""
    x = rows(count)
    y = (x.sum(1) > 0).astype(np.int32)
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8,))
    bn = keras.layers.BatchNormalization(momentum=0.5)
    h = keras.layers.ReLU()(bn(keras.layers.Dense(16)(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=16, epochs=8, verbose=0)
    return model, bn, x, y


@pytest.mark.thorough
def test_an_epoch_ends_on_a_batch_of_few_rows():
    """With a momentum of 0.5, half of the statistics are those of the last five rows."""
    model, _, x, y = sides(309)
    model.optimizer.learning_rate = 0.0
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    result = expect_verdict(CHECK, "vacuous", model, x, y, batch_size=16)
    loss = result.evidence["excess"][0]
    assert loss["excess"] > 2 * loss["tolerance"]
    assert loss["jitter"] > loss["excess"]


@pytest.mark.thorough
def test_fewer_rows_than_a_batch():
    """All that there is was no last batch of an epoch."""
    model, bn, x, y = sides(50)
    bn.moving_mean.assign_add(keras.ops.sqrt(bn.moving_variance))
    result = check_consistency(model, x, y, checks=[CHECK], batch_size=64)[CHECK]
    assert result.verdict != "passed"
    assert result.evidence["excess"][0]["jitter"] > 0


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 5])
def test_no_seed_makes_a_fault_of_what_an_epoch_ends_on(seed):
    """Few of such batches are seen, and these may be alike by chance; more are drawn."""
    model, bn, x, y = sides(309)
    given = {"batch_size": 16, "seed": seed}
    expect_verdict(CHECK, "vacuous", model, x, y, **given)
    bn.moving_mean.assign_add(2 * keras.ops.sqrt(bn.moving_variance))
    expect_verdict(CHECK, "failed", model, x, y, **given)


def two_groups(close, shift):
    """Two groups far apart, and rows between them: the first is tipped over by a shift."""
    far = np.where(np.arange(50) % 2, 2.0, -2.0) + np.linspace(-0.5, 0.5, 50)
    between = np.where(np.arange(close) % 2, -0.01, 0.01) * np.arange(1, close + 1)
    far = far[: 50 - close]
    x = np.concatenate([far - far.mean(), [0.001], between[1:]]).astype(np.float32)[:, None]
    inputs = keras.Input((1,))
    h = keras.layers.BatchNormalization(momentum=0.9, name="bn")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="head")(h))
    model.compile("sgd", "sparse_categorical_crossentropy")
    y = (x[:, 0] > 0).astype(np.int32)
    recalibrate(model, (x, y))
    bn = model.get_layer("bn")
    middle = float(bn.moving_mean[0]) / float(np.sqrt(bn.moving_variance[0] + bn.epsilon))
    model.get_layer("head").set_weights([np.array([[-3.0, 3.0]]), np.array([-3.0, 3.0]) * middle])
    bn.moving_mean.assign_add(shift * keras.ops.ones(1))
    return model, x, y


@pytest.mark.parametrize(
    ("close", "shift", "verdict"),
    [(10, 0.002, "vacuous"), (10, 0.0, "passed")],
)
@pytest.mark.every_case
def test_a_loss_clears_no_decisions_that_hang_on_which_rows_there_are(close, shift, verdict):
    model, x, y = two_groups(close, shift)
    result = expect_verdict(CHECK, verdict, model, x, y, updates=1000)
    loss, decisions = result.evidence["excess"]
    assert loss["excess"] < 0.1 * loss["tolerance"]
    if verdict == "vacuous":
        assert decisions["excess"] < decisions["tolerance"] < decisions["sampling"]
        assert "of the decisions wrong would fail" in result.summary
        assert "statistics of so few rows" in result.summary
        assert "give about" in result.hint
        few = {"max_rows": 40, "updates": 1000}
        result = expect_verdict(CHECK, verdict, model, np.repeat(x, 3, 0), np.repeat(y, 3), **few)
        assert "looks at more of the rows that were given" in result.hint


def excess(name, amount, counting, sampling_error=0.0):
    quantity = Quantity(name, 1.0, np.mean, np.array, str, counted=name != "loss")
    return Excess(quantity, amount, counting, sampling_error)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        ((0.10, 0.04, 0.06), []),
        ((-0.44, 0.14, 0.11), []),
        ((-0.30, 0.20, 0.37), ["wrong decisions"]),
        ((0.10, 0.04, 0.50), ["wrong decisions"]),
        ((-0.80, 0.04, 0.06), ["wrong decisions"]),
    ],
)
def test_a_loss_that_moves_does_not_speak_for_decisions_that_few_rows_leave_open(loss, named):
    found = [excess("loss", *loss), excess("wrong decisions", 0.67, 1.23, 1.2)]
    assert [e.quantity.name for e in doubted(found)] == named


@pytest.mark.parametrize(("loss", "named"), [(1.1, ["loss"]), (0.9, []), (-0.1, [])])
def test_a_loss_tells_that_many_wrong_decisions_of_few_rows_are_no_chance(loss, named):
    found = [excess("loss", loss, 0.3), excess("wrong decisions", 3.5, 1.9)]
    assert [e.quantity.name for e in proven(found, by_targets=True)] == named
    assert proven(found, by_targets=False) == []


def test_neither_is_harm_that_may_be_below_the_tolerance():
    found = [excess("loss", 1.1, 0.3), excess("wrong decisions", 1.5, 0.7)]
    assert proven(found, by_targets=True) == []


@pytest.mark.thorough
@pytest.mark.parametrize("loss", ["of shares", "of logits", "squared"])
def test_what_one_number_decides_is_counted(k, loss):
    """A net that knows little: its loss hardly moves where many of its decisions are wrong."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1, 1], (1024, 1)).astype(np.float32)
    y = np.where(rng.random(1024) < 0.65, x[:, 0] > 0, x[:, 0] < 0).astype(np.float32)
    bn = k.layers.BatchNormalization(name="bn", center=False, scale=False)
    last = k.layers.Dense(1, "sigmoid" if loss == "of shares" else None)
    model = k.Sequential([k.Input((1,)), bn, last])
    losses = {
        "of shares": k.losses.BinaryCrossentropy(),
        "of logits": k.losses.BinaryCrossentropy(from_logits=True),
        "squared": k.losses.MeanSquaredError(),
    }
    model.compile("sgd", losses[loss])
    weight, bias = (0.125, 0.5) if loss == "squared" else (0.5, 0.0)
    last.set_weights([np.full((1, 1), weight, np.float32), np.array([bias], np.float32)])
    recalibrate(model, x)
    expect_pass(CHECK, model, x, y)
    bn.moving_mean.assign([1.1])
    finding = expect_failure(CHECK, model, x, y, rule="BN209")
    assert "decisions wrong" in finding.bound
    assert "of the decisions right against" in finding.message


def test_decisions_that_a_metric_says_are_told_once(k):
    x = rows(256)
    y = (x[:, 0] > 0).astype(np.float32)
    bn = k.layers.BatchNormalization(name="bn", center=False, scale=False)
    model = k.Sequential([k.Input((8,)), bn, k.layers.Dense(1, "sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=[k.metrics.BinaryAccuracy(name="hits")])
    recalibrate(model, x)
    bn.moving_mean.assign(3 * np.ones(8))
    message = expect_failure(CHECK, model, x, y, rule="BN209").message
    assert "hits" in message
    assert "decisions" not in message
