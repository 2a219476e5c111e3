"""A failure costs a few traces more than a pass, and its explanation ends when its time is up."""

import functools
import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import Stepping

from pytest_bnconsistency import Verdict, check_consistency, recalibrate
from pytest_bnconsistency.checks import budget
from pytest_bnconsistency.checks.budget import Tries, diagnosing
from pytest_bnconsistency.context import Door, Progress, door
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.settings import resolve
from pytest_bnconsistency.testing import expect_failure, expect_pass

LITTLE = 1e-9
"""Seconds: time for the first try, and for no other."""
TRACES, RUNS = 5, 4
"""Traces, and runs outside of a trace, that a failure may take for each of a pass."""


class Less(keras.layers.Layer):
    def call(self, x):
        return x - 0.1 * keras.ops.mean(x, axis=0, keepdims=True)


def less(h, name="less"):
    return Less(name=name)(h)


def told(h, name="told"):
    return keras.layers.BatchNormalization(name=name)(h, training=True)


def deep(fault=None, defaults=False):
    """Twelve blocks with wide outputs; `fault` is a layer in the fifth."""
    layers = keras.layers
    inputs = h = keras.Input((8, 8, 2))
    for block in range(12):
        h = layers.Conv2D(4, 3, padding="same")(h)
        if fault is not None and block == 4:
            h = fault(h)
        if defaults:
            h = layers.Resizing(8, 8, name=f"resize{block}")(h)
        kept = layers.BatchNormalization(name=f"bn{block}", trainable=False)
        last = layers.BatchNormalization(name="bn")
        h = layers.ReLU()((last if defaults and block == 11 else kept)(h))
    return keras.Model(inputs, layers.UpSampling2D(4)(h))


@pytest.fixture
def made(monkeypatch):
    """How many traces were made, and how many runs outside of one."""
    counts = {"traces": 0, "runs": 0}
    trace, run = Pass._trace, Pass.run

    def counted_trace(self, x):
        counts["traces"] += 1
        trace(self, x)

    def counted_run(self, x, keep=False):
        counts["runs"] += not self.is_traced
        return run(self, x, keep)

    monkeypatch.setattr(Pass, "_trace", counted_trace)
    monkeypatch.setattr(Pass, "run", counted_run)
    return counts


@pytest.fixture
def passing(made):
    """What a healthy model of the same size takes."""
    expect_pass("batch_invariance", deep())
    taken = dict(made)
    made.update(traces=0, runs=0)
    return taken


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fault", "rule", "layer"), [(less, "BN101", "less"), (told, "BN102", "told")]
)
def test_a_failure_takes_few_traces(made, passing, fault, rule, layer):
    model = deep(fault)
    expect_failure("batch_invariance", model, rule=rule, layer=layer, cause_tested=True)
    assert made["traces"] <= TRACES * passing["traces"]
    assert made["runs"] <= RUNS * passing["runs"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "checks",
    [["frozen_stability", "statistics_health"], ["train_eval_agreement", "frozen_stability"]],
)
def test_layers_that_draw_are_looked_for_once(made, checks):
    x = np.random.default_rng(0).standard_normal((12, 4), np.float32)

    def traces(drawing):
        inputs = keras.Input((4,))
        h = keras.layers.BatchNormalization(trainable=False)(inputs)
        h = keras.layers.BatchNormalization()(drawing(h))
        model = keras.Model(inputs, keras.layers.Dense(1)(h))
        model.compile("sgd", "mse")
        model.fit(x, x[:, :1], epochs=1, verbose=0)
        made.update(traces=0)
        check_consistency(model, x, x[:, :1], checks=checks)
        return made["traces"]

    assert traces(keras.layers.Dropout(0.5, seed=0)) == traces(keras.layers.ReLU()) + 1


@pytest.mark.thorough
def test_the_noise_of_one_row_tells_that_sizes_matter(made):
    layers = keras.layers
    inputs = h = keras.Input((8, 8, 2))
    h = layers.Conv2D(4, 3, padding="same")(h)
    h = layers.Lambda(lambda h: h * keras.ops.cast(keras.ops.shape(h)[0], "float32"))(h)
    model = keras.Model(inputs, layers.Conv2D(4, 3)(h))
    expect_failure("batch_invariance", model, rule="BN104", cause_tested=True, examples=0)
    assert made["runs"] <= 2 * 8 + 4  # a look, the row itself, and where it begins


