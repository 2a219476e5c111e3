"""Misuse ends in one sentence that says what to write instead."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import (
    BNConsistencyError,
    assert_batch_invariance,
    assert_frozen_stability,
    assert_train_eval_agreement,
    check_consistency,
    recalibrate,
)

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


def model_of(k, *, trainable=True, compiled=False):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(trainable=trainable)
    model = k.Model(inputs, k.layers.Dense(1)(bn(inputs)), name="mine")
    if compiled:
        model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (None, "None is no model that can be checked; expected a keras.Model or a tf_keras.Model"),
        (None, "(a function that returns nothing gives None)"),
        ("model.keras", "load it first: keras.models.load_model('model.keras')"),
        (object(), "is no model"),
        (X, f"ndarray of shape {X.shape} is no model"),
        (X, "(the model comes before x)"),
        (keras.layers.Dense(1), "Dense"),
        (keras.Model, "Model is a class; expected a model: write Model(...)"),
    ],
    ids=["none", "nothing", "path", "object", "array", "exchanged", "layer", "class"],
)
def test_what_is_no_model_is_refused(model, sentence):
    with pytest.raises(BNConsistencyError) as caught:
        assert_batch_invariance(model, X)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 200


def test_one_picture_of_one_channel_is_no_batch(k):
    pictures = k.Input((5, 5, 1))
    model = k.Model(pictures, k.layers.Flatten()(pictures))
    x = np.zeros((2, 5, 5, 1), np.float32)
    with pytest.raises(BNConsistencyError, match=r"\(5, 5, 1\).*one row is x\[None\]"):
        assert_batch_invariance(model, x[0])
    assert_batch_invariance(model, x[..., 0])  # as Keras takes it


def test_a_folder_is_loaded_as_a_saved_model(tmp_path):
    with pytest.raises(BNConsistencyError, match=r"load it first: tf\.saved_model"):
        assert_batch_invariance(str(tmp_path), X)


def test_a_sequence_of_layers_without_an_input_is_refused(k):
    with pytest.raises(BNConsistencyError, match="model 'mine' is not built"):
        assert_batch_invariance(k.Sequential([k.layers.Dense(1)], name="mine"), X)


def test_a_subclass_that_was_never_called_is_refused(k):
    class Own(k.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.head = k.layers.Dense(1)

        def call(self, x):
            return self.head(x)

    model = Own()
    with pytest.raises(BNConsistencyError, match="is not built, so it has no weights yet"):
        assert_batch_invariance(model, X)
    model.head(X)  # as a step of the user's own calls it
    with pytest.raises(BNConsistencyError, match="is not built, it was never called itself"):
        assert_batch_invariance(model, X)


@pytest.mark.parametrize("built", [False, True])
def test_a_model_that_only_trains_others_names_them(k, built):
    class Adversary(k.Model):
        def __init__(self):
            super().__init__(name="gan")
            self.generator = k.Sequential([k.Input((4,)), k.layers.Dense(2)])
            self.discriminator = k.Sequential([k.Input((2,)), k.layers.Dense(1)])
            self.built = built

        def train_step(self, data):
            return {"loss": k.backend.mean(self.discriminator(self.generator(data)))}

    class Judge(Adversary):
        def call(self, x, training=None):
            return self.discriminator(self.generator(x, training=training), training=training)

    with pytest.raises(BNConsistencyError) as caught:
        assert_batch_invariance(Adversary(), X)
    assert str(caught.value) == (
        "model 'gan' gives no predictions, its class has no call(); expected a model that does: "
        "check what it trains, model.generator and model.discriminator, or write a call()"
    )
    assert_batch_invariance(Adversary().generator, X)
    mended = Judge()
    mended(X)
    assert_batch_invariance(mended, X)


def test_a_model_without_a_call_or_other_models_is_asked_for_one(k):
    class Empty(k.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.head = k.layers.Dense(1)

    with pytest.raises(BNConsistencyError, match=r"expected a model that does: write a call\(\)$"):
        assert_batch_invariance(Empty(), X)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: assert_batch_invariance(m, X, row=3), "did you mean 'rows'"),
        (lambda m: check_consistency(m, X, checks=["batch_invariant"]), "unknown check"),
        (lambda m: check_consistency(m, X, checks=["zzz"]), "expected one of batch_invariance"),
        (lambda m: check_consistency(m, X, checks=[None]), "unknown check None"),
        (lambda m: check_consistency(m, X, checks=[]), "checks is empty; expected some of batch"),
        (lambda m: check_consistency(m, X, train_step=3), "expected a function train_step(x, y)"),
        (lambda m: assert_frozen_stability(m, X), "y is missing; give targets as y"),
        (lambda m: assert_frozen_stability(m, X, X[:, :1], frozen="nope/*"), "matches no layer"),
        (lambda m: assert_frozen_stability(m, X, X[:, :1], steps=0), "expected 1 or more"),
        (lambda m: assert_frozen_stability(m, None, train_step=print), "no data; give x and y"),
        (assert_train_eval_agreement, "needs data and got none"),
        (lambda m: assert_train_eval_agreement(m, None), "needs data and got none"),
        (lambda m: assert_batch_invariance(m, X[:, :3]), "expected (rows, 4)"),
        (lambda m: assert_batch_invariance(m, X[0]), "expected (rows, 4); one row is x[None]"),
        (lambda m: recalibrate(m, X), "no layer of model 'mine' has statistics that move"),
        (lambda m: recalibrate(m, None), "needs data and got none"),
    ],
)
def test_what_cannot_be_asked_is_refused(k, call, sentence):
    model = model_of(k, trainable=False, compiled=True)
    with pytest.raises(BNConsistencyError) as caught:
        call(model)
    assert sentence in str(caught.value)


def test_targets_that_the_loss_does_not_take(k):
    model = k.Sequential([k.Input((4,)), k.layers.BatchNormalization(), k.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0)
    with pytest.raises(BNConsistencyError, match="targets as fit takes them"):
        assert_train_eval_agreement(model, X, X[:, :3])


def test_a_step_that_takes_no_model_without_trainable_weights(k):
    class Model(k.Model):
        def train_step(self, data):
            if not self.trainable_variables:
                raise ValueError("nothing to train")
            return super().train_step(data)

    rows = k.Input((4,))
    model = Model(rows, k.layers.Dense(2)(k.layers.BatchNormalization()(rows)))
    model.trainable = False
    model.compile("sgd", "mse")
    with pytest.raises(
        BNConsistencyError, match=r"nothing to train.*of which this model has none"
    ):
        assert_frozen_stability(model, X, X[:, :2])


def test_targets_that_are_no_numbers_or_none_of_a_class(k):
    model = k.Sequential([k.Input((4,)), k.layers.BatchNormalization(), k.layers.Dense(3)])
    model.compile("sgd", k.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, np.arange(len(X)) % 3, verbose=0)
    for targets, told in (
        (np.array(["cat", "dog"] * (len(X) // 2)), "these are texts"),
        (np.arange(len(X)) % 3 + 1, "class numbers of 3 classes go from 0 to 2"),
    ):
        with pytest.raises(BNConsistencyError, match=told):
            assert_train_eval_agreement(model, X, targets)


def test_a_report_in_words(k):
    report = check_consistency(model_of(k), X, checks=["batch_invariance", "frozen_stability"])
    lines = str(report).splitlines()
    assert lines == [str(result) for result in report]
    assert [line.partition(":")[0] for line in lines] == [
        "batch_invariance passed",
        "frozen_stability not applicable",
    ]
    with pytest.raises(KeyError, match="expected one of batch_invariance, frozen_stability"):
        report["batch_invarianc"]


def test_checks_that_need_data_are_not_applicable_without(k):
    report = check_consistency(model_of(k))
    assert report["train_eval_agreement"].verdict == "not applicable"
    assert report["batch_invariance"].verdict == "passed"


WITHOUT_TENSORFLOW = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tensorflow" else find(name, *rest)
"""
CHECKED = """
from pytest_bnconsistency import (BNConsistencyError, assert_batch_invariance)
try:
    assert_batch_invariance(object())
except BNConsistencyError as error:
    print(error)
print("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (
            lambda h: tf.ragged.boolean_mask(h, h > 0),
            r"x, training=False\) gives a RaggedTensor; expected dense .* outputs.to_tensor",
        ),
        (
            tf.sparse.from_dense,
            r"gives a SparseTensor; expected dense .* tf.sparse.to_dense\(outputs\)",
        ),
    ],
    ids=["ragged", "sparse"],
)
@pytest.mark.parametrize("check", ["batch_invariance", "inference_purity"])
def test_outputs_that_are_no_arrays_of_rows_are_refused(check, made, sentence):
    dense = keras.layers.Dense(3)

    def model(x, training=False):
        return made(dense(x))

    model(X)
    with pytest.raises(BNConsistencyError, match=sentence):
        check_consistency(model, X, checks=[check])


def test_an_output_for_each_row_is_refused():
    """Other numbers of rows tell that, which `inference_purity` doesn't run."""
    dense = keras.layers.Dense(3)

    def model(x, training=False):
        h = dense(x)
        return [h[i] * 2 for i in range(h.shape[0])]

    model(X)
    sentence = r"gives \d outputs? for \d rows? and \d for others; expected arrays"
    with pytest.raises(BNConsistencyError, match=sentence):
        check_consistency(model, X, checks=["batch_invariance"])
    assert check_consistency(model, X, checks=["inference_purity"]).ok


