"""Loaded SavedModels, single signatures, `TFSMLayer`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from small_models import export, silent

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

BATCH, PURE = "batch_invariance", "inference_purity"
AGREE, FROZEN, HEALTH = "train_eval_agreement", "frozen_stability", "statistics_health"


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((48, 4), np.float32) + 3


def model_of(k, **told):
    inputs = k.Input((4,))
    bn = k.layers.BatchNormalization(name="bn")
    return k.Model(inputs, k.layers.Dense(2, name="head")(bn(inputs, **told)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A SavedModel by `export` of Keras 3; with `training=True` in a call, if `baked`."""
    folder = tmp_path_factory.mktemp("exported")
    for name, told in (("sound", {}), ("baked", {"training": True})):
        export(model_of(keras, **told), str(folder / name))
    return folder


@pytest.mark.thorough
def test_an_exported_model(exported, rows):
    sound = tf.saved_model.load(str(exported / "sound"))
    for x in (rows, None):
        expect_pass(BATCH, sound, x)
    result = expect_pass(PURE, sound, rows)
    assert "6 variables of 2 layers" in result.summary
    baked = tf.saved_model.load(str(exported / "baked"))
    finding = expect_failure(BATCH, baked, rows, rule="BN101")
    assert finding.evidence["fails"] == ["serving_default", "serve(x)"]
    expect_failure(PURE, baked, rows, rule="BN001", layer="saved_model/bn")


def test_what_an_export_cannot_offer_is_said(exported, rows):
    loaded = tf.saved_model.load(str(exported / "sound"))
    for check in (AGREE, FROZEN):
        result = expect_verdict(check, "not applicable", loaded, rows)
        assert "saved without a training mode" in result.summary
    assert "shows no layers" in expect_verdict(HEALTH, "not applicable", loaded).summary


@pytest.mark.thorough
def test_a_single_signature(exported, rows):
    for name, faulty in (("sound", False), ("baked", True)):
        loaded = tf.saved_model.load(str(exported / name))  # it keeps the variables alive
        signature = loaded.signatures["serving_default"]
        if faulty:
            expect_failure(BATCH, signature, rows, rule="BN101")
        else:
            expect_pass(BATCH, signature, rows)


@pytest.mark.thorough
def test_an_endpoint_that_an_archive_added(tmp_path, rows):
    """Of `model.call`, whose mode is left out in its only trace: it can't be told."""
    for told, faulty in (({}, False), ({"training": True}, True)):
        archive, folder = keras.export.ExportArchive(), str(tmp_path / str(faulty))
        model = model_of(keras, **told)
        archive.track(model)
        archive.add_endpoint("serve", model.call, [tf.TensorSpec((None, 4), tf.float32)])
        archive.write_out(folder, **silent(archive.write_out))
        loaded = tf.saved_model.load(folder)
        for subject in (loaded, loaded.serve):
            if faulty:
                expect_failure(BATCH, subject, rows, rule="BN101")
                expect_failure(PURE, subject, rows, rule="BN001")
            else:
                expect_pass(BATCH, subject, rows)
                expect_pass(PURE, subject, rows)


@pytest.mark.thorough
def test_a_layer_made_of_a_saved_model(exported, rows):
    for name, faulty in (("sound", False), ("baked", True)):
        layer = keras.layers.TFSMLayer(str(exported / name), name="served")
        inputs = keras.Input((4,))
        for subject in (layer, keras.Model(inputs, layer(inputs))):
            if faulty:
                expect_failure(BATCH, subject, rows, rule="BN101", layer="served")
            else:
                expect_pass(BATCH, subject, rows)
                expect_pass(PURE, subject, rows)


@pytest.mark.thorough
def test_a_saved_model_with_both_modes(tmp_path, rows):
    model = model_of(tf_keras)
    for _ in range(3):
        model(rows, training=True)
    model.save(str(tmp_path / "both"), save_format="tf")
    loaded = tf.saved_model.load(str(tmp_path / "both"))
    expect_pass(BATCH, loaded, rows)
    expect_failure(AGREE, loaded, rows, updates=3, rule="BN201", layer="saved_model/bn")


def test_a_module_that_was_saved(tmp_path, rows):
    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4])])
        def __call__(self, x):
            return x - tf.reduce_mean(x, 0)

    tf.saved_model.save(Net(), str(tmp_path / "net"))
    loaded = tf.saved_model.load(str(tmp_path / "net"))
    finding = expect_failure(BATCH, loaded, rule="BN101")
    assert finding.evidence["fails"] == ["serving_default", "model(x)"]


@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_was_saved_in_one_mode(tmp_path, rows, training):
    """It can be called in that mode and in no other."""

    class Net(tf.Module):
        def __init__(self):
            self.mean = tf.Variable(tf.ones(4), trainable=False)

        @tf.function
        def __call__(self, x, training=False):
            return x - (tf.reduce_mean(x, 0) if training else self.mean)

    net = Net()
    served = net.__call__.get_concrete_function(tf.TensorSpec([None, 4]), training=training)
    tf.saved_model.save(net, str(tmp_path / "net"), signatures=served)
    loaded = tf.saved_model.load(str(tmp_path / "net"))
    if training:
        finding = expect_failure(BATCH, loaded, rows, rule="BN101")
        assert finding.evidence["fails"] == ["serving_default", "model(x)"]
    else:
        expect_pass(BATCH, loaded, rows)


@pytest.mark.thorough
def test_signatures_that_are_functions_of_their_own(tmp_path, rows):
    """They need not say what the call says; each is pure and keeps its rows apart, or is not."""

    def exported(faulty):
        class Net(tf.Module):
            def __init__(self):
                self.weights = tf.Variable(rows[:4].T)
                self.count = tf.Variable(0.0)

            @tf.function(input_signature=[tf.TensorSpec([None, 4])])
            def __call__(self, x):
                return tf.nn.softmax(x @ self.weights)

            @tf.function(input_signature=[tf.TensorSpec([None, 4])])
            def embed(self, x):
                x = x - tf.reduce_mean(x, 0) if faulty == "rows meet" else x
                if faulty == "counts":
                    self.count.assign_add(1.0)
                return {"embedding": x @ self.weights[:, :3] + self.count}

            @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
            def about(self, name):
                return {"about": name}

        net, folder = Net(), str(tmp_path / faulty)
        served = net.__call__.get_concrete_function()
        signatures = {"serving_default": served, "embed": net.embed, "about": net.about}
        tf.saved_model.save(net, folder, signatures=signatures)
        return tf.saved_model.load(folder)

    sound = exported("sound")
    assert "not judged: about" in str(expect_pass(BATCH, sound, rows).notes)
    notes = str(expect_pass(PURE, sound, rows).notes)
    assert "embed is a function of its own: not compared with the others" in notes
    assert "not run: about" in notes
    found = expect_failure(BATCH, exported("rows meet"), rows, rule="BN101")
    assert found.evidence["fails"] == ["embed"]
    assert found.remedy.endswith("in embed")
    expect_failure(PURE, exported("counts"), rows, rule="BN001")
