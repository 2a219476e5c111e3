"""`--bn-model model.keras`: files under safe mode; what can run code only if it is trusted."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

CHECK = "--bn-check=batch_invariance"


def model_of(k, faulty=False):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    called_with = {"training": True} if faulty else {}
    return k.Model(inputs, k.layers.Dense(2)(bn(inputs, **called_with)))


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_keras_file(pytester, library):
    model_of(library).save("net.keras")
    result = pytester.runpytest("--bn-model", "net.keras", CHECK, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*net.keras::net::batch_invariance PASSED*"])


def test_a_fault_in_a_file_and_the_line_that_runs_it_again(pytester):
    tf.saved_model.save(Net(), str(pytester.path / "export"))
    result = pytester.runpytest("--bn-model=export", "--bn-trust-files", CHECK)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*BN101*", "*reproduce*saved_model.pb::export::batch_invariance*--bn-trust-files*"]
    )


class Net(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def __call__(self, x):
        return x - tf.reduce_mean(x, 0)


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_files_that_can_run_code_only_if_trusted(pytester, library):
    model_of(library).save("net.h5")
    result = pytester.runpytest("--bn-model", "net.h5", CHECK)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*can run code that somebody put in*--bn-trust-files*"])
    pytester.runpytest("--bn-model", "net.h5", CHECK, "--bn-trust-files").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\nbn_trust_files = true\nbn_model = net.h5\n")
    pytester.runpytest(CHECK).assert_outcomes(passed=1)


def test_code_in_a_keras_file_is_not_run(pytester):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save("net.keras")
    result = pytester.runpytest("--bn-model", "net.keras", CHECK, "--bn-trust-files")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*net.keras can't be loaded*write a function that builds it*"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [("gone.keras", None, "there is no such file"), ("bad.keras", "no zip", "can't be loaded")],
)
def test_a_file_that_is_none(pytester, name, content, sentence):
    if content:
        (pytester.path / name).write_text(content, encoding="utf-8")
    result = pytester.runpytest("--bn-model", name, CHECK)
    assert sentence in result.stderr.str() + result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_data_reaches_a_model_from_a_file(pytester):
    model = model_of(keras)
    x = np.random.default_rng(0).normal(3, 1, (32, 4)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, x[:, :2], verbose=0)
    model.save("net.keras")
    np.savez("data.npz", x=x, y=x[:, :2])
    result = pytester.runpytest(
        "--bn-model=net.keras", "--bn-data=data.npz", "--bn-check=train_eval_agreement"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*BN201*"])
