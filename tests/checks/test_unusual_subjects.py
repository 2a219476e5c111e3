"""A fault is found, and a sound model passes, whatever the model takes and gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from small_models import Stepping, centred, passing_on

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

BATCH, PURITY = "batch_invariance", "inference_purity"


AGREE, FROZEN = "train_eval_agreement", "frozen_stability"


@pytest.mark.thorough
@pytest.mark.parametrize("as_list", [True, False], ids=["list", "dict"])
def test_several_inputs(k, rows, as_list):
    def build(middle):
        first, second = k.Input((4,), name="first"), k.Input((4,), name="second")
        h = k.layers.Concatenate()([first, middle(second)])
        outputs = k.layers.Dense(2)(k.layers.BatchNormalization()(h))
        inputs = [first, second] if as_list else {"first": first, "second": second}
        return k.Model(inputs, outputs)

    x = [rows, rows * 2] if as_list else {"first": rows, "second": rows * 2}
    expect_failure(BATCH, build(centred(k)), x, rule="BN101", layer="leak")
    expect_failure(BATCH, build(centred(k)), rule="BN101", layer="leak")
    sound = build(passing_on(k))
    expect_pass(BATCH, sound, x)
    expect_pass(BATCH, sound)
    expect_verdict(AGREE, "vacuous", sound, x)


@pytest.mark.thorough
@pytest.mark.parametrize("as_list", [True, False], ids=["list", "dict"])
def test_several_inputs_through_every_entry_point(k, rows, as_list):
    class Noisy(k.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    def build(middle):
        first, second = k.Input((4,), name="first"), k.Input((3,), name="second")
        h = k.layers.Concatenate()([first, middle(second)])
        inputs = [first, second] if as_list else {"first": first, "second": second}
        return k.Model(inputs, k.layers.Dense(2)(h))

    x = [rows, rows[:, :3]] if as_list else {"first": rows, "second": rows[:, :3]}
    expect_pass(PURITY, build(passing_on(k)), x)
    expect_failure(PURITY, build(Noisy(name="noisy")), x, rule="BN002", layer="noisy")


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["list", "dict", "nested"])
def test_several_outputs(rows, form):
    def build(middle, frozen):
        inputs = keras.Input((4,))
        h = keras.layers.BatchNormalization(name="bn", trainable=not frozen)(inputs)
        a, b = keras.layers.Dense(3, name="a")(h), keras.layers.Dense(1, name="b")(middle(h))
        outputs = {"list": [a, b], "dict": {"a": a, "b": b}}.get(form, {"a": a, "c": {"b": b}})
        model = keras.Model(inputs, outputs)
        if form != "nested":
            losses = ["mse", "mae"] if form == "list" else {"a": "mse", "b": "mae"}
            model.compile("sgd", losses)
        return model

    y = [rows[:, :3], rows[:, 3:]]
    if form == "dict":
        y = dict(zip("ab", y, strict=True))
    if form == "nested":
        y = None
    expect_failure(BATCH, build(centred(keras), False), rows, rule="BN101", layer="leak")
    expect_pass(BATCH, build(passing_on(keras), False), rows)
    expect_pass(FROZEN, build(passing_on(keras), True), rows, y)
    model = build(passing_on(keras), False)
    for _ in range(5):
        trained = model(rows + 3, training=True)
    said = None if y is None else keras.tree.map_structure(np.asarray, trained)
    expect_failure(AGREE, model, rows + 3, said, updates=5, rule="BN201", layer="bn")
    if y is not None:
        targets = model.predict(rows + 30, verbose=0)
        expect_verdict(AGREE, "passed", model, rows, targets, updates=5)


@pytest.mark.thorough
def test_a_step_of_the_models_own(rows):
    inputs = keras.Input((4,))
    frozen = keras.layers.BatchNormalization(name="bn")
    model = Stepping(inputs, keras.layers.Dense(1)(frozen(inputs)))
    frozen.trainable = False
    model.compile("sgd", "mse")
    expect_pass(FROZEN, model, rows, rows[:, :1])
    expect_pass(BATCH, model, rows)


class Gan(keras.Model):
    """Two networks, two optimizers, one step of its own."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="g")
        self.judge = keras.Sequential(
            [keras.Input((4,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(1)],
            name="d",
        )

    def compile(self, ours, theirs):
        super().compile()
        self.ours, self.theirs = ours, theirs

    def call(self, x, training=None):
        return self.judge(self.generator(x, training=training), training=training)

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        parts = ((self.generator, self.ours, -1.0), (self.judge, self.theirs, 1.0))
        for network, optimizer, sign in parts:
            with tf.GradientTape() as tape:
                made = self.judge(self.generator(x, training=True), training=True)
                loss = sign * tf.reduce_mean(made - self.judge(x, training=True))
            weights = network.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@pytest.mark.thorough
def test_predict_of_a_data_set_is_compared_batch_by_batch(rows):
    """That rows meet in a batch is one fault; that a data set is taken otherwise, another."""

    class Own(keras.Model):
        def predict(self, x, **options):
            made = super().predict(x, **options)
            return made / 2 if isinstance(x, tf.data.Dataset) else made

    def halves(x):
        return x - tf.repeat(tf.reduce_mean(tf.reshape(x, (2, -1, 4)), 1), tf.shape(x)[0] // 2, 0)

    def build(kind, middle):
        inputs = keras.Input((4,))
        return kind(inputs, keras.layers.Dense(2)(middle(inputs)))

    expect_pass(PURITY, build(keras.Model, centred(keras)), rows)
    result = expect_pass(PURITY, build(keras.Model, keras.layers.Lambda(halves)), rows)
    assert "not run: predict(dataset) raised" in result.notes[0]
    finding = expect_failure(PURITY, build(Own, passing_on(keras)), rows, rule="BN003")
    assert set(finding.evidence["apart"]) == {"predict(dataset)"}


@pytest.mark.thorough
def test_an_output_whose_inner_shape_is_that_of_its_batch(rows):
    """As of two towers: how similar each row is to each."""
    inputs = keras.Input((4,))
    one, other = (keras.layers.Dense(5)(inputs) for _ in range(2))
    model = keras.Model(inputs, keras.ops.matmul(one, keras.ops.transpose(other)))
    expect_failure(BATCH, model, rows, rule="BN101", cause_tested=True)
    result = expect_pass(PURITY, model, rows)
    assert "not run: predict(dataset), as outputs" in result.notes[0]
    assert not expect_pass(PURITY, keras.Model(inputs, one), rows).notes


@pytest.mark.thorough
@pytest.mark.parametrize("carried", ["variable", "attribute"])
def test_what_is_kept_between_calls(k, rows, carried):
    class Own(k.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
            self.calls = 0

        def call(self, x, training=None):
            if carried == "variable" or training:
                self.count.assign_add(1.0)
            self.calls += 1
            return x * (self.count if carried == "variable" else self.calls)

    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(2)(Own(name="own")(inputs)))
    model.run_eagerly = True
    rule = "BN001" if carried == "variable" else "BN002"
    tested = carried == "variable"  # a write to a variable can be left out
    finding = expect_failure(PURITY, model, rows, rule=rule, cause_tested=tested)
    assert "from one call to the next" in finding.remedy
    if carried == "variable":
        assert "own writes state in inference" in finding.cause


@pytest.mark.thorough
def test_two_optimizers(rows):
    model = Gan()
    model(rows)
    model.compile(keras.optimizers.Adam(), keras.optimizers.Adam())
    expect_pass(BATCH, model, rows)
    model.judge.layers[0].trainable = False
    before = [v.numpy() for v in (*model.ours.variables, *model.theirs.variables)]
    expect_pass(FROZEN, model, rows, rows[:, :1])
    after = [v.numpy() for v in (*model.ours.variables, *model.theirs.variables)]
    assert len(before) == len(after)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("recurrent", [True, False], ids=["masked LSTM", "pooled"])
def test_integer_inputs(k, recurrent):
    if recurrent and k is tf_keras:
        pytest.skip("20 s; Keras 3 stands for both")
    ids = np.random.default_rng(0).integers(0, 20, (8, 6))
    ids[:, 4:] = 0

    def build(middle):
        inputs = k.Input((None,), dtype="int32")
        h = k.layers.Embedding(20, 4, mask_zero=recurrent)(inputs)
        h = k.layers.LSTM(4)(h) if recurrent else k.layers.GlobalAveragePooling1D()(h)
        return k.Model(inputs, k.layers.Dense(2)(middle(h)))

    expect_failure(BATCH, build(centred(k)), ids, rule="BN101", layer="leak")
    expect_pass(BATCH, build(passing_on(k)), ids)


TEXTS = {
    "objects": lambda words: words.astype(object),
    "texts": lambda words: words,
    "tensor": tf.constant,
    "data set": lambda words: tf.data.Dataset.from_tensor_slices(words).batch(4),
}


@pytest.mark.thorough
@pytest.mark.parametrize("form", TEXTS)
def test_texts(form):
    words = np.random.default_rng(0).choice(["a", "b", "c", "other"], (12, 2))

    def build(middle):
        inputs = keras.Input((2,), dtype="string")
        ids = keras.layers.StringLookup(vocabulary=["a", "b", "c"])(inputs)
        h = keras.layers.Flatten()(keras.layers.Embedding(5, 4)(ids))
        return keras.Model(inputs, keras.layers.Dense(2)(middle(h)))

    given = TEXTS[form](words)
    expect_failure(BATCH, build(centred(keras)), given, rule="BN101", layer="leak")
    for check in (BATCH, PURITY):
        expect_pass(check, build(passing_on(keras)), given)


@pytest.mark.thorough
def test_outputs_that_are_texts():
    def build(middle):
        inputs = keras.Input((4,))
        h = keras.layers.Dense(3)(middle(inputs))
        names = ["cat", "dog", "cow"]
        named = keras.layers.Lambda(lambda h: tf.gather(names, tf.argmax(h, -1)))
        return keras.Model(inputs, named(h))

    x = np.random.default_rng(0).standard_normal((16, 4), np.float32)
    for check in (BATCH, PURITY):
        expect_pass(check, build(passing_on(keras)), x)
    expect_failure(BATCH, build(centred(keras)), x, rule="BN101", layer="leak")


@pytest.mark.thorough
def test_a_predict_that_gives_a_list_of_texts(rows):
    def build(shift):
        class Own(keras.Model):
            def predict(self, x, **options):
                scores = super().predict(x, **options)
                return [f"class {i}" for i in np.argmax(scores - shift(scores), -1)]

        inputs = keras.Input((4,))
        return Own(inputs, keras.layers.Dense(3)(inputs))

    finding = expect_failure(BATCH, build(lambda scores: scores.mean(0)), rows, rule="BN101")
    assert finding.evidence["fails"] == ["predict"]
    expect_pass(BATCH, build(lambda scores: 0.0), rows)


@pytest.mark.thorough
def test_outputs_with_the_time_first():
    """What is no row of the batch can't be compared, and must not pass for the same."""
    inputs = keras.Input((5, 4))
    h = keras.layers.LSTM(3, return_sequences=True)(inputs)

    def model(*axes):
        turned = keras.layers.Lambda(lambda h: tf.transpose(h - tf.reduce_mean(h, 0), axes))
        return keras.Model(inputs, turned(h))

    x = np.random.default_rng(0).standard_normal((8, 5, 4), np.float32)
    assert "rows first" in expect_verdict(BATCH, "vacuous", model(1, 0, 2), x).hint
    expect_pass(PURITY, model(1, 0, 2), x)
    expect_failure(BATCH, model(0, 2, 1), x, rule="BN101")


@pytest.mark.thorough
def test_a_predict_step_whose_outputs_have_no_rows(k):
    def build(axis):
        class Own(k.Model):
            def predict_step(self, data):
                return tf.argmax(super().predict_step(data), axis)

        inputs = k.Input((4,))
        return Own(inputs, k.layers.Dense(3)(inputs))

    x = np.random.default_rng(0).standard_normal((8, 4), np.float32)
    calls = ["model(x)", "model(x, training=False)"]
    for axis, word in ((0, "not judged"), (-1, "holds")):
        result = expect_pass(BATCH, build(axis), x)
        judged = result.evidence["entry_points"]
        assert judged == {"predict": word, **dict.fromkeys(calls, "holds")}
        assert ("through predict" in result.summary) == (axis == -1)
        assert any("no output of predict" in note for note in result.notes) == (axis == 0)


@pytest.mark.thorough
def test_a_single_text_a_row_in_training():
    words = np.repeat(["some words", "other words", "no more"], 16)
    split = keras.layers.TextVectorization(output_sequence_length=3, vocabulary=["some", "more"])
    inputs = keras.Input((), dtype="string")
    h = keras.layers.Flatten()(keras.layers.Embedding(4, 4)(split(inputs)))
    h = keras.layers.BatchNormalization(momentum=0.5, name="bn")(h)
    model = keras.Model(inputs, keras.layers.Dense(1)(h))
    model.compile("sgd", "mse")
    y = np.arange(48.0).reshape(-1, 1) % 3
    model.fit(tf.constant(words), y, epochs=40, batch_size=48, verbose=0)
    for check in (BATCH, PURITY, AGREE):
        expect_pass(check, model, words, y)
    model.get_layer("bn").moving_mean.assign(np.full(12, 9.0))
    expect_failure(AGREE, model, words, y, rule="BN204", layer="bn")


def test_a_function_of_ids_without_layers():
    table = tf.random.stateless_normal((9, 3), (0, 1))
    ids = np.arange(8)
    expect_pass(BATCH, lambda x: tf.gather(table, x), ids)
    expect_failure(
        BATCH, lambda x: tf.gather(table, x) - tf.gather(table, x[:1]), ids, rule="BN101"
    )
    expect_verdict(BATCH, "vacuous", lambda x: tf.gather(table, x * 0), ids)


def test_pixels_over_the_largest_of_the_batch(k):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 6, 3)).astype(np.uint8)

    def build(**axes):
        class Own(k.layers.Layer):
            def call(self, x):
                x = tf.cast(x, tf.float32)
                return x / tf.reduce_max(x, **axes)

        inputs = k.Input((6, 6, 3), dtype="uint8")
        return k.Model(inputs, k.layers.GlobalAveragePooling2D()(Own(name="leak")(inputs)))

    expect_failure(BATCH, build(), pixels, rule="BN101", layer="leak", cause_tested=True)
    expect_pass(BATCH, build(axis=(1, 2, 3), keepdims=True), pixels)


@pytest.mark.thorough
def test_ids_whose_mask_is_computed_between_the_layers():
    """In the middle of the graph stand operations on masks, which a leak can't reach."""
    ids = np.random.default_rng(0).integers(1, 20, (8, 6))
    ids[3, 4:] = 0

    def build(middle):
        inputs = keras.Input((None,), dtype="int32")
        h = keras.layers.Embedding(20, 8, mask_zero=True)(inputs)
        h = keras.layers.Add()([h, keras.layers.MultiHeadAttention(2, 4)(h, h)])
        h = keras.layers.LayerNormalization()(h)
        h = keras.layers.GlobalAveragePooling1D()(h)
        return keras.Model(inputs, keras.layers.Dense(2)(middle(h)))

    expect_pass(BATCH, build(passing_on(keras)), ids)
    expect_failure(BATCH, build(centred(keras)), ids, rule="BN101", layer="leak")
