"""Stored statistics to which something was done: named by what undoes it."""

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK, MISPLACED, FORM = "train_eval_agreement", "BN212", "BN214"


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return (rng.normal(3, 2, (512, 6)) * 10 ** np.linspace(-1, 0.5, 6)).astype(np.float32)


def net(k, x, widths=(12, 12)):
    inputs = h = k.Input((6,))
    for index, width in enumerate(widths):
        h = k.layers.Dense(width, kernel_initializer=k.initializers.RandomNormal(0, 1.5))(h)
        h = k.layers.BatchNormalization(momentum=0.9, name=f"bn{index}")(h)
        h = k.layers.ReLU()(h)
    model = k.Model(inputs, k.layers.Dense(3)(h))
    return settled(model, x)


def settled(model, x):
    model.compile("sgd", "mse")
    step = tf.function(lambda batch: model(batch, training=True))
    for _ in range(8):
        for start in range(0, len(x), 32):
            step(tf.constant(x[start : start + 32]))
    model.optimizer.iterations.assign(128)
    return model


def vectors(model, *names):
    for name in names:
        bn = model.get_layer(name)
        yield from (bn.moving_mean, bn.moving_variance)


def rewrite(variables, change):
    for variable in variables:
        variable.assign(change(variable.numpy()).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.sqrt, "the square root of the variance"),
        (np.square, "the square of the variance"),
        (np.reciprocal, "1 / the variance"),
        (lambda v: 1 / np.sqrt(v), "1 / the standard deviation"),
        pytest.param(np.log, "the logarithm of the variance", marks=pytest.mark.thorough),
    ],
)
def test_something_else_stored_for_a_variance(k, disagrees, x, change, said):
    model = net(k, x)
    expect_pass(CHECK, model, x)
    rewrite((model.get_layer(name).moving_variance for name in ("bn0", "bn1")), change)
    finding = disagrees(model, x, rule=FORM)
    assert said in finding.cause
    assert "bn0" in finding.cause
    assert "store the variance" in finding.remedy


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["bn0", "bn1"])
def test_the_mean_of_the_squares_stored_for_a_variance(k, disagrees, x, name):
    model = net(k, x)
    bn, y = model.get_layer(name), model.predict(x, verbose=0)
    rewrite([bn.moving_variance], lambda v: v + np.asarray(bn.moving_mean) ** 2)
    assert f"of {name} is the mean of the squares" in disagrees(model, x, y, rule=FORM).cause


def test_means_with_the_other_sign(k, disagrees, x):
    model = net(k, x)
    rewrite([model.get_layer("bn1").moving_mean], np.negative)
    finding = disagrees(model, x, rule=FORM)
    assert "the mean of bn1 is the mean with its sign turned round" in finding.cause
    assert "store the mean itself" in finding.remedy


@pytest.mark.thorough
def test_data_with_the_other_sign_is_no_sign_of_the_mean(k, x):
    """It turns the means of the first layer round, and changes what comes after as well."""
    inputs = k.Input((6,))
    first = k.layers.BatchNormalization(momentum=0.9, name="first")(inputs)
    hidden = k.layers.ReLU()(k.layers.Dense(12)(first))
    second = k.layers.BatchNormalization(momentum=0.9, name="second")(hidden)
    model = settled(k.Model(inputs, k.layers.Dense(3)(second)), x)
    expect_failure(CHECK, model, -x, rule="BN209", cause_contains="those of -x")
    expect_pass(CHECK, model, x)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("means", "variances", "said"),
    [
        (2, 2, "the stored means and variances of bn0 and bn1 are 2"),
        (1, 32, "the stored variances of bn0 and bn1 are 3"),
        (0.3, 0.3, "the stored means and variances of bn0 and bn1 are 0.3"),
    ],
)
def test_statistics_that_are_a_common_factor_off(k, disagrees, x, means, variances, said):
    model = net(k, x)
    rewrite((model.get_layer(name).moving_mean for name in ("bn0", "bn1")), lambda v: means * v)
    rewrite(
        (model.get_layer(name).moving_variance for name in ("bn0", "bn1")),
        lambda v: variances * v,
    )
    finding = disagrees(model, x, rule=FORM)
    assert said in finding.cause
    assert ("divide what is summed" if variances > 1 else "only what is summed") in finding.remedy


@pytest.mark.thorough
@pytest.mark.parametrize("times", [3.6, 0.4])
def test_variances_that_are_no_count_off(k, x, times):
    """Data of another spread has any number; what was summed and not divided a whole one."""
    model = net(k, x)
    rewrite((model.get_layer(n).moving_variance for n in ("bn0", "bn1")), lambda v: times * v)
    expect_failure(CHECK, model, x, rule="BN204", cause_contains="not established")


@pytest.mark.thorough
def test_weights_of_another_scale_are_no_common_factor(k, x):
    """Variances grow by the square of what means do."""
    model = net(k, x)
    for layer in model.layers:
        if isinstance(layer, k.layers.Dense):
            layer.kernel.assign(layer.kernel / 3)
    finding = expect_failure(CHECK, model, x, rule="BN213", without=("times those of this data",))
    assert "by 0.33" in finding.cause


