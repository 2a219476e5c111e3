"""Each test makes one cause, sees it named and no other, and sees its remedy pass."""

import re

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import assert_train_eval_agreement, check_consistency, recalibrate
from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

CHECK = "train_eval_agreement"
VARIANCE_SHIFT, SMALL_MOMENTUM, ORDER = "BN205", "BN206", "BN207"
TINY, SHIFT, DOMAINS, SEVERAL, MOMENTUM = "BN208", "BN209", "BN210", "BN211", "BN403"
MISPLACED = "BN212"


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (128, 4)).astype(np.float32)
    return x, (x[:, 0] > 3).astype(np.int32)


def classifier(k, momentum=0.9, shape=(4,), before=()):
    inputs = h = k.Input(shape)
    for layer in before:
        h = layer(h)
    h = k.layers.BatchNormalization(momentum=momentum, name="bn")(k.layers.Dense(8)(h))
    outputs = k.layers.Dense(2, activation="softmax")(k.layers.ReLU()(h))
    model = k.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def settled(model, batches, times=60):
    """Only the statistics move: what differs afterwards is theirs alone."""
    step = tf.function(lambda x: model(x, training=True), reduce_retracing=True)
    for _ in range(times):
        for batch in batches:
            step(tf.constant(batch))
    model.optimizer.iterations.assign(times * len(batches))
    return model


def split(x, size):
    return [x[start : start + size] for start in range(0, len(x), size)]


def linear(k, momentum, before=()):
    inputs = h = k.Input((4,))
    for layer in before:
        h = layer(h)
    bn = k.layers.BatchNormalization(momentum=momentum, name="bn")
    model = k.Model(inputs, k.layers.Dense(2)(bn(h)))
    model.compile("sgd", "mse")
    return model


def targets(model, x):
    """What a linear model says with the population statistics of `x`."""
    head = model.layers[-1]
    return (x - x.mean(0)) / x.std(0) @ head.kernel.numpy() + head.bias.numpy()


@pytest.fixture
def many():
    return np.random.default_rng(0).normal(3, 2, (512, 4)).astype(np.float32)


