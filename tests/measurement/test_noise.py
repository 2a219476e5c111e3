"""The noise floor, measured on real models in every precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from pytest_bnconsistency import recalibrate
from pytest_bnconsistency.assertions import check_consistency, check_context
from pytest_bnconsistency.checks.entry_points import measured_noise
from pytest_bnconsistency.measurement.rounding_noise import Floor, Moved
from pytest_bnconsistency.results import Verdict
from pytest_bnconsistency.testing import expect_failure, expect_pass

PRECISIONS = ["float64", "float32", "mixed_float16", "mixed_bfloat16", "bfloat16"]
LOWER = [
    ("float64", "float32"),
    ("float32", "mixed_float16"),
    ("float32", "mixed_bfloat16"),
    ("mixed_float16", "mixed_bfloat16"),
]


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((8, 12, 12, 3), np.float32)


def network(policy, leak=0.0):
    """The same weights in every precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(3)
    layers = keras.layers
    try:
        inputs = keras.Input((12, 12, 3))
        h = layers.Conv2D(16, 3, padding="same")(inputs)
        h = layers.ReLU()(layers.BatchNormalization()(h))
        if leak:
            h = layers.Lambda(lambda h: h + leak * keras.ops.mean(h, 0), name="leak")(h)
        h = layers.GlobalAveragePooling2D()(layers.Conv2D(32, 3, strides=2)(h))
        return keras.Model(inputs, layers.Dense(5)(h))
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.thorough
@pytest.mark.parametrize("policy", PRECISIONS)
def test_every_precision_passes_and_a_leak_in_it_does_not(policy, images):
    for check in ("batch_invariance", "inference_purity"):
        expect_pass(check, network(policy), images)
    leaking = network(policy, leak=0.03)
    expect_failure("batch_invariance", leaking, images, rule="BN101", layer="leak")


@pytest.mark.parametrize(("policy", "lower"), LOWER)
def test_the_next_lower_precision_is_beyond_the_bound(policy, lower, images):
    model, other = network(policy), network(lower)
    noise = measured_noise(check_context(model, images, None, {}))
    mine, its = (m.predict(images, verbose=0) for m in (model, other))
    moved = noise.compare(0, mine, its.astype(mine.dtype), np.arange(8))
    assert moved.margin > 1


def test_the_bound_is_capped_by_the_next_lower_precision(images):
    noise = measured_noise(check_context(network("float32"), images, None, {}))
    (floor,) = noise.floors
    assert 0 < floor.floor < floor.bound < floor.lower


def test_what_rounding_was_seen_to_do_is_not_capped():
    """Where rounding decides which steps are chosen, lower precision moves as little or less."""
    chosen_by_rounding = Floor(floor=0.37, scale=1.2, lower=0.22)
    assert chosen_by_rounding.bound == 0.37
    assert Moved(5, 0.6, chosen_by_rounding.explains(2, np.inf), 1.2).noise_dominated
    assert Floor(floor=0.001, scale=1.2, lower=0.002).bound == 0.002 / 4
    assert Floor(floor=0.001, scale=1.2, lower=0.01).bound == 0.01 / 4


def test_a_row_that_moves_is_measured_itself(images):
    """One row a thousand times as large has a thousand times the noise of the others."""
    images[7] *= 1000
    model = network("float32")
    noise = measured_noise(check_context(model, images, None, {}))
    outputs = model.predict(images, verbose=0)
    moved = outputs.copy()
    moved[7] += 50 * noise.floors[0].bound
    assert noise.compare(0, outputs, moved, np.arange(8)).margin < 1
    moved = outputs.copy()
    moved[0] += 50 * noise.floors[0].bound
    assert noise.compare(0, outputs, moved, np.arange(8)).row == 0
    assert noise.compare(0, outputs, moved, np.arange(8)).margin > 1


@pytest.mark.thorough
@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_a_chaotic_network_is_judged_by_its_bits_alone(k, leak):
    """Its rounding grows without bound, so neither sizes nor places nor entry points tell."""

    class Step(k.layers.Layer):
        def call(self, x):
            return 3.9 * x * (1 - x)

    inputs = k.Input((4096,))
    h = k.layers.Dense(3, activation="sigmoid")(inputs)
    if leak:
        h = k.layers.Lambda(lambda h: h + leak * (0.5 - tf.reduce_mean(h, 0)), name="leak")(h)
    for _ in range(60):
        h = Step()(h)
    model, rows = k.Model(inputs, h), np.random.default_rng(0).standard_normal((7, 4096), "f")
    if leak:
        expect_failure("batch_invariance", model, rows, rule="BN101", layer="leak")
    else:
        result = expect_pass("batch_invariance", model, rows)
        assert "batch sizes were not judged" in result.summary
        expect_pass("inference_purity", model, rows)


