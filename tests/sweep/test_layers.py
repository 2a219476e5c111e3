"""Sound nets of a layer or two, of odd sizes and long sums: no false alarm. One line a net.

    pytest -m slow -s tests/sweep/test_layers.py

Kernels treat the ends of a batch otherwise than its middle, a single row otherwise than many, and
sums round by their length: what differs so is no dependence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pytest_bnconsistency import check_consistency

BATCHES = ((0, 8), (1, 6), (2, 5), (3, 3), (4, 9))
"""Seeds and numbers of rows."""

Net = tuple[tuple[int, ...], Callable[[Any], list[Callable[[], Any]]]]

LAYERS: dict[str, Net] = {
    "a few odd units": ((4, 1), lambda la: [lambda: la.LSTM(3)]),
    "LSTM": ((50, 8), lambda la: [lambda: la.LSTM(32)]),
    "GRU": ((100, 7), lambda la: [lambda: la.GRU(33, return_sequences=True)]),
    "both directions": (
        (60, 5),
        lambda la: [
            lambda: la.Bidirectional(la.LSTM(9, return_sequences=True)),
            lambda: la.Bidirectional(la.GRU(5)),
        ],
    ),
    "recurrence": ((50, 5), lambda la: [lambda: la.SimpleRNN(17, activation="relu")]),
    "a long sum": ((4096,), lambda la: [lambda: la.Dense(7)]),
    "one long sum": ((20000,), lambda la: [lambda: la.Dense(1)]),
    "long sums that saturate": ((4096,), lambda la: [lambda: la.Dense(7, activation="sigmoid")]),
    "many classes": ((4096,), lambda la: [lambda: la.Dense(1000, activation="softmax")]),
    "pooling": (
        (64, 64, 5),
        lambda la: [lambda: la.Conv2D(8, 3), lambda: la.GlobalAveragePooling2D()],
    ),
    "layer norm": ((513,), lambda la: [lambda: la.LayerNormalization(), lambda: la.Dense(5)]),
    "group norm": (
        (12, 12, 6),
        lambda la: [lambda: la.GroupNormalization(3), lambda: la.Flatten(), lambda: la.Dense(3)],
    ),
    "transposed": (
        (9, 9, 3),
        lambda la: [lambda: la.Conv2DTranspose(5, 3, strides=2), lambda: la.Conv2D(3, 3)],
    ),
    "separable": (
        (17, 17, 3),
        lambda la: [lambda: la.DepthwiseConv2D(3), lambda: la.SeparableConv2D(5, 3)],
    ),
    "dilated": (
        (101, 3),
        lambda la: [lambda: la.Conv1D(7, 9, dilation_rate=2), lambda: la.GlobalMaxPooling1D()],
    ),
    "volumes": (
        (7, 9, 8, 2),
        lambda la: [lambda: la.Conv3D(5, 3), lambda: la.Flatten(), lambda: la.Dense(3)],
    ),
    "deep": ((31,), lambda la: 40 * [lambda: la.Dense(31, activation="tanh")]),
    "deep with batch norm": (
        (31,),
        lambda la: 20 * [lambda: la.Dense(31), lambda: la.BatchNormalization()],
    ),
}

OPERATIONS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "cumsum": (1000, lambda x: tf.cumsum(x, 1)),
    "cumprod": (300, lambda x: tf.math.cumprod(1 + x * 0.1, 1)),
    "fft": (513, lambda x: tf.abs(tf.signal.rfft(x))),
    "exp": (37, lambda x: tf.exp(3 * x)),
    "pow": (37, lambda x: tf.pow(tf.abs(x), 2.7)),
    "logsumexp": (1037, lambda x: tf.reduce_logsumexp(x, 1, keepdims=True)),
    "variance of large numbers": (
        1037,
        lambda x: tf.math.reduce_variance(1000 + x, 1, keepdims=True),
    ),
    "sum": (5037, lambda x: tf.reduce_sum(x, 1, keepdims=True)),
    "gelu": (37, tf.nn.gelu),
    "cancelling": (37, lambda x: tf.math.erf(x) / (1e-3 + tf.abs(x))),
    "fast waves": (37, lambda x: tf.sin(100 * x)),
    "l2": (137, lambda x: tf.math.l2_normalize(x, 1)),
    "near zero": (37, lambda x: 1 / (x + 1e-3)),
    "steps": (37, lambda x: tf.round(x * 3)),
    "choice": (37, lambda x: tf.one_hot(tf.argmax(x, 1), 37)),
    "largest": (37, lambda x: tf.math.top_k(x, 5)[0]),
    "sorted": (37, lambda x: tf.sort(x, 1)),
    "singular values": (36, lambda x: tf.linalg.svd(tf.reshape(x, (-1, 6, 6)), compute_uv=False)),
    "row by row": (36, lambda x: tf.map_fn(tf.math.softmax, x)),
}


def agrees(k: Any, name: str, shape: tuple[int, ...], build: Callable[[Any], Any]) -> None:
    worst = 0.0
    for seed, rows in BATCHES:
        k.utils.set_random_seed(seed)
        inputs = k.Input(shape)
        model = k.Model(inputs, build(inputs))
        x = np.random.default_rng(seed).standard_normal((rows, *shape)).astype(np.float32)
        report = check_consistency(
            model, x, checks=["batch_invariance", "inference_purity"], rows=rows, seed=seed
        )
        assert report.ok, report
        worst = max(worst, report["batch_invariance"].evidence["margin"])
        k.backend.clear_session()
    print(f"\n{k.__name__:<9} {name:<26} margin {worst:.2f}", end="", flush=True)


DEFAULT = ("a few odd units", "one long sum", "many classes")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in LAYERS]
)
def test_layers_round_by_size_and_place(k, name):
    shape, make = LAYERS[name]

    def build(h):
        for layer in make(k.layers):
            h = layer()(h)
        return h

    agrees(k, name, shape, build)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_round_by_size_and_place(k, name):
    size, operation = OPERATIONS[name]

    class Own(k.layers.Layer):
        def call(self, x):
            return operation(x)

    agrees(k, name, (size,), lambda h: k.layers.Dense(3)(Own()(h)))