@pytest.mark.thorough
def test_dropout_that_feeds_a_normaliser(k, disagrees, many):
    model = linear(k, 0.99, [k.layers.Dropout(0.5, name="drop")])
    settled(model, split(many, 64), 100)
    # Without targets a few draws of the last layer leave it open.
    y = targets(model, many)
    finding = disagrees(model, many, y, rule=VARIANCE_SHIFT, layer="bn")
    assert finding.cause.startswith("drop feeds a normalization layer")
    inputs = k.Input((4,))
    after = k.layers.Dropout(0.5)(k.layers.BatchNormalization(momentum=0.99, name="bn")(inputs))
    mended = k.Model(inputs, k.layers.Dense(2)(after))
    mended.compile("sgd", "mse")
    expect_pass(CHECK, settled(mended, split(many, 64), 100), many)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "said"),
    [("drop", "put drop after the last normalization layer"), ("turned", "weaken turned")],
)
def test_the_random_layers_that_feed_a_normaliser_and_no_others(k, many, name, said):
    images = np.repeat(many[:, :, None, None] * [[1.0], [3.0], [9.0], [27.0]], 4, axis=2)
    images = images.astype(np.float32)
    layers = {
        "drop": k.layers.Dropout(0.5, name="drop"),
        "turned": k.layers.RandomRotation(0.5, fill_mode="constant", name="turned"),
    }
    model = k.Sequential(
        [
            k.Input(images.shape[1:]),
            layers[name],
            k.layers.Flatten(),
            k.layers.BatchNormalization(momentum=0.99, name="bn"),
            k.layers.Dropout(0.2, name="behind"),
            k.layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse")
    settled(model, split(images, 64), 100)
    y = targets(model, images.reshape(len(images), -1))
    finding = expect_failure(CHECK, model, images, y, rule=VARIANCE_SHIFT, layer="bn")
    assert finding.cause.startswith(f"{name} feeds a normalization layer")
    assert finding.remedy == f"{said}; or recalibrate(model, x)"


@pytest.mark.thorough
def test_dropout_before_two_normalization_layers_in_a_row(k, disagrees, many):
    """With dropout on it is a call more, and what is recorded of a layer stands elsewhere."""
    first = k.layers.BatchNormalization(momentum=0.99, name="first")
    model = linear(k, 0.99, [k.layers.Dropout(0.5), first])
    settled(model, split(many, 64), 100)
    disagrees(model, many, targets(model, many), rule=VARIANCE_SHIFT, layer="first")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("momentum", "copied"), [(0.0, ""), (0.1, "0.1 there is 0.9 here")], ids=["none", "copied"]
)
def test_a_momentum_of_the_other_convention(k, disagrees, many, momentum, copied):
    model = settled(linear(k, momentum), split(many, 8), 2)
    finding = disagrees(
        model, many, targets(model, many), rule=SMALL_MOMENTUM, layer="bn", batch_size=8
    )
    assert copied in finding.cause
    assert ("there is" in finding.cause) == bool(copied)
    assert finding.remedy.startswith("momentum 0.9;")  # 1 would never update
    expect_pass(CHECK, settled(linear(k, 0.9), split(many, 8), 2), many, batch_size=8)


@pytest.mark.thorough
def test_such_a_momentum_in_batches_smaller_than_those_of_the_check(k, disagrees, many):
    model = settled(linear(k, 0.01), split(many, 4), 2)
    disagrees(model, many, targets(model, many), rule=SMALL_MOMENTUM, layer="bn", batch_size=32)
    expect_pass(CHECK, settled(linear(k, 0.9), split(many, 8), 2), many, batch_size=32)


@pytest.mark.thorough
def test_such_a_momentum_in_one_of_several_layers(k, disagrees, many):
    def model_of(momentum, rows):
        inputs = h = k.Input((4,))
        for name, own in (("first", 0.9), ("quick", momentum), ("last", 0.9)):
            h = k.layers.BatchNormalization(momentum=own, name=name)(k.layers.ReLU()(h))
            h = k.layers.Dense(8)(h)
        model = k.Model(inputs, h)
        model.compile("sgd", "mse")
        return settled(model, split(many, rows), 2)

    model = model_of(0.05, 6)
    population = k.models.clone_model(model)
    population.set_weights(model.get_weights())
    recalibrate(population, many)
    y = population.predict(many, verbose=0)
    disagrees(model, many, y, rule=SMALL_MOMENTUM, layer="quick", batch_size=32)
    expect_pass(CHECK, model_of(0.9, 32), many, batch_size=32)


@pytest.mark.thorough
def test_a_momentum_where_small_batches_cost_training_more(k):
    """Evaluation has less loss than training, whose batches are noisy, and could have less."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 512)
    x = (rng.normal(0, 2, (3, 8))[y] + rng.standard_normal((512, 8))).astype(np.float32)

    def trained(momentum):
        k.utils.set_random_seed(3)
        inputs = k.Input((8,))
        h = k.layers.BatchNormalization(momentum=momentum, name="bn")(k.layers.Dense(16)(inputs))
        model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(k.layers.ReLU()(h)))
        model.compile(k.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=15, batch_size=8, verbose=0)
        model.optimizer.learning_rate = 5e-4
        model.fit(x, y, epochs=8, batch_size=8, verbose=0)
        return model

    model = trained(0.01)
    expect_failure(CHECK, model, x, y, rule=SMALL_MOMENTUM, layer="bn", batch_size=8)


@pytest.mark.parametrize("momentum", [1.0, 1.5, -0.5])
def test_a_momentum_that_no_average_has(k, disagrees, data, momentum):
    x, _ = data
    model = settled(classifier(k, momentum), split(x, 32), 1)
    disagrees(model, x, rule=MOMENTUM, layer="bn")
    settled(mended := classifier(k), split(x, 32))
    expect_pass(CHECK, mended, x)


@pytest.mark.thorough
def test_statistics_that_were_lost_are_no_other_preprocessing(k, data):
    """What a normalization layer begins with are the statistics of standardised features."""
    x, _ = data
    rows = x + 5
    bn = k.layers.BatchNormalization(momentum=0.9, name="bn")
    model = k.Sequential([k.Input(x.shape[1:]), bn, k.layers.Dense(3, "softmax")])
    for batch in split(rows, 32) * 40:
        model(batch, training=True)
    bn.moving_mean.assign(np.zeros(x.shape[1]))
    bn.moving_variance.assign(np.ones(x.shape[1]))
    model(rows[:32], training=True)
    cause = "90% of the initial values are in the statistics of bn (measured)"
    expect_failure(CHECK, model, rows, rule="BN201", updates=600, cause_contains=cause)


def test_rows_in_the_order_of_their_classes(k, disagrees):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(c, 1, (64, 4)) for c in (-3, 0, 3)]).astype(np.float32)
    model = settled(classifier(k, 0.5), split(x, 16), 20)
    disagrees(model, x, rule=ORDER, layer="bn", batch_size=16)
    mixed = rng.permutation(x)
    expect_pass(CHECK, settled(classifier(k), split(mixed, 16), 20), mixed, batch_size=16)


@pytest.mark.thorough
def test_batches_of_one_kind_each(k, disagrees):
    """As a GAN's discriminator gets them: real rows and generated ones in turns."""
    rng = np.random.default_rng(0)
    real, made = (rng.normal(c, 1, (64, 4)).astype(np.float32) for c in (-3, 3))
    batches = [b for pair in zip(split(real, 16), split(made, 16), strict=True) for b in pair]
    model = settled(classifier(k, 0.99), batches, 200)
    x = np.concatenate([real, made])
    disagrees(model, x, rule=ORDER, layer="bn", cause_contains="each batch", batch_size=16)
    mixed = rng.permutation(x)
    expect_pass(CHECK, settled(classifier(k), split(mixed, 16)), mixed, batch_size=16)


def siamese(k, shared):
    inputs = [k.Input((4,), name=name) for name in "ab"]
    one = k.layers.BatchNormalization(momentum=0.9, name="bn")
    other = one if shared else k.layers.BatchNormalization(momentum=0.9, name="other")
    joined = k.layers.Concatenate()([one(inputs[0]), other(inputs[1])])
    model = k.Model(dict(zip("ab", inputs, strict=True)), k.layers.Dense(2)(joined))
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((-5, 1), (5, 1), r"means -\d(\.\d)? and \d(\.\d)?"),
        pytest.param((0, 1), (0, 9), r"deviations [\d.]+ and 9", marks=pytest.mark.thorough),
    ],
    ids=["means", "deviations"],
)
def test_one_layer_on_two_inputs_of_unlike_distribution(k, disagrees, first, second, said):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(*first, (256, 4)), "b": rng.normal(*second, (256, 4))}
    x = {name: rows.astype(np.float32) for name, rows in x.items()}

    def warm(model):
        for _ in range(100):
            model(x, training=True)
        model.optimizer.iterations.assign(100)
        return model

    model = warm(siamese(k, shared=True))
    y = np.asarray(model(x, training=True))
    finding = disagrees(model, x, y, rule=DOMAINS, layer="bn")
    assert "2 inputs of unlike distribution" in finding.cause
    assert re.search(said, finding.cause)
    expect_pass(CHECK, warm(siamese(k, shared=False)), x)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "named"),
    [(lambda x: x - 0.5, "those of x + 0."), (lambda x: 1 - x, " - x:")],
    ids=["centred", "inverted"],
)
def test_data_that_is_moved_or_inverted(k, disagrees, change, named):
    x = np.random.default_rng(0).beta([1, 9, 1, 1], [9, 1, 9, 3], (128, 4)).astype(np.float32)
    model = settled(classifier(k), split(x, 32))
    assert named in disagrees(model, change(x), rule=SHIFT, layer="bn").cause
    expect_pass(CHECK, model, x)


