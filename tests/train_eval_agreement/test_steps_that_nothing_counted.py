"""Trained by a loop of one's own: the model's optimizer made none of the steps and counts none."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "train_eval_agreement"


def test_who_made_few_updates_is_asked_how_many(k, disagrees):
    x = np.random.default_rng(0).normal(3, 2, (256, 4)).astype(np.float32)
    bn = k.layers.BatchNormalization(momentum=0.99, name="bn")
    model = k.Sequential([k.Input((4,)), bn, k.layers.Dense(2)])
    for step in range(96):
        start = step % 8 * 32
        model(x[start : start + 32], training=True)
    finding = expect_failure(CHECK, model, x, rule="BN204", layer="bn")
    assert "updates=..." in finding.remedy
    assert "of the initial values seem to be left, as after 9" in finding.remedy
    finding = disagrees(model, x, None, rule="BN201", updates=96)
    assert "after 96 updates leaves 38.1% of the initial values" in finding.cause


def test_who_has_no_initial_values_left_is_not_asked(k):
    x = np.random.default_rng(0).normal(3, 2, (256, 4)).astype(np.float32)
    bn = k.layers.BatchNormalization(momentum=0.5, name="bn")
    model = k.Sequential([k.Input((4,)), bn, k.layers.Dense(2)])
    for _ in range(50):
        model(x, training=True)
        model(x + np.array([4, -3, 0, 1], np.float32), training=True)
    finding = expect_failure(CHECK, model, x, rule="BN204", layer="bn")
    assert "updates=" not in finding.remedy


def adapted(k, rows, others, y):
    """Trained on the targets of some rows, while others are in the same batches."""
    k.utils.set_random_seed(0)
    bn = k.layers.BatchNormalization(momentum=0.9, name="bn")
    hidden = [k.layers.Dense(16), bn, k.layers.ReLU()]
    model = k.Sequential([k.Input((8,)), *hidden, k.layers.Dense(1)])
    optimizer = k.optimizers.Adam(1e-2)
    model.compile(k.optimizers.Adam(3e-2), "mse")  # for `evaluate`: it makes no step

    @tf.function
    def step(some, targets):
        with tf.GradientTape() as tape:
            outputs = model(some, training=True)[: len(targets)]
            loss = tf.reduce_mean((outputs - targets) ** 2)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    for start in [*range(0, len(rows), 32)] * 10:
        part = slice(start, start + 32)
        step(np.concatenate([rows[part], others[part]]), y[part])
    return model


@pytest.mark.thorough
def test_steps_of_an_optimizer_that_is_new_establish_no_lag(k):
    """The other domain alone: its statistics are not those of both, however fast weights move."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (512, 8)).astype(np.float32)
    y = rows[:, :1] * 2 + rows[:, 1:2]
    others = (rows + 2 * np.sign(rng.normal(size=8))).astype(np.float32)
    model = adapted(k, rows, others, y)
    finding = expect_failure(CHECK, model, others, y, rule="BN204", layer="bn")
    assert "not established" in finding.cause
    assert finding.remedy.startswith("give data as in training")
    recalibrate(model, others)
    expect_pass(CHECK, model, others, y)


@pytest.mark.parametrize(
    ("steps", "said"),
    [(0, "not copied, saved"), (25, "not established; either"), (60, "in inference")],
)
def test_weights_that_know_their_targets_in_both_modes_tell_no_cause(k, steps, said):
    """A loop went on in inference mode, from fresh statistics, with a net that `fit` trained."""
    k.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = np.arange(256) % 3
    x = (np.eye(8)[y] * 2 + rng.normal(5, 1, (256, 8))).astype(np.float32)
    bn = k.layers.BatchNormalization(momentum=0.9, name="bn")
    hidden = [k.layers.Dense(16), bn, k.layers.ReLU()]
    model = k.Sequential([k.Input((8,)), *hidden, k.layers.Dense(3)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.Adam(1e-2), loss)
    model.fit(x, y, epochs=10, verbose=0)
    bn.moving_mean.assign(np.zeros(16))
    bn.moving_variance.assign(np.ones(16))
    optimizer = k.optimizers.Adam(1e-2)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = loss(y, model(x))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
    finding = expect_failure(CHECK, model, x, y, rule="BN203", layer="bn")
    assert said in finding.cause
    assert finding.cause_tested is (steps != 25)


@pytest.mark.thorough
@pytest.mark.parametrize("small", [0.05, 1.0], ids=("far below 1", "about 1"))
def test_initial_values_that_leave_outputs_which_hardly_vary(k, small):
    """75 % of 1 in far smaller variances; the rest is of earlier weights, as after training."""
    k.utils.set_random_seed(0)
    x = np.random.default_rng(0).standard_normal((256, 4)).astype(np.float32)
    names = ("first", "last")
    kernels = [k.initializers.RandomNormal(0, small / 2, seed=seed) for seed in (1, 2)]
    hidden = [
        layer
        for name, kernel in zip(names, kernels, strict=True)
        for layer in (
            k.layers.Dense(8, kernel_initializer=kernel),
            k.layers.BatchNormalization(momentum=0.999, name=name),
            k.layers.ReLU(),
        )
    ]
    model = k.Sequential([k.Input((4,)), *hidden, k.layers.Dense(3)])
    recalibrate(model, x)
    expect_pass(CHECK, model, x)
    for bn in map(model.get_layer, names):
        bn.moving_mean.assign(0.25 * 0.7 * bn.moving_mean)
        bn.moving_variance.assign(0.75 + 0.25 * 2 * bn.moving_variance)
    if small == 1:
        expect_failure(CHECK, model, x, rule="BN201")
        return
    finding = expect_failure(CHECK, model, x, rule="BN201", cause_tested=True)
    assert "of the initial values are still in the statistics (measured" in finding.cause
