"""Models of several inputs, each preprocessed in its own way since training."""

import numpy as np
import pytest

from pytest_bnconsistency.testing import expect_failure, expect_pass

CHECK, SHIFT = "train_eval_agreement", "BN209"
ROWS = 384
pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def rows():
    """A table and small images; each tells one half of the class."""
    rng = np.random.default_rng(3)
    y = np.arange(ROWS) % 4
    table = rng.normal(0, 1, (ROWS, 6)) * rng.uniform(0.5, 4, 6) + rng.normal(0, 3, 6)
    table[:, :2] += 3 * np.eye(2)[y // 2]
    images = rng.uniform(0, 0.6, (ROWS, 12, 12, 3))
    images[np.arange(ROWS), :, :, y % 2] += 0.15
    return {"table": table.astype(np.float32), "image": images.astype(np.float32)}, y


def trained(k, model, loss, x, y, epochs=20):
    """Fast first, then so slowly that the statistics follow."""
    model.compile(k.optimizers.Adam(5e-3), loss)
    model.fit(x, y, epochs=epochs, verbose=0)
    model.optimizer.learning_rate.assign(1e-4)
    model.fit(x, y, epochs=6, verbose=0)
    return model


def branch(k, name, hidden, given):
    normalised = k.layers.BatchNormalization(momentum=0.9, name=f"bn_{name}")(hidden(given))
    return k.layers.ReLU()(normalised)


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def model(request, rows):
    k = pytest.importorskip(request.param)
    k.utils.set_random_seed(0)
    table, image = k.Input((6,), name="table"), k.Input((12, 12, 3), name="image")
    of_table = branch(k, "table", k.layers.Dense(32), table)
    of_image = branch(k, "image", k.layers.Conv2D(8, 3, strides=2), image)
    both = [of_table, k.layers.GlobalAveragePooling2D()(of_image)]
    joined = branch(k, "both", k.layers.Dense(32), k.layers.Concatenate()(both))
    model = k.Model({"table": table, "image": image}, k.layers.Dense(4)(joined))
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    return trained(k, model, loss, *rows, epochs=15)


def standardised(x):
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def changed(x, **changes):
    return {name: changes.get(name, np.asarray)(value) for name, value in x.items()}


def test_each_input_in_its_own_way(model, rows):
    x, y = rows
    given = changed(x, table=standardised, image=lambda image: 255 * image)
    finding = expect_failure(CHECK, model, given, y, rule=SHIFT, cause_tested=True)
    assert "x / 255 for input 'image'" in finding.cause
    assert "the features before they were standardised for input 'table'" in finding.cause
    expect_pass(CHECK, model, x, y)


def test_one_input_of_two(model, rows):
    x, y = rows
    for name, change in (("table", standardised), ("image", lambda image: 127.5 * image + 127.5)):
        given = changed(x, **{name: change})
        finding = expect_failure(CHECK, model, given, y, rule=SHIFT, cause_tested=True)
        assert finding.layer == f"bn_{name}"
        assert f"for input '{name}': this data" in finding.cause


def test_all_inputs_in_one_way(model, rows):
    x, y = rows
    given = changed(x, table=lambda table: 255 * table, image=lambda image: 255 * image)
    finding = expect_failure(CHECK, model, given, y, rule=SHIFT, cause_tested=True)
    assert "those of x / 255: this data" in finding.cause


def test_statistics_of_one_branch_are_no_matter_of_its_input(model, rows):
    before, layer = model.get_weights(), model.get_layer("bn_image")
    layer.moving_variance.assign(layer.moving_variance[::-1] * np.arange(1, 9))
    expect_failure(CHECK, model, *rows, rule="BN204", layer="bn_image", cause_tested=False)
    model.set_weights(before)


def test_inputs_that_share_their_statistics(k):
    rng = np.random.default_rng(5)
    first, second = (rng.normal(2, 1, (ROWS, 6)).astype(np.float32) for _ in range(2))
    y = first[:, :1] - second[:, :1]
    k.utils.set_random_seed(0)
    inputs = [k.Input((6,), name="first"), k.Input((6,), name="second")]
    joined = branch(k, "both", k.layers.Dense(32), k.layers.Concatenate()(inputs))
    model = k.Model(inputs, k.layers.Dense(1)(joined))
    trained(k, model, "mse", [first, second], y)
    given = [first, 255 * second]
    finding = expect_failure(
        CHECK, model, given, y, rule=SHIFT, layer="bn_both", cause_tested=True
    )
    assert "those of x / 255 for input 'second': this data" in finding.cause
    given = [255 * first, 255 * second]
    finding = expect_failure(
        CHECK, model, given, y, rule=SHIFT, layer="bn_both", cause_tested=True
    )
    assert "those of x / 255: this data" in finding.cause
    expect_pass(CHECK, model, [first, second], y)


def test_inputs_in_a_nest_are_told_by_what_leads_to_them(k):
    class Net(k.Model):
        def __init__(self):
            super().__init__()
            self.hidden = [k.layers.Dense(32), k.layers.Dense(32)]
            self.bn = [k.layers.BatchNormalization(momentum=0.9) for _ in range(2)]
            self.joined, self.last = k.layers.Concatenate(), k.layers.Dense(1)

        def call(self, x, training=None):
            given = [x["rows"]["<left>"], x["rows"]["right"]]
            parts = zip(self.hidden, self.bn, given, strict=True)
            return self.last(
                self.joined([bn(h(part), training=training) for h, bn, part in parts])
            )

    rng = np.random.default_rng(5)
    left, right = (rng.normal(2, 1, (ROWS, 6)).astype(np.float32) for _ in range(2))
    x, y = {"rows": {"<left>": left, "right": right}}, left[:, :1] - right[:, :1]
    k.utils.set_random_seed(0)
    model = trained(k, Net(), "mse", x, y)
    given = {"rows": {"<left>": 255 * left, "right": right / 127.5 - 1}}
    finding = expect_failure(CHECK, model, given, y, rule=SHIFT, cause_tested=True)
    assert "x / 255 for input 'rows/<left>'" in finding.cause
    assert "128 * x + 128 for input 'rows/right'" in finding.cause
    expect_pass(CHECK, model, x, y)