@pytest.mark.thorough
def test_data_that_is_scaled_otherwise(k, disagrees):
    x = np.random.default_rng(0).uniform(0, 255, (128, 4)).astype(np.float32)
    model = settled(classifier(k), split(x / 255, 32))
    finding = disagrees(model, x, rule=SHIFT, layer="bn")
    assert "x / 255" in finding.cause
    expect_pass(CHECK, model, x / 255)


def test_batches_of_one_row(k, disagrees, data):
    x, _ = data
    model = settled(classifier(k), split(x, 1), 2)
    finding = disagrees(model, x, rule=TINY, layer="bn")
    assert "single rows" in finding.cause
    expect_pass(CHECK, settled(classifier(k), split(x, 32)), x)


@pytest.mark.thorough
@pytest.mark.parametrize("deep", [False, True])
def test_batches_of_one_row_that_are_given_as_such(k, disagrees, data, deep):
    """Training in them is no reference: a single row has no variance."""
    x, y = data
    before = [k.layers.BatchNormalization(momentum=0.9, name="first")] if deep else []
    rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)
    model = settled(classifier(k, before=before), split(x, 1), 2)
    disagrees(model, rows, rule=TINY, cause_contains="single rows")
    noted = check_consistency(model, rows, checks=[CHECK])[CHECK].notes
    assert any("a single row has no variance" in note for note in noted)
    recalibrate(model, rows)
    expect_pass(CHECK, model, rows)
    expect_pass(CHECK, settled(classifier(k, before=before), split(x, 32)), rows)