@pytest.mark.thorough
def test_not_every_layer_that_defaults_to_training_takes_a_trace(made, passing):
    model = deep(defaults=True)
    cause = "because resize11's call defaults to training=True"
    expect_failure("batch_invariance", model, rule="BN102", layer="bn", cause_contains=cause)
    assert made["traces"] <= TRACES * passing["traces"]


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [0, LITTLE])
@pytest.mark.parametrize(
    ("fault", "rules", "layer"),
    [(less, {0: "BN101", LITTLE: "BN101"}, "less"), (told, {0: "BN101", LITTLE: "BN102"}, "told")],
)
def test_mixed_rows_without_time_for_their_cause(x, fault, rules, layer, seconds):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(fault(inputs)))
    tested = rules[seconds] == "BN102"
    finding = expect_failure(
        "batch_invariance",
        model,
        x,
        rule=rules[seconds],
        layer=layer,
        cause_tested=tested,
        diagnosis_seconds=seconds,
    )
    assert tested or f"not established within {seconds:g} s" in finding.cause
    assert tested or "give a larger diagnosis_seconds for more" in finding.cause
    expect_failure("batch_invariance", model, x, rule=rules[LITTLE], cause_tested=True)


@pytest.mark.thorough
def test_sizes_without_time_for_their_cause(x):
    inputs = keras.Input((4,))
    counted = keras.layers.Lambda(lambda x: x * keras.ops.cast(keras.ops.shape(x)[0], "float32"))
    model = keras.Model(inputs, counted(inputs))
    finding = expect_failure(
        "batch_invariance", model, x, rule="BN104", cause_tested=False, diagnosis_seconds=0
    )
    assert "not established within 0 s; nothing was tried" in finding.cause
    expect_failure("batch_invariance", model, x, rule="BN104", cause_tested=True)