def test_a_missing_tensorflow_is_one_sentence():
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW + CHECKED],
        capture_output=True,
        text=True,
        check=True,
    )
    sentence, imported = said.stdout.splitlines()
    assert sentence.startswith("TensorFlow is not installed")
    assert sentence.endswith("install it with: pip install tensorflow")
    assert imported == "False"


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
@pytest.mark.every_case
def test_a_broken_tensorflow_is_one_sentence(tmp_path, error):
    broken = tmp_path / "tensorflow.py"
    warns = "import warnings; warnings.warn('old', DeprecationWarning)"
    raises = f"raise {error}('a library of it is missing')"
    broken.write_text(f"{warns}\n{raises}", encoding="utf-8")
    code = "\n".join(["import sys", f"sys.path.insert(0, {str(tmp_path)!r})", CHECKED])
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    told = f"TensorFlow is installed and can't be imported: {error}: a library of it is missing; "
    assert said.startswith(told)


def test_keras_on_another_backend_is_one_sentence(monkeypatch):
    model = model_of(keras)
    backend = keras.backend.backend()  # `tox -e py312-jax` has another one for real
    if backend == "tensorflow":
        backend = "jax"
        monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(BNConsistencyError) as caught:
        check_consistency(model, X)
    assert str(caught.value) == (
        f"Keras runs on the {backend!r} backend; expected 'tensorflow': set "
        "KERAS_BACKEND=tensorflow before Keras is imported"
    )


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (
            lambda rows: [{"class": int(r.argmax()), "score": float(r.max())} for r in rows],
            "a dict",
        ),
        (lambda rows: [list(np.flatnonzero(r > 0)) for r in rows], "a list for each row"),
        (lambda rows: np.array([{"score": r.max()} for r in rows]), "Python objects"),
        (iter, "an? .*iterator"),
    ],
    ids=("records", "lists", "objects", "iterator"),
)
def test_a_function_that_returns_no_arrays(returned, said):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    rows = np.random.default_rng(0).standard_normal((8, 4), np.float32)
    for check in ("batch_invariance", "inference_purity"):
        with pytest.raises(BNConsistencyError, match=f"{said}.*; expected arrays or tensors"):
            check_consistency(lambda x: returned(model(x).numpy()), rows, checks=[check])


def test_a_function_that_returns_texts():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    rows = np.random.default_rng(0).standard_normal((8, 4), np.float32)
    names = ["cat", "cow", "dog"]

    def told(x):
        scores = model(x).numpy()
        return {"scores": scores, "names": names, "best": [names[n] for n in scores.argmax(1)]}

    report = check_consistency(told, rows, checks=["batch_invariance", "inference_purity"])
    assert [str(result.verdict) for result in report] == ["passed", "passed"]