@pytest.mark.thorough
def test_batches_of_one_image(k, disagrees):
    """One image has a variance, which is not that of all: training in them is the reference."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (128, 6, 6, 1)) + rng.normal(0, 3, (128, 1, 1, 1))
    x, rows = x.astype(np.float32), lambda: tf.data.Dataset.from_tensor_slices(x).batch(1)
    inputs = k.Input((6, 6, 1))
    h = k.layers.BatchNormalization(momentum=0.99, name="bn")(k.layers.Conv2D(8, 3)(inputs))
    model = k.Model(inputs, k.layers.GlobalAveragePooling2D()(h))
    model.compile("sgd", "mse")
    finding = disagrees(settled(model, split(x, 1), 8), rows(), rule=TINY, layer="bn")
    assert "batch_size=16" in finding.remedy
    recalibrate(model, rows())
    expect_pass(CHECK, model, rows())


MORE_THAN_ARE_KEPT = pytest.param(1281, marks=pytest.mark.thorough)


@pytest.mark.parametrize("rows", [513, MORE_THAN_ARE_KEPT])
def test_a_last_batch_of_one_row(k, disagrees, rows):
    x = np.random.default_rng(0).normal(3, 2, (rows, 4)).astype(np.float32)
    model = settled(classifier(k, 0.5), split(x, 64), 20)
    finding = disagrees(model, x, rule=TINY, layer="bn", batch_size=64)
    assert "each epoch ended with a batch of a single row" in finding.cause
    expect_pass(CHECK, settled(classifier(k), split(x[: rows - 1], 64), 20), x[: rows - 1])


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 2])
def test_a_last_batch_of_one_row_that_chance_chose(k, disagrees, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (321, 4)).astype(np.float32)
    epochs = [rows for _ in range(20) for rows in split(rng.permutation(x), 32)]
    finding = disagrees(settled(classifier(k, 0.5), epochs, 1), x, rule=TINY, layer="bn")
    assert "each epoch ended with a batch of a single row" in finding.cause
    whole = [rows for rows in epochs if len(rows) > 1]
    expect_pass(CHECK, settled(classifier(k, 0.5), whole, 1), x)


def moved_round(model, *places):
    """Each vector into the next place, the last into the first."""
    vectors = [getattr(model.get_layer(name), which) for name, which in places]
    values = [vector.numpy() for vector in vectors]
    for vector, value in zip(vectors, [values[-1], *values[:-1]], strict=True):
        vector.assign(value)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (["a.mean b.mean", "a.variance b.variance"], "the stored statistics of a and b"),
        (["a.mean b.mean c.mean"], "the stored statistics of a, b and c"),
        (["a.mean a.variance"], "mean and variance of a"),
    ],
    ids=["two layers", "three means", "one layer"],
)
def test_statistics_that_were_loaded_in_another_order(k, disagrees, many, rounds, said):
    inputs = h = k.Input((4,))
    for name in "abc":
        h = k.layers.Dense(16)(h)
        h = k.layers.ReLU()(k.layers.BatchNormalization(momentum=0.9, name=name)(h))
    model = k.Model(inputs, k.layers.Dense(2)(h))
    model.compile("sgd", "mse")
    expect_pass(CHECK, settled(model, split(many, 64)), many)
    right = model.get_weights()
    for places in rounds:
        named = (place.split(".") for place in places.split())
        moved_round(model, *((name, f"moving_{which}") for name, which in named))
    finding = disagrees(model, many, rule=MISPLACED)
    assert finding.cause.startswith(said)
    assert "by name" in finding.remedy
    model.set_weights(right)
    expect_pass(CHECK, model, many)


def test_an_empty_batch(k, disagrees, data):
    x, _ = data
    model = settled(classifier(k), split(x, 32), 1)
    model(x[:0], training=True)
    batches = [*split(x, 32), x[:0]]
    finding = disagrees(model, batches_of(batches), rule="BN401", layer="bn")
    assert "zero rows" in finding.cause
    filtered = settled(classifier(k), split(x, 32))
    expect_pass(CHECK, filtered, batches_of(split(x, 32)))


def batches_of(arrays):
    return tf.data.Dataset.from_generator(
        lambda: iter(arrays), output_signature=tf.TensorSpec((None, 4), tf.float32)
    )


def warned(result, rule):
    return [warning for warning in result.warnings if warning.rule == rule]


def stepper(k, model, parts):
    """A training step of so many micro-batches."""
    loss_of = k.losses.SparseCategoricalCrossentropy()
    weights = model.trainable_variables

    def train_step(x, y):
        grads = [tf.zeros_like(w) for w in weights]
        for some, wanted in zip(np.split(x, parts), np.split(y, parts), strict=True):
            with tf.GradientTape() as tape:
                loss = loss_of(wanted, model(some, training=True)) / parts
            own = tape.gradient(loss, weights)
            grads = [a + b for a, b in zip(grads, own, strict=True)]
        model.optimizer.apply_gradients(zip(grads, weights, strict=True))

    return train_step


@pytest.mark.thorough
@pytest.mark.parametrize("parts", [1, 4])
def test_micro_batches_update_several_times_a_step(k, data, parts):
    x, y = data
    model = settled(classifier(k), split(x, 32))
    step = stepper(k, model, parts)
    result = expect_verdict(CHECK, "passed", model, x, y, train_step=step)
    assert result.evidence["updates_per_step"]["bn"] == pytest.approx(parts, abs=0.05)
    found = warned(result, SEVERAL)
    assert bool(found) == (parts > 1)
    if found:
        assert (found[0].layer, found[0].cause_tested) == ("bn", True)
        assert "updates the statistics of bn 4 times" in found[0].message
        assert "several passes in training mode, as for micro-batches" in found[0].cause


@pytest.mark.thorough
def test_a_step_that_never_updates(k, data):
    x, y = data
    model = settled(classifier(k), split(x, 32))
    result = expect_verdict(CHECK, "passed", model, x, y, train_step=lambda x, y: model(x))
    found = warned(result, "BN203")[0]
    assert (found.layer, found.cause_tested) == ("bn", True)
    told = expect_verdict(
        CHECK, "passed", model, x, y, train_step=lambda x, y: model(x, training=True)
    )
    assert warned(told, "BN203") == []


@pytest.mark.thorough
@pytest.mark.parametrize("each", [True, False])
def test_a_normaliser_of_each_timestep_updates_for_each(k, each):
    x = np.random.default_rng(0).normal(3, 2, (64, 5, 4)).astype(np.float32)
    inputs = k.Input((5, 4))
    bn = k.layers.BatchNormalization(momentum=0.95, name="bn")
    h = k.layers.TimeDistributed(bn, name="each")(inputs) if each else bn(inputs)
    model = k.Model(inputs, k.layers.Dense(2)(k.layers.Flatten()(h)))
    model.compile("sgd", "mse")
    settled(model, split(x, 32), 100)
    result = expect_verdict(CHECK, "passed", model, x, x[:, 0, :2])
    folds = k.__name__ == "tf_keras"  # all timesteps into one call
    times = 5 if each and not folds else 1
    assert result.evidence["updates_per_step"].popitem()[1] == pytest.approx(times, abs=0.05)
    found = warned(result, SEVERAL)
    assert [(f.layer, f.cause_tested) for f in found] == [("each/bn", True)] * (times > 1)
    assert all("one pass runs the layer 5 times" in f.cause for f in found)


def test_a_schedule_that_cannot_warm_up(k, data):
    model = classifier(k, momentum=0.99)
    with pytest.warns(UserWarning, match="50 planned updates leave 60.5% of the initial values"):
        assert_train_eval_agreement(model, data[0], planned_updates=50)
    result = check_consistency(model, data[0], checks=[CHECK], planned_updates=1000)[CHECK]
    assert (result.verdict, result.warnings) == ("passed", ())
