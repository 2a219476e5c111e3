"""Loss and metrics of given outputs are those that `evaluate` tells, output by output."""

import numpy as np
import pytest

from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.models import subject_of


@pytest.mark.parametrize("named", [True, False])
def test_each_output_has_its_own_loss(k, named):
    rng = np.random.default_rng(0)
    inputs = k.Input((4,))
    size, kind = k.layers.Dense(1, name="size"), k.layers.Dense(3, "softmax", name="kind")
    outputs = {"size": size(inputs), "kind": kind(inputs)}
    model = k.Model(inputs, outputs if named else list(outputs.values()))
    losses = {"size": "mse", "kind": "sparse_categorical_crossentropy"}
    model.compile("sgd", losses, metrics={"kind": ["accuracy"]})
    x = rng.standard_normal((16, 4), np.float32)
    y = {"size": x[:, :1], "kind": rng.integers(0, 3, 16)}
    told = model.evaluate(x, y if named else list(y.values()), verbose=0, return_dict=True)
    given = model.predict(x, verbose=0)

    scores = subject_of(model).scores(Data(x, y if named else list(y.values())), given)

    assert scores == pytest.approx(told, rel=1e-4)
    # Keras 3.0 tells no losses of single outputs.
    assert scores.get("size_loss", scores["loss"]) > 0
    assert next(iter(scores)) == "loss"
