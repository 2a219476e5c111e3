"""Padding on the left and on the right, told by masks of the model's own or among its inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK = "batch_invariance"
pytestmark = pytest.mark.filterwarnings("ignore:Layer '.*mask:UserWarning")  # Keras warns, too
TEXTS = [[5, 3, 8], [7, 2, 9, 4], [1, 6], [3, 3, 4, 12, 20], [2, 5, 29], [9, 9, 1, 7], [14, 8, 6]]
RIGHT, LEFT = (keras.utils.pad_sequences(TEXTS, padding=side) for side in ("post", "pre"))


def build(k, *layers, mask_zero=True):
    k.utils.set_random_seed(0)
    ids = k.Input((None,), dtype="int32")
    normal = k.initializers.RandomNormal(0, 1)
    h = k.layers.Embedding(30, 16, mask_zero=mask_zero, embeddings_initializer=normal)(ids)
    for layer in layers:
        h = layer(h)
    return k.Model(ids, k.layers.Dense(2)(h))


def attention(k, **told):
    layer = k.layers.MultiHeadAttention(2, 8, name="attend")
    return lambda h: layer(h, h, **told)


def last_step(k):
    class LastStep(k.layers.Layer):
        def call(self, h, mask=None):
            return h[:, -1]

    return LastStep(name="last")


def positions(k, *, from_right):
    class Positions(k.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.supports_masking = True

        def call(self, h, mask=None):
            places = tf.cast(tf.range(tf.shape(h)[1]), h.dtype)
            places = places[::-1] if from_right else places
            return h + 0.3 * tf.sin(places)[None, :, None]

    return Positions(name="positions")


@pytest.mark.thorough
def test_the_last_step_is_read_where_padding_is_on_the_left(k):
    model = build(k, attention(k, use_causal_mask=True), last_step(k))
    result = expect_pass(CHECK, model, LEFT)
    assert "more padding moves none" in result.summary
    found = expect_failure(CHECK, model, RIGHT, rule="BN106", layer="last", cause_tested=True)
    assert "on the right" in found.message


@pytest.mark.thorough
def test_rows_that_do_not_show_where_padding_stands(k):
    model = build(k, attention(k, use_causal_mask=True), last_step(k))
    rows = np.random.default_rng(0).integers(1, 30, (8, 6))
    result = expect_pass(CHECK, model, rows)
    assert any("padded on the left, and not on the right" in note for note in result.notes)
    model = build(k, k.layers.GlobalMaxPooling1D(name="pool"))
    expect_failure(CHECK, model, rows, rule="BN106", layer="pool")


@pytest.mark.thorough
def test_positions_counted_from_the_side_of_the_padding(k):
    pool = k.layers.GlobalAveragePooling1D
    for rows, from_right in ((LEFT, True), (RIGHT, False)):
        expect_pass(CHECK, build(k, positions(k, from_right=from_right), pool()), rows)
        model = build(k, positions(k, from_right=not from_right), attention(k), pool())
        expect_failure(CHECK, model, rows, rule="BN106", layer="positions", cause_tested=True)


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [LEFT, RIGHT], ids=["left", "right"])
def test_sequences_read_backwards(rows):
    layers = keras.layers
    backwards = layers.LSTM(4, go_backwards=True, return_sequences=True)
    expect_pass(CHECK, build(keras, backwards), rows)
    both = layers.Bidirectional(layers.GRU(4, return_sequences=True))
    expect_pass(CHECK, build(keras, both, layers.GlobalAveragePooling1D()), rows)


@pytest.mark.thorough
def test_a_loop_that_reads_padding_is_its_layers_fault():
    flip = keras.layers.Lambda(lambda h: h[:, ::-1], name="flip")  # hands no mask on
    model = build(keras, flip, keras.layers.GRU(4, name="read"))
    expect_failure(CHECK, model, RIGHT, rule="BN106", layer="read", cause_tested=True)


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [LEFT, RIGHT], ids=["left", "right"])
def test_attention_whose_padded_steps_differ_is_not_blamed_for_what_reads_them(k, rows):
    pool = k.layers.GlobalMaxPooling1D(name="pool")
    model = build(k, attention(k), pool)
    expect_failure(CHECK, model, rows, rule="BN106", layer="pool", cause_tested=True)
    expect_pass(CHECK, build(k, attention(k), k.layers.GlobalAveragePooling1D()), rows)


@pytest.mark.thorough
def test_steps_that_a_loop_leaves_behind_are_not_blamed_for_what_reads_them():
    loop = keras.layers.GRU(4, return_sequences=True)
    model = build(keras, loop, keras.layers.GlobalMaxPooling1D(name="pool"))
    expect_failure(CHECK, model, LEFT, rule="BN106", layer="pool", cause_tested=True)


@pytest.mark.thorough
def test_padding_that_two_layers_read():
    convolution = keras.layers.Conv1D(6, 3, padding="same", name="convolve")
    model = build(keras, convolution, keras.layers.GlobalAveragePooling1D(name="pool"))
    cause = "convolve and pool take padded steps"
    expect_failure(CHECK, model, RIGHT, rule="BN106", layer="convolve", cause_contains=cause)


def with_mask_input(pool, *, dtype="int32", kinds=False):
    """Attention by a mask that is an input; `pool` gets it as well."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="words")
    mask = keras.Input((None,), dtype=dtype, name="there")
    inputs = {"words": ids, "there": mask}
    h = keras.layers.Embedding(30, 16, embeddings_initializer=keras.initializers.Orthogonal())(ids)
    if kinds:
        inputs["kinds"] = keras.Input((None,), dtype="int32", name="kinds")
        h = h + keras.layers.Embedding(2, 16)(inputs["kinds"])
    scores = keras.ops.matmul(h, keras.ops.transpose(h, (0, 2, 1)))
    away = (1.0 - keras.ops.cast(mask, "float32"))[:, None, :] * float(np.finfo("f").min)
    h = keras.layers.Softmax(name="weights")(scores + away) @ h
    return keras.Model(inputs, keras.layers.Dense(2)(pool(h, mask)))