def stale():
    """A classifier whose statistics are four times and a deviation off, and its data."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (256, 4)).astype(np.float32)
    y = (x[:, 0] > 3).astype(np.int32) + (x[:, 1] > 3)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(momentum=0.9, name="bn")]
    head = [keras.layers.ReLU(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((4,)), *layers, *head])
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, epochs=5, batch_size=32, verbose=0)
    recalibrate(model, x)
    bn = model.get_layer("bn")
    bn.moving_mean.assign_add(2 * np.sqrt(bn.moving_variance))
    return model, x, y


@pytest.mark.thorough
def test_a_disagreement_without_time_for_its_cause():
    model, x, y = stale()
    finding = expect_failure(
        "train_eval_agreement",
        model,
        x,
        y,
        rule="BN204",
        layer="bn",
        cause_tested=False,
        diagnosis_seconds=0,
    )
    assert "not established within 0 s" in finding.cause
    assert finding.table.rows[0][1] == "?"


@pytest.mark.thorough
def test_frozen_state_that_moves_without_time_for_its_cause(x):
    base = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(base(inputs, training=False)))
    model.compile("sgd", "mse")
    y = np.zeros((8, 3), np.float32)
    for seconds, tested in ((0, False), (60, True)):
        expect_failure(
            "frozen_stability",
            model,
            x,
            y,
            rule="BN303",
            cause_tested=tested,
            diagnosis_seconds=seconds,
        )


def plain(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))


class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x if tf.executing_eagerly() else x


class Counting(keras.layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1)
        return x


def dropped(h):
    return keras.layers.Dropout(0.5, name="dropped")(h, training=True)


ANEW = "the code run anew"


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [0, LITTLE])
@pytest.mark.parametrize(
    ("fault", "rule", "layer", "first"),
    [
        (told, "BN001", "told", ANEW),
        (Counting(name="counting"), "BN001", "counting", ANEW),
        (dropped, "BN002", "dropped", ""),
        (Twice(name="twice"), "BN003", None, ANEW),
    ],
    ids=["told", "counting", "dropped", "twice"],
)
def test_impure_inference_without_time_for_its_cause(x, fault, rule, layer, first, seconds):
    model = plain(fault)
    before = [weight.numpy() for weight in model.weights]
    tested = bool(seconds) and not first  # one try is all it takes
    finding = expect_failure(
        "inference_purity",
        model,
        x,
        rule=rule,
        layer=layer,
        cause_tested=tested,
        diagnosis_seconds=seconds,
    )
    made = f"tried: {first}" if seconds else "nothing was tried"
    cause = f"not established within {seconds:g} s; {made}; give a larger diagnosis_seconds"
    assert tested or cause in finding.cause
    assert tested or not finding.tested
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    expect_failure("inference_purity", model, x, rule=rule, cause_tested=True)


class OfItsOwn(keras.Model):
    """Its `predict_step` calls itself in a mode, and doubles what that gives."""

    mode, factor = False, 2

    def predict_step(self, data):
        return self.factor * self(data[0] if isinstance(data, tuple) else data, training=self.mode)


def own_step(mode, factor):
    inputs = keras.Input((4,))
    normalised = keras.layers.BatchNormalization(name="bn")(inputs)
    model = OfItsOwn(inputs, keras.layers.Dense(3)(normalised))
    model.mode, model.factor = mode, factor
    return model


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [0, LITTLE, 60])
def test_the_verdict_on_a_step_of_the_models_own_takes_its_time(x, seconds):
    options = {"checks": ["inference_purity"], "diagnosis_seconds": seconds}
    result = check_consistency(own_step(False, 2), x, **options)["inference_purity"]
    assert result.verdict is Verdict.PASSED
    assert [warning.cause_tested for warning in result.warnings] == [True]
    tested = seconds == 60
    model = own_step(True, 1)
    finding = expect_failure(
        "inference_purity", model, x, rule="BN001", cause_tested=tested, diagnosis_seconds=seconds
    )
    assert tested or "not established within" in finding.cause


class InInference(Stepping):
    mode = False


@pytest.mark.thorough
def test_statistics_never_updated_without_time_for_their_cause():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (64, 4)).astype(np.float32)
    y = (x[:, 0] > 3).astype(np.int32)
    inputs = keras.Input((4,))
    h = keras.layers.BatchNormalization(name="bn")(inputs)
    model = InInference(inputs, keras.layers.Dense(2, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=2, verbose=0)
    for seconds, text in (
        (0, "not established within 0 s; nothing was tried"),
        (60, "of the mod"),
    ):
        expect_failure(
            "train_eval_agreement",
            model,
            x,
            y,
            rule="BN203",
            layer="bn",
            cause_tested=seconds > 0,
            cause_contains=text,
            diagnosis_seconds=seconds,
        )


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [0, 60])
def test_steps_are_not_run_for_warnings_without_time(seconds):
    model, x, y = stale()
    options = {"checks": ["train_eval_agreement"], "diagnosis_seconds": seconds}
    result = check_consistency(model, x, y, **options)["train_eval_agreement"]
    assert result.verdict is Verdict.FAILED
    told = result.evidence["updates_per_step"]
    assert told == ({"bn": 1.0} if seconds else "no time was left for real steps")


def test_flags_set_midway_without_time_for_their_cause(x):
    base = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn")])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(base(inputs)))
    base.trainable = False
    model.compile("sgd", "mse")
    y = np.zeros((8, 3), np.float32)

    def step(x, y):
        base.layers[-1].trainable = True
        base(x, training=True)

    for seconds in (0, 60):
        expect_failure(
            "frozen_stability",
            model,
            x,
            y,
            train_step=step,
            rule="BN301",
            cause_tested=seconds > 0,
            diagnosis_seconds=seconds,
        )


def test_the_time_is_for_all_tries_together():
    with diagnosing(0):
        assert not Tries().may("this")
    with diagnosing(LITTLE):
        first, second = Tries(), Tries()
        assert first.may("this")
        assert not second.may("that")
        assert first.cut  # its own tries were made in time, but not what stands beside them
        later = Tries()
        assert not later.cut
        assert later.without_cause("all was tried") == "all was tried"
    with diagnosing(60):
        assert Tries().may("this")


def test_an_error_of_our_own_ends_a_try_and_no_verdict():
    tries = Tries()
    assert tries.found("this", lambda: [1], []) == [1]
    assert tries.complete
    with pytest.warns(UserWarning, match=r"\(that\): ZeroDivisionError: .*test_cost.*report"):
        assert tries.found("that", lambda: [1 // 0], []) == []
    assert not tries.complete
    assert "ended what was tried: that" in tries.without_cause("not established")


@pytest.mark.parametrize(
    ("worked", "passed", "left"),
    [(1, 3, True), (3, 3, False), (9, 1, True), (0, 7, True), (0, 8, False)],
)
def test_a_busy_machine_takes_little_of_the_time(worked, passed, left, monkeypatch):
    clocks = iter([0, passed]), iter([0, worked])
    clock, processor = (functools.partial(next, times) for times in clocks)
    time = SimpleNamespace(monotonic=clock, process_time=processor)
    monkeypatch.setattr(budget, "time", time)
    mine = budget.Budget(2)
    assert mine.may("the first try")
    assert mine.may("another") is left


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (-1, "option 'diagnosis_seconds' is -1; expected 0 or more"),
        ("soon", "option 'diagnosis_seconds' is 'soon'; expected a number"),
        (float("nan"), "option 'diagnosis_seconds' is nan; expected a number"),
    ],
)
def test_seconds_that_are_none(given, sentence):
    with pytest.raises(OptionError, match=sentence):
        resolve({"diagnosis_seconds": given})


@pytest.mark.thorough
def test_long_work_is_told_and_short_work_is_not(monkeypatch, caplog):
    lines = []
    progress = Progress()
    monkeypatch.setattr(progress, "show", lines.append)
    with caplog.at_level(logging.INFO, "pytest_bnconsistency"), progress.of("a check"):
        progress.doing("this")
    assert caplog.messages == ["a check: this"]
    assert lines == []
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    token = door.set(Door(progress=progress))
    try:
        inputs = keras.Input((4,))
        expect_failure("batch_invariance", keras.Model(inputs, Less()(inputs)), rule="BN101")
    finally:
        door.reset(token)
    told = "batch_invariance: looking for the cause: the first layer whose rows change"
    assert told in lines
    assert lines[-1] == ""
