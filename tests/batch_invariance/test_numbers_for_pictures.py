"""What pictures show of a dependence between rows: where it begins, in which batch and size."""

import numpy as np
import pytest
import tensorflow as tf
from small_models import functional, layer_of

from pytest_bnconsistency.testing import expect_failure, expect_pass, expect_verdict

pytestmark = pytest.mark.thorough


def deep(k, function):
    def body(h):
        h = k.layers.Dense(4, activation="tanh", name="stem")(h)
        return k.layers.Dense(4, name="after")(layer_of(k, function)(h))

    return functional(k, body)


def test_where_a_difference_begins_and_how_it_goes_on(k, x):
    model = deep(k, lambda x: x + 0.1 * tf.reduce_mean(x, 0))
    found = expect_failure("batch_invariance", model, x, rule="BN101", layer="leak")
    seen, batch = found.evidence["divergence"], found.evidence["batch"]
    layers = {one["layer"]: one for one in seen["layers"]}
    assert list(layers) == ["stem", "leak", "after", "head"]
    assert layers["stem"]["change"] == 0
    for name, one in layers.items():
        assert (one["change"] > 0) is (name != "stem")
        assert np.isfinite(one["share"])
    assert seen["row"] in batch["kept"]
    moved = [distance > 0 for distance in batch["moved"]]
    assert [row for row, off in enumerate(moved) if not off] == batch["kept"]
    assert any(moved)


def test_how_far_a_row_moves_in_batches_of_each_size(k, x):
    model = deep(k, lambda x: x * (1 + 1e-2 * tf.cast(tf.shape(x)[0], x.dtype)))
    failed = expect_verdict("batch_invariance", "failed", model, x)
    by_size = {one["rows"]: one for one in failed.evidence["by_size"]}
    assert by_size[1]["change"] > by_size[1]["bound"] > 0
    assert all(one["change"] > 0 for one in by_size.values())
    result = expect_pass("batch_invariance", deep(k, tf.identity), x)
    assert "divergence" not in str(result.evidence)
    sound = {one["rows"]: one for one in result.evidence["by_size"]}
    assert sorted(sound) == result.evidence["sizes"]
    assert all(one["change"] <= one["bound"] or not one["change"] for one in sound.values())