def mean_of_steps(h, mask):
    share = keras.ops.cast(mask, "float32")[..., None]
    return keras.ops.sum(h * share, 1) / keras.ops.sum(share, 1)


def mean_of_all(h, mask):
    return keras.layers.GlobalAveragePooling1D(name="pool")(h)


@pytest.mark.thorough
@pytest.mark.parametrize("ids", [LEFT, RIGHT], ids=["left", "right"])
def test_a_mask_among_the_inputs(ids):
    rows = {"words": ids, "there": (ids > 0).astype("int32")}
    result = expect_pass(CHECK, with_mask_input(mean_of_steps), rows)
    assert "more padding moves none" in result.summary
    expect_failure(
        CHECK, with_mask_input(mean_of_all), rows, rule="BN106", layer="pool", cause_tested=True
    )


@pytest.mark.thorough
def test_padding_that_is_no_zero():
    """Another id pads, beside kinds of words and a mask of floating numbers."""
    rows = {
        "words": np.where(RIGHT > 0, RIGHT, 1),
        "there": (RIGHT > 0).astype("float32"),
        "kinds": np.zeros_like(RIGHT),
    }
    options = {"dtype": "float32", "kinds": True}
    expect_pass(CHECK, with_mask_input(mean_of_steps, **options), rows)
    model = with_mask_input(mean_of_all, **options)
    expect_failure(CHECK, model, rows, rule="BN106", layer="pool")


@pytest.mark.thorough
def test_a_masking_layer_with_a_value_of_its_own(k):
    def model(pool):
        inputs = k.Input((None, 4))
        return k.Model(inputs, pool(k.layers.Masking(mask_value=-1.0)(inputs)))

    rows = np.random.default_rng(0).normal(size=(8, 7, 4)).astype("f")
    rows[:4, 4:] = -1
    expect_pass(CHECK, model(k.layers.GlobalAveragePooling1D()), rows)
    rows[:4, :4] -= 5  # below what pads
    faulty = model(k.layers.GlobalMaxPooling1D(name="pool"))
    expect_failure(CHECK, faulty, rows, rule="BN106", layer="pool")


@pytest.mark.thorough
def test_what_was_not_tried_is_said(k):
    model = build(k, k.layers.GlobalAveragePooling1D(), mask_zero=False)
    result = expect_pass(CHECK, model, RIGHT)
    assert any(note.startswith("padding was not tried") for note in result.notes)
    expect_failure(CHECK, model, RIGHT, rule="BN106", padding=0)
