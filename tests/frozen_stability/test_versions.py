"""How training treats what is frozen, by generation of Keras: the table of the docs, measured.

Run as a program, it writes the table into docs/reference/versions.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.normalization import batch_normalization_v1 as v1

from pytest_bnconsistency import check_consistency

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "versions.md"
START, END = "<!-- measured -->\n", "<!-- end -->\n"
X = np.random.default_rng(0).standard_normal((8, 4), np.float32) + 2
Y = np.arange(8) % 3


@dataclass(frozen=True)
class Generation:
    name: str
    k: Any
    normaliser: Any


def short(version: str) -> str:
    return ".".join(version.split(".")[:2])


GENERATIONS = (
    Generation(f"Keras {short(keras.__version__)}", keras, keras.layers.BatchNormalization),
    Generation(
        f"tf_keras {short(tf_keras.__version__)}, V2", tf_keras, tf_keras.layers.BatchNormalization
    ),
    Generation(f"tf_keras {short(tf_keras.__version__)}, V1", tf_keras, v1.BatchNormalization),
)


def transfer(g: Generation, **told: Any) -> tuple[Any, Any]:
    """A compiled model with a base, and the base's normalization layer."""
    k = g.k
    bn = g.normaliser(name="bn")
    base = k.Sequential([k.Input((4,)), k.layers.Dense(4, name="dense"), bn], name="base")
    inputs = k.Input((4,))
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax")(base(inputs, **told)))
    compiled(model)
    return model, bn


def compiled(model: Any) -> None:
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)


def fit(model: Any, rows: int = 8) -> None:
    model.fit(X[:rows], Y[:rows], batch_size=rows, shuffle=False, verbose=0)


def moves(model: Any, bn: Any, rows: int = 8) -> bool:
    before = np.asarray(bn.moving_mean)
    fit(model, rows)
    return not np.array_equal(before, np.asarray(bn.moving_mean))


def said(model: Any) -> str:
    """What `frozen_stability` says: the rules, or the verdict."""
    result = check_consistency(model, X, Y, checks=["frozen_stability"])["frozen_stability"]
    return ", ".join(f.rule for f in result.findings) or str(result.verdict)


def moves_and_said(model: Any, bn: Any) -> str:
    verdict = said(model)
    return f"{'yes' if moves(model, bn) else 'no'} ({verdict})"


def inference_call(g: Generation) -> str:
    model, bn = transfer(g, training=False)
    return moves_and_said(model, bn)


def frozen_before_fit(g: Generation) -> str:
    model, bn = transfer(g)
    bn.trainable = False
    return moves_and_said(model, bn)


def frozen_after_fit(g: Generation) -> str:
    model, bn = transfer(g)
    fit(model)
    bn.trainable = False
    return moves_and_said(model, bn)


def frozen_after_fit_new_shape(g: Generation) -> str:
    model, bn = transfer(g)
    fit(model)
    bn.trainable = False
    return "yes" if moves(model, bn, rows=6) else "no"


def frozen_and_compiled_again(g: Generation) -> str:
    model, bn = transfer(g)
    fit(model)
    bn.trainable = False
    compiled(model)
    return moves_and_said(model, bn)


def frozen_normalises_by(g: Generation) -> str:
    model, bn = transfer(g)
    bn.trainable = False
    compiled(model)
    told = np.asarray(bn(X, training=True)), np.asarray(bn(X, training=False))
    same = np.allclose(*told, atol=1e-5)
    return f"{'what is stored' if same else 'the batch'} ({said(model)})"


def child_left_trainable(g: Generation) -> str:
    model, bn = transfer(g)
    model.layers[1].trainable = False
    bn.trainable = True
    compiled(model)
    return moves_and_said(model, bn)


def unfrozen_by_parent(g: Generation) -> str:
    model, bn = transfer(g)
    model.layers[1].trainable = False
    model.layers[1].trainable = True
    compiled(model)
    return "yes" if moves(model, bn) else "no"


def no_training_argument(g: Generation) -> str:
    class Own(g.k.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.head = g.normaliser(), g.k.layers.Dense(3, activation="softmax")

        def call(self, x: Any) -> Any:
            return self.head(self.bn(x))

    model = Own()
    model(X)
    compiled(model)
    return "yes" if moves(model, model.bn) else "no"


def corrected_variance(g: Generation) -> str:
    bn = g.normaliser(momentum=0.0)
    x = np.random.default_rng(0).standard_normal((2, 2, 2, 1), np.float32)
    bn(x, training=True)
    stored, plain = float(np.asarray(bn.moving_variance)[0]), float(x.var())
    return "yes" if abs(stored - plain * 8 / 7) < abs(stored - plain) else "no"


ROWS = {
    "`base(x, training=False)`, base trainable: `fit` moves its statistics": inference_call,
    "frozen after `compile`, before the first `fit`: `fit` moves it": frozen_before_fit,
    "frozen after `fit`, not compiled again: `fit` moves it": frozen_after_fit,
    "the same, in a batch size that was never fitted": frozen_after_fit_new_shape,
    "frozen after `fit` and compiled again: `fit` moves it": frozen_and_compiled_again,
    "a frozen normalization layer in training mode normalises by": frozen_normalises_by,
    "a layer made trainable under a frozen parent: `fit` moves it": child_left_trainable,
    "`base.trainable = True` makes its normalization layers trainable": unfrozen_by_parent,
    "a subclass with `call(self, x)`: `fit` moves its normalization layers": no_training_argument,
    "the moving variance carries N/(N-1) (4-D inputs)": corrected_variance,
}


QUICK = (inference_call, frozen_normalises_by)


def row(text: str) -> str:
    return f"| {text} | " + " | ".join(ROWS[text](g) for g in GENERATIONS) + " |\n"


def table() -> str:
    names = "| behaviour | " + " | ".join(g.name for g in GENERATIONS) + " |\n"
    return names + "|---" * (len(GENERATIONS) + 1) + "|\n" + "".join(map(row, ROWS))


def written() -> str:
    return PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]


@pytest.fixture
def same_versions() -> None:
    names = ", ".join(g.name for g in GENERATIONS)
    if not all(f"| {g.name} |" in written() for g in GENERATIONS):
        told = re.search(r"\| behaviour \| (.*) \|", written())
        pytest.skip(f"the table is of {told and told[1]}; here are {names}")


@pytest.mark.thorough
@pytest.mark.usefixtures("same_versions")
@pytest.mark.parametrize("text", [text for text, measure in ROWS.items() if measure in QUICK])
def test_a_row_of_the_docs_is_what_is_measured(text: str) -> None:
    assert row(text) in written()


@pytest.mark.slow
@pytest.mark.usefixtures("same_versions")
def test_the_table_of_the_docs_is_what_is_measured() -> None:
    assert table() == written()


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(before + START + table() + END + after, encoding="utf-8")