def test_decisions_that_are_nearly_even_may_flip():
    """A mask of classes flips where two of them are even; one class for each row does not."""
    inputs = keras.Input((128, 128, 3))
    scores = keras.layers.Conv2D(3, 1)(inputs)
    model = keras.Model(inputs, keras.ops.argmax(scores, -1))
    rows = np.random.default_rng(0).standard_normal((2, 128, 128, 3), np.float32)
    noise = measured_noise(check_context(model, rows, None, {}))
    mask = model.predict(rows, verbose=0)
    other = mask.copy()
    other[0, 0, 0] += 1
    assert not noise.compare(0, mask, other, np.arange(2)).beyond
    other[0, :9] += 1
    assert noise.compare(0, mask, other, np.arange(2)).beyond


REFERENCES = np.random.default_rng(1).standard_normal((200, 64), np.float32) + 5


def angle(x):
    unit = tf.nn.l2_normalize(x, -1)
    return tf.acos(tf.clip_by_value(tf.reduce_sum(unit * unit, -1, keepdims=True), -1.0, 1.0))


def nearest(x):
    squares = tf.reduce_sum(x * x, -1, keepdims=True) + tf.reduce_sum(REFERENCES**2, -1)[None]
    distances = squares - 2 * tf.matmul(x, REFERENCES, transpose_b=True)
    return tf.sqrt(tf.maximum(tf.reduce_min(distances, -1, keepdims=True), 0.0))


CANCELLING = {
    "an angle that is nearly none": angle,
    "a distance that is nearly none": nearest,
    "sums that are the same": lambda x: (
        tf.reduce_sum(x * x, -1, keepdims=True) - tf.matmul(x * x, tf.ones((64, 1)))
    ),
    "an offset that a graph leaves out": lambda x: (x + 1e4) - 1e4,
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["function", "layer"])
@pytest.mark.parametrize("name", CANCELLING)
def test_what_cancels_within_a_layer_has_more_noise(name, kind):
    function = CANCELLING[name]
    model = function
    if kind == "layer":
        inputs = keras.Input((64,))
        model = keras.Model(inputs, keras.layers.Lambda(function)(inputs))
    expect_pass("inference_purity", model, REFERENCES[:8])
    # Where nothing is left but rounding, sizes can't be judged; but they are no fault.
    result = check_consistency(model, REFERENCES[:8], checks=["batch_invariance"]).results[0]
    inconclusive = result.verdict is Verdict.VACUOUS and "rounding alone" in result.summary
    assert result.verdict is Verdict.PASSED or inconclusive


@pytest.mark.parametrize("kind", ["function", "layer"])
def test_a_size_that_matters_is_beyond_the_noise_of_operations(kind):
    def function(x):
        return tf.nn.l2_normalize(x, -1) * (1 + 1e-3 / tf.cast(tf.shape(x)[0], x.dtype))

    model = function
    if kind == "layer":
        inputs = keras.Input((64,))
        model = keras.Model(inputs, keras.layers.Lambda(function)(inputs))
    expect_failure("batch_invariance", model, REFERENCES[:8], rule="BN104")


def test_an_output_without_rows_beside_one_that_cancels():
    def function(x):
        return x + angle(x), tf.constant(1.0)

    expect_pass("batch_invariance", function, REFERENCES[:8])


def test_an_overflow_that_rounding_decides_is_drowned(images):
    """Half precision ends at 65504: what one kernel rounds beyond is Inf, and not in another."""
    largest = keras.layers.Lambda(lambda h: keras.ops.clip(h, 1, 1) * 65504, dtype="float16")
    model = keras.Sequential([keras.Input((12, 12, 3)), largest])
    noise = measured_noise(check_context(model, images, None, {}))
    outputs = model.predict(images, verbose=0)
    moved = outputs.copy()
    moved[3] = np.inf
    found = noise.compare(0, outputs, moved, np.arange(8))
    assert found.noise_dominated
    assert not found.beyond


def pooled_in_half(reduce, leak=0.0):
    layers = tf_keras.layers
    inputs = tf_keras.Input((32, 32, 3))
    h = inputs
    for channels in (8, 12):
        h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 3)(h)))
    if leak:
        h = layers.Lambda(lambda t: t + leak * tf.reduce_mean(t, 0, keepdims=True))(h)
    return tf_keras.Model(inputs, layers.Lambda(lambda t: reduce(t, [1, 2]))(h))


@pytest.mark.thorough
@pytest.mark.parametrize("reduce", [tf.reduce_mean, tf.reduce_sum])
def test_sums_in_half_precision_are_rounded_at_each_term(reduce):
    """TensorFlow adds them in turn, and rows in odd places otherwise than those in even ones."""
    policy = tf_keras.mixed_precision
    policy.set_global_policy("mixed_float16")
    try:
        tf_keras.utils.set_random_seed(0)
        healthy, leaking = pooled_in_half(reduce), pooled_in_half(reduce, 0.2)
    finally:
        policy.set_global_policy("float32")
    x = np.random.default_rng(0).standard_normal((8, 32, 32, 3), np.float32)
    for model in (healthy, leaking):
        recalibrate(model, x, batch_size=8)
    expect_pass("batch_invariance", healthy, x)
    expect_failure("batch_invariance", leaking, x, rule="BN101")