@pytest.mark.thorough
def test_inputs_standardised_are_no_common_factor(k):
    """Each feature is at a scale of its own: channels then differ in their factors."""
    rng = np.random.default_rng(0)
    x = [
        (4 + rng.uniform(1, 3, 8) * rng.normal(1, 1.4, (512, 8))).astype(np.float32) for _ in "ab"
    ]
    inputs = [k.Input((8,)) for _ in x]
    normalised = [
        k.layers.BatchNormalization(momentum=0.9, name=name)(k.layers.Dense(16)(given))
        for name, given in zip("ab", inputs, strict=True)
    ]
    model = k.Model(inputs, k.layers.Dense(3)(k.layers.Concatenate()(normalised)))
    model.compile("sgd", "mse")
    for _ in range(5):
        for start in range(0, 512, 32):
            model([tf.constant(leaf[start : start + 32]) for leaf in x], training=True)
    model.optimizer.iterations.assign(80)
    standard = [(leaf - leaf.mean(0)) / leaf.std(0) for leaf in x]
    found = check_consistency(model, standard, checks=[CHECK])[CHECK].findings[0]
    assert found.rule != FORM, found.cause
    expect_pass(CHECK, model, x)


@pytest.mark.thorough
def test_a_deviation_stored_for_one_of_two_variances(k, disagrees, x):
    model = net(k, x)
    y = model.predict(x, verbose=0)
    rewrite([model.get_layer("bn1").moving_variance], np.sqrt)
    cause = disagrees(model, x, y, rule=FORM).cause
    assert "of bn1 is the square root" in cause


def barely_trained(k):
    """64 updates at momentum 0.95 leave 4 % of the initial values; the inputs are small."""
    k.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 256)
    x = rng.normal(size=(3, 10))[y] * 1.3 + rng.normal(size=(256, 10))
    x = (0.1 * x * rng.uniform(0.5, 1.5, 10)).astype("float32")
    model = k.Sequential([k.Input((10,))])
    for index in (0, 1):
        model.add(k.layers.Dense(24))
        model.add(k.layers.BatchNormalization(momentum=0.95, name=f"bn{index}"))
        model.add(k.layers.ReLU())
    model.add(k.layers.Dense(3, activation="softmax"))
    model.compile(k.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=6, batch_size=32, verbose=0)
    model.optimizer.learning_rate.assign(1e-4)
    model.fit(x, y, epochs=2, batch_size=32, verbose=0)
    return model, x, y


@pytest.mark.thorough
def test_a_deviation_stored_beside_what_is_left_of_the_initial_values(k, disagrees):
    model, x, y = barely_trained(k)
    rewrite([v for v in vectors(model, "bn0", "bn1") if "variance" in v.name], np.sqrt)
    assert "of bn0 and bn1 is the square root" in disagrees(model, x, y, rule=FORM).cause


@pytest.mark.thorough
def test_a_deviation_stored_by_a_net_of_which_few_updates_are_counted(k, disagrees, x):
    """An optimizer made after training knows of 13, which would leave 88 %."""
    model = net(k, x)
    for name in ("bn0", "bn1"):
        model.get_layer(name).momentum = 0.99
    model.optimizer.iterations.assign(13)
    y = model.predict(x, verbose=0)
    rewrite([v for v in vectors(model, "bn0", "bn1") if "variance" in v.name], np.sqrt)
    assert "of bn0 and bn1 is the square root" in disagrees(model, x, y, rule=FORM).cause


@pytest.mark.thorough
def test_initial_values_are_no_deviation(k, disagrees):
    model, x, y = barely_trained(k)
    for index, variable in enumerate(vectors(model, "bn0", "bn1")):
        rewrite([variable], lambda value, start=index % 2: 0.75 * value + 0.25 * start)
    assert "of the initial values are in" in disagrees(model, x, y, rule="BN201").cause


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (lambda v: np.roll(v, 1), "bn0 are shifted by 1"),
        (lambda v: np.roll(v, -3), "bn0 are shifted by 3"),
        (lambda v: v[::-1], "bn0 are in reverse order"),
        (lambda v: v.reshape(3, 4).T.ravel(), "transposed"),
        (lambda v: v[[5, 0, 7, 2, 11, 4, 1, 9, 3, 10, 8, 6]], "bn0 are in another order"),
    ],
    ids=["by 1", "by 3", "reversed", "transposed", "mixed"],
)
def test_channels_in_another_order(k, disagrees, x, order, said):
    model = net(k, x)
    rewrite(vectors(model, "bn0"), order)
    finding = disagrees(model, x, rule=MISPLACED)
    assert said in finding.cause
    assert "order of the layer's channels" in finding.remedy


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ((12, 12), "in bn0 those of bn1"),
        ((12, 16), "in bn0 those of the first 12 channels of bn1"),
    ],
)
def test_statistics_of_the_next_layer(k, disagrees, x, widths, said):
    model = net(k, x, widths)
    pairs = zip(vectors(model, "bn0"), vectors(model, "bn1"), strict=True)
    for mine, its in pairs:
        mine.assign(its.numpy()[:12])
    finding = disagrees(model, x, rule=MISPLACED)
    assert said in finding.cause
    assert "by name" in finding.remedy


@pytest.mark.thorough
def test_statistics_as_they_should_be_pass(k, x):
    model = net(k, x, (12, 16))
    expect_pass(CHECK, model, x)


def test_variances_with_another_sign(k, x):
    model = net(k, x, widths=(12,))
    expect_pass(CHECK, model, x)
    bn = model.get_layer("bn0")
    bn.moving_variance.assign(-bn.moving_variance)
    cause = "the stored variance of bn0 is negative in 12 of 12 channels"
    expect_failure(
        CHECK, model, x, rule="BN402", layer="bn0", cause_tested=True, cause_contains=cause
    )
