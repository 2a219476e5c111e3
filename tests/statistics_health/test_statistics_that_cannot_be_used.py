"""What is certainly wrong in the stored statistics fails; what is only unusual is a warning."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from own_normalizers import home_made, nameless

from pytest_bnconsistency import check_consistency, recalibrate
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "statistics_health"


def fails(model, rule, layer, cause, *data, without=()):
    """The only finding: of `rule`, with a cause that is tested unless it says that it is not."""
    others = {"BN401", "BN402", "BN403", "BN404", "BN407", "BN408"} - {rule}
    return expect_failure(
        CHECK,
        model,
        *data,
        rule=rule,
        layer=layer,
        cause_contains=cause,
        cause_tested=not cause.startswith("not established"),
        without=[*others, *without],
    )


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(3, 2, (64, 4)).astype(np.float32)


def model_of(k, *layers, shape=(4,)):
    inputs = h = k.Input(shape)
    for layer in layers:
        h = layer(h)
    model = k.Model(inputs, k.layers.Dense(2)(h))
    model.compile("sgd", "mse")
    return model


def normaliser(k, mean=0.5, variance=2.0, **arguments):
    bn = k.layers.BatchNormalization(name="bn", **arguments)
    bn.build((None, 4))
    bn.moving_mean.assign(np.full(4, mean, np.float32))
    bn.moving_variance.assign(np.broadcast_to(variance, 4).astype(np.float32))
    return bn


def warning(result, rule):
    found = [warning for warning in result.warnings if warning.rule == rule]
    assert found, text.render(result, verbose=True)
    assert rule in text.render(result)
    return found[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_poisoned_by_one_batch(k, data, value):
    model = model_of(k, normaliser(k, momentum=0.9))
    model(data * np.float32(value), training=True)
    for _ in range(3):
        model(data, training=True)
    finding = fails(model, "BN401", "bn", "not established; one batch with NaN or Inf")
    assert "leaves what is stored NaN or Inf and statistics of 0 finite" in finding.tested
    fails(model, "BN401", "bn", "only what is stored", data, without=("scales", "row", "momentum"))
    recalibrate(model, data)
    expect_pass(CHECK, model)


def test_rows_that_overflow_on_the_way(k, data):
    model = model_of(k, k.layers.Lambda(tf.exp), normaliser(k))
    data[[7, 40]] = 100
    for _ in range(3):
        model(data, training=True)
    cause = "2 rows of the data (7 and 40): NaN or Inf on the way to bn"
    fails(model, "BN401", "bn", cause, data, without=("scales", "only what is stored"))
    recalibrate(model, np.delete(data, [7, 40], axis=0))
    expect_pass(CHECK, model)


def test_rows_that_overflow_in_company_only(k, data):
    model = model_of(k, normaliser(k, mean=np.nan))
    data[:8] *= np.float32(1e19) * np.arange(1, 9, dtype=np.float32)[:, None]
    cause = "batches of 16 rows of the data"
    expect_failure(CHECK, model, data, rule="BN401", cause_contains=cause, batch_size=16)


def test_empty_batches(k, data):
    model = model_of(k, normaliser(k))
    for batch in (data, data[:0], data):
        model(batch, training=True)
    signature = tf.TensorSpec((None, 4), tf.float32)
    batches = tf.data.Dataset.from_generator(
        lambda: iter((data, data[:0])), output_signature=signature
    )
    finding = fails(model, "BN401", "bn", "batches of zero rows (1)", batches, without=("scales",))
    assert "filter empty batches out" in finding.remedy


def test_frozen_and_poisoned(k, data):
    first, second = normaliser(k, mean=np.nan), k.layers.BatchNormalization(name="other")
    first.trainable = second.trainable = False
    model = model_of(k, first, second)
    second.moving_mean.assign(np.full(4, np.nan, np.float32))
    fails(model, "BN401", "bn", "only what is stored", data)
    recalibrate(model, data, frozen=True)
    expect_pass(CHECK, model)


def test_data_that_overflow_throughout_tell_nothing(k, data):
    model = model_of(k, k.layers.Lambda(tf.exp), normaliser(k, mean=np.nan))
    finding = fails(model, "BN401", "bn", "not established", np.full_like(data, 100))
    assert "without them as well" in finding.tested


def half_precise(k, scale):
    """A model in mixed_float16 whose optimizer scales the loss by so much at first."""
    bn = k.layers.BatchNormalization(momentum=0.9, dtype="mixed_float16", name="bn")
    model = model_of(k, k.layers.Dense(4, dtype="mixed_float16"), bn)
    optimizer = k.optimizers.SGD(1e-3)
    if scale:
        optimizer = k.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=scale)
    model.compile(optimizer, "mse")
    return model


@pytest.mark.thorough
def test_an_overflow_that_the_optimizer_skipped(k, data):
    model, y = half_precise(k, 2.0), np.zeros((64, 2), np.float32)
    model.fit(data, y, verbose=0)
    expect_pass(CHECK, model)
    overflowing = data.copy()
    overflowing[5] = 1e5
    model.fit(overflowing, y, batch_size=64, epochs=1, verbose=0)
    cause = "the optimizer, which scales the loss, skips such a step, and bn does not"
    finding = fails(model, "BN401", "bn", cause, without=("row", "only what is stored"))
    assert "fell from 2 to 1 and the weights are finite" in finding.tested
    fails(model, "BN401", "bn", cause, data)
    fails(model, "BN401", "bn", "1 row of the data (5)", overflowing, without=("scales",))
    recalibrate(model, data)
    expect_pass(CHECK, model)


def test_an_optimizer_that_skipped_nothing_is_not_the_cause(k, data):
    model = half_precise(k, 2.0)
    model.fit(data, np.zeros((64, 2), np.float32), verbose=0)
    model.get_layer("bn").moving_mean.assign(np.full(4, np.inf, np.float32))
    finding = fails(model, "BN401", "bn", "not established", without=("scales",))
    assert "skipped no step" in finding.tested


def test_a_negative_variance_of_a_momentum_that_is_no_average(k, data):
    bn = normaliser(k)
    bn.momentum = 1.5  # Keras 3.16 takes no such momentum in the constructor
    model = model_of(k, bn)
    for spread in (1, 10):
        model(data * np.float32(spread), training=True)
    cause = "momentum 1.5: no average, so a variance can go below zero"
    finding = expect_failure(
        CHECK, model, rule="BN402", layer="bn", cause_tested=True, cause_contains=cause
    )
    assert "mixed up" not in finding.cause
    mended = model_of(k, normaliser(k, momentum=0.9))
    for spread in (1, 10):
        mended(data * np.float32(spread), training=True)
    expect_pass(CHECK, mended)


def test_a_variance_in_the_place_of_the_mean(k, data):
    model = model_of(k, normaliser(k, mean=4, variance=-3))
    fails(model, "BN402", "bn", "not established; weights mixed up", without=("momentum 0.",))
    fails(model, "BN402", "bn", "in each other's place", data - 6, without=("momentum",))
    expect_pass(CHECK, model_of(k, normaliser(k, mean=-3, variance=4)), data - 6)


def test_a_negative_variance_of_unknown_origin(k, data):
    model = model_of(k, normaliser(k, variance=-0.3))
    fails(model, "BN402", "bn", "only what is stored", data, without=("momentum", "place"))
    recalibrate(model, data)
    expect_pass(CHECK, model)


@pytest.mark.parametrize(
    ("momentum", "does"),
    [
        (1.0, "the statistics never move"),
        (0.0, "the statistics are those of the last batch"),
        (1.5, "no average: the statistics run away"),
        (-0.1, "no average: the statistics run away"),
    ],
)
def test_a_momentum_that_is_none(k, momentum, does):
    model = model_of(k, normaliser(k, momentum=momentum))
    finding = fails(model, "BN403", "bn", does)
    assert finding.cause == f"momentum {momentum:g}: {does}"
    expect_pass(CHECK, model_of(k, normaliser(k, momentum=0.9)))


def run(model, data, times=40):
    for _ in range(times):
        model(data, training=True)
    return model


@pytest.mark.parametrize(
    ("spoilt", "rule", "cause"),
    [
        (lambda home: home.m.assign(home.m * np.nan), "BN401", "only what is stored"),
        (lambda home: home.v.assign(-home.v), "BN402", "only what is stored"),
    ],
)
def test_a_normaliser_that_is_known_by_what_it_does(k, data, spoilt, rule, cause):
    model = run(model_of(k, nameless(k)), data)
    assert "1 normalization layer " in expect_pass(CHECK, model, data).summary
    unknown = expect_verdict(CHECK, "not applicable", model)
    assert "found by what they do" in unknown.hint
    spoilt(model.get_layer("home"))
    fails(model, rule, "home", cause, data)


def test_the_momentum_of_a_normaliser_that_names_none(k, data):
    found = fails(
        run(model_of(k, nameless(k, kept=-0.1)), data), "BN403", "home", "momentum -0.1", data
    )
    assert "at 0 and one" in found.tested
    low = expect_pass(CHECK, run(model_of(k, nameless(k, kept=0.1)), data), data)
    assert "an update keeps 10% of what is stored in home" in warning(low, "BN206").message
    for sound in (nameless(k), nameless(k, counting=True)):
        assert not expect_pass(CHECK, run(model_of(k, sound), data), data).warnings


def test_a_narrow_normaliser_that_tells_no_dtype(k, data):
    model = run(model_of(k, nameless(k, dtype="bfloat16")), data)
    fails(model, "BN404", "home", "not established", data)


def test_state_that_is_no_statistic_of_the_input_is_no_normaliser(k):
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)
    inputs = k.Input((5, 4), batch_size=8)
    carried = k.layers.LSTM(3, stateful=True)
    model = k.Model(inputs, carried(inputs))
    assert not expect_verdict(CHECK, "not applicable", model, x).hint
    if k is keras:
        dense = k.layers.SpectralNormalization(k.layers.Dense(3))
        spectral = k.Sequential([k.Input((4,)), dense])
        hint = expect_verdict(CHECK, "not applicable", spectral, x[:, 0]).hint
        try:
            spectral(x[:, 0], training=True)
        except ValueError:  # Keras 3.0's own does not train
            assert "model(x, training=True) raised ValueError" in hint
        else:
            assert not hint


def test_a_momentum_that_the_layer_does_not_use(k):
    expect_pass(CHECK, model_of(k, home_made(k, kept=0.9)(momentum=1.0)))
    fails(model_of(k, home_made(k)(momentum=1.0, name="home")), "BN403", "home", "never move")


def test_a_layer_that_does_not_run_alone_establishes_nothing(k):
    class Timid(k.layers.BatchNormalization):
        def call(self, x, **arguments):
            if isinstance(x, tf.Tensor) and x.shape[0] is not None:
                raise ValueError("not by myself")
            return super().call(x, **arguments)

    finding = fails(model_of(k, Timid(momentum=1.0, name="bn")), "BN403", "bn", "not established")
    assert "could not be tried: ValueError: not by myself" in finding.tested


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_statistics_in_half_precision(k, dtype):
    made = home_made(k)
    narrow = model_of(k, made(dtype=dtype, name="home"))
    fails(narrow, "BN404", "home", f"{dtype}: an update", without=("momentum 0",))
    wide = home_made(k, variables="float32")
    expect_pass(CHECK, model_of(k, wide(dtype=dtype, name="home")))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_batch_normalization_in_half_precision(k, dtype):
    model = model_of(k, k.layers.BatchNormalization(dtype=dtype, name="bn"))
    if k is keras:
        finding = fails(model, "BN404", "bn", "rounded away before it arrives")
        assert ("at 8 and" in finding.tested) == (dtype == "bfloat16")
    else:  # keeps its variables in float32
        expect_pass(CHECK, model)
    mixed = k.layers.BatchNormalization(dtype=f"mixed_{dtype}", name="bn")
    expect_pass(CHECK, model_of(k, mixed))


def test_dead_channels(k):
    model = model_of(k, normaliser(k, variance=np.array([0, 1, 1, 1])))
    found = warning(expect_pass(CHECK, model), "BN405")
    assert "up to 31.6, an input 0.1 off gives 3.16" in found.message
    assert (found.layer, found.cause_tested) == ("bn", True)
    assert "alone returns by up to 3.16, with variances of 1 by 0.1" in found.tested
    model.get_layer("bn").moving_variance.assign(np.ones(4, np.float32))
    assert expect_pass(CHECK, model).warnings == ()


def test_the_epsilon_of_another_framework(k):
    found = warning(expect_pass(CHECK, model_of(k, normaliser(k, variance=1e-4))), "BN406")
    assert (found.layer, found.cause_tested) == ("bn", True)
    assert "30.2 times a small step of its input; with epsilon 1e-05, 95.3 times" in found.tested
    ported = model_of(k, normaliser(k, variance=1e-4, epsilon=1e-5))
    assert expect_pass(CHECK, ported).warnings == ()


@pytest.mark.parametrize(
    ("arguments", "rule"), [({"epsilon": 0.5}, "BN406"), ({"momentum": 0.1}, "BN206")]
)
def test_what_is_unusual_is_a_warning(k, arguments, rule):
    model = model_of(k, normaliser(k, **arguments))
    found = warning(expect_pass(CHECK, model), rule)
    assert (found.layer, found.cause_tested) == ("bn", False)
    assert found.cause.startswith("not established")
    usual = expect_pass(CHECK, model_of(k, normaliser(k)))
    assert usual.warnings == ()


def test_dropout_that_feeds_a_normaliser(k):
    def of(*layers):
        return model_of(k, *layers)

    bn, drop = normaliser(k), k.layers.Dropout(0.5, name="drop")
    found = warning(expect_pass(CHECK, of(drop, k.layers.Dense(4), bn)), "BN409")
    assert "drop feeds bn:" in found.message
    several = of(drop, k.layers.GaussianNoise(0.1, name="noise"), normaliser(k))
    assert "noise and drop feed bn:" in warning(expect_pass(CHECK, several), "BN409").message
    after = of(normaliser(k), k.layers.Dense(4), k.layers.Dropout(0.5))
    assert expect_pass(CHECK, after).warnings == ()


def subclassed(k, dropout_first):
    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.bn, self.drop = normaliser(k), k.layers.Dropout(0.5, name="drop")

        def call(self, x, training=None):
            first, then = (self.drop, self.bn) if dropout_first else (self.bn, self.drop)
            return then(tf.abs(first(x, training=training)), training=training)

    class Subclassed(k.Model):
        def __init__(self):
            super().__init__()
            self.block, self.head = Block(), k.layers.Dense(2)

        def call(self, x, training=None):
            return self.head(self.block(x, training=training))

    return Subclassed()


def test_dropout_that_feeds_a_normaliser_of_a_subclassed_model(k, data):
    model, sound = (subclassed(k, dropout_first) for dropout_first in (True, False))
    for each in (model, sound):
        each(data)
        recalibrate(each, data)
    assert "drop feeds block/bn" in warning(expect_pass(CHECK, model, data), "BN409").message
    assert expect_pass(CHECK, sound, data).warnings == ()
    assert expect_pass(CHECK, model).warnings == ()  # without data, nothing runs


def test_one_layer_called_twice(k):
    bn, inputs = normaliser(k), k.Input((4,))
    model = k.Model(inputs, bn(inputs) + bn(inputs * 2.0))
    assert "2 times" in warning(expect_pass(CHECK, model), "BN211").message


def test_a_layer_of_graphs_that_are_no_longer_the_models(k, tmp_path):
    """A model that is built layer by layer, loaded, or taken apart keeps its layers' old calls."""
    model = k.Sequential([k.Input((4,))])
    for layer in (k.layers.Dense(4), k.layers.Dropout(0.5), k.layers.Dense(4)):
        model.add(layer)
    model.add(normaliser(k))
    model.add(k.layers.Dense(2))
    assert [w.rule for w in expect_pass(CHECK, model).warnings] == ["BN409"]
    bn, inputs = model.get_layer("bn"), k.Input((4,))
    without_dropout = k.Model(inputs, bn(k.layers.Dense(4)(inputs)))
    assert expect_pass(CHECK, without_dropout).warnings == ()
    model.save(tmp_path / "model.keras")
    loaded = k.models.load_model(tmp_path / "model.keras")
    assert [w.rule for w in expect_pass(CHECK, loaded).warnings] == ["BN409"]
    twice = k.Model(inputs, loaded(inputs) + loaded(2.0 * inputs))
    assert "2 times" in warning(expect_pass(CHECK, twice), "BN211").message


def test_the_distance_to_the_population_in_standard_errors(k, data):
    bn = normaliser(k, mean=0.0, variance=1.1)
    model = model_of(k, bn)
    result = expect_pass(CHECK, model, data, batch_size=8)
    assert warning(result, "BN410").layer == "bn"
    assert float(result.table.rows[0][1]) > 10
    recalibrate(model, data, batch_size=8)
    result = expect_pass(CHECK, model, data, batch_size=8)
    assert result.warnings == ()
    assert float(result.table.rows[0][1]) < 1


def test_without_data_it_takes_milliseconds():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), include_top=False)
    check_consistency(model, checks=[CHECK])
    start = time.process_time()
    result = check_consistency(model, checks=[CHECK])[CHECK]
    assert time.process_time() - start < 2  # 0.05 s, whatever else runs
    assert result.evidence["normalization_layers"] == 53


@pytest.mark.parametrize("layer", ["LayerNormalization", "UnitNormalization"])
def test_layers_without_statistics(k, layer):
    expect_verdict(CHECK, "not applicable", model_of(k, getattr(k.layers, layer)()))
